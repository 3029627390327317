"""What the adapters of retrieval frameworks share: ranking, and the metadata that documents get."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.prompts.pair_text import Passage, query_text
from rank1_hf.reranker import Rank1
from rank1_hf.reranking.remarks import warn_of_failures
from rank1_hf.results.judgment import Judgment, ranking_key

_TOLD = ("log_odds", "label", "chain", "n_chain_tokens", "ended", "truncated", "error")

KEYS = ("relevance_score", *(f"rank1_{name}" for name in _TOLD))
"""What a document's metadata gets, in every retrieval framework."""


_PARAMETERS = inspect.signature(Rank1).parameters


def with_decoding(options: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Options of `Rank1` for an adapter that hands them on: all about decoding in one `DecodingOptions` under
    "decoding", which is left out where it is the default.

    Args:
        options: as the adapter's caller gave them; "decoding" may be text.
        owner: the adapter, which the warnings about deprecated arguments name.

    Raises:
        TypeError: there is an option that `Rank1` does not have.
        ValueError: an option of decoding makes no sense.
    """
    others = {name: value for name, value in options.items() if name in _PARAMETERS and name != "decoding"}
    old = {name: value for name, value in options.items() if name not in _PARAMETERS}
    decoding = DecodingOptions.of(options.get("decoding")).with_old_names(old, owner, stacklevel=4)
    return others if decoding == DecodingOptions() else others | {"decoding": decoding}


def metadata(judgment: Judgment) -> dict[str, Any]:
    """The metadata of a judged document: the `KEYS`, ready for JSON. A document without a score has None there,
    and `rank1_error` says why.
    """
    fields = judgment.to_dict()
    return dict(zip(KEYS, (fields["score"], *(fields[name] for name in _TOLD)), strict=True))


def check_documents(documents: Iterable[object], kind: type) -> None:
    """Refuse a list that has something else than a framework's documents.

    Raises:
        TypeError: it has; the message says which class is needed.
    """
    for each in documents:
        if not isinstance(each, kind):
            needed = f"{kind.__name__} of {kind.__module__.partition('.')[0]}"
            raise TypeError(f"this takes a list of objects of the class {needed}, not of {type(each).__name__}")


def ranked(
    model: Rank1, query: str, passages: Sequence[Passage], *, top_n: int | None, instruction: str | None
) -> list[Judgment]:
    """The judgments of one query's passages, best first, those without a score last; `index` says which passage.

    Equal scores keep the order given. Without passages there is nothing to rank, whatever the query is: pipelines run
    on where a retriever finds nothing, and, unlike `Rank1.rank`, where nothing of what it finds can be judged.

    Raises:
        PairError: the query is not usable text.
    """
    if not passages:
        return []
    query_text(query)  # raises where it is none
    pairs = [(query, passage) for passage in passages]
    judgments = model.judge(pairs, instruction=instruction, show_progress_bar=False)
    warn_of_failures(judgments)
    return sorted(judgments, key=ranking_key)[:top_n]


def failures_last(scores: Sequence[float]) -> NDArray[np.float64]:
    """The scores, where what has none (NaN) gets one below all others and below 0, so that it ranks last."""
    known = np.array(scores, dtype=np.float64)
    return np.where(np.isnan(known), np.nanmin(known, initial=0) - 1, known)
