"""The texts that a caller gave, as they were given: tokenizers normalize, so that what ids decode to may differ."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rank1_hf.prompts.pair_text import Pair, PairError, passage_text, query_text
from rank1_hf.prompts.pairs import unpack
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.results.judgment import Judgment


def pair_texts(pairs: Sequence[Pair] | None, index: int) -> tuple[str | None, str | None]:
    """A pair's query and passage; None for what is not known or is no text, which its judgment says too."""
    try:
        query, passage = unpack(pairs[index]) if pairs is not None else (None, None)
    except (IndexError, PairError):
        return None, None
    return _text_or_none(query_text, query), _text_or_none(passage_text, passage)


def _text_or_none(read: Callable[[Any], str], value: object) -> str | None:
    try:
        return read(value)
    except PairError:
        return None


def with_given_chain(judgment: Judgment, chain: str, encoder: PromptEncoder) -> Judgment:
    """The judgment of a chain that a caller has written, with that chain as it was written, and what the model has
    thought behind it.
    """
    ids, trace = encoder.chain_ids(chain), judgment.trace
    decoded = encoder.chain_text(encoder.think_ids, ids)
    if trace is not None:
        if trace.token_ids[: len(ids)] != ids:
            return judgment
        trace = replace(trace, texts=[*encoder.given_chain_texts(chain), *trace.texts[len(ids) :]])
    if not judgment.chain.startswith(decoded):
        return judgment
    return replace(judgment, chain=chain + judgment.chain[len(decoded) :], trace=trace)
