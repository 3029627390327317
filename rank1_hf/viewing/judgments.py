"""The lists that calls give: they become tables, pages, and what a notebook shows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rank1_hf.inputs.extras import from_extra
from rank1_hf.prompts.pair_text import Pair, PairError, passage_text
from rank1_hf.prompts.tables import TablePairs
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.notebook import ranking_html
from rank1_hf.viewing.printable import one_line, start
from rank1_hf.viewing.report import write_html
from rank1_hf.viewing.texts import pair_texts

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = {
    "score": "float64",
    "log_odds": "float64",
    "label": "bool_",
    "chain": "string",
    "n_prompt_tokens": "int64",
    "n_chain_tokens": "int64",
    "ended": "string",
    "truncated": "bool_",
    "error": "string",
}
"""The columns of a judged pair in tables: fields of `Judgment.to_dict`, and the Arrow type of each."""

_N_PRINTED = 10
_WIDTH = 60  # of a passage's start


class Judgments(list[Judgment]):
    """The judgments of a call, in input order: a list that can show itself, and becomes a table.

    Args:
        judgments: those of one call, or some of them.
        pairs: what was judged: a judgment's `index` is its pair's place here. None: not known, so that only chains and
            scores can be shown.
    """

    def __init__(self, judgments: Iterable[Judgment] = (), pairs: Sequence[Pair] | None = None) -> None:
        super().__init__(judgments)
        self.pairs = pairs

    def to_html(
        self,
        path: str | Path,
        *,
        other: Sequence[Judgment] | None = None,
        names: tuple[str, str] = ("this run", "other run"),
        ids: Sequence[tuple[str, str]] = (),
        qrels: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Write one HTML page that shows everything, and needs no network; see `rank1_hf.viewing.report.write_html`.

        Args:
            path: the page.
            other: judgments of the same pairs by another model or in another precision, to stand beside these.
            names: what the two runs are called.
            ids: the ids of each pair's query and document, in the order of the pairs.
            qrels: {query id: {document id: grade}}, to stand beside the pairs, which then need their ids.

        Raises:
            ValueError: there are qrels and no ids.
            OSError: the page cannot be written.
        """
        if qrels is not None and not ids:
            raise ValueError("qrels need ids, the ids of each pair's query and document")
        known = dict(enumerate(ids))
        write_html(self, path, pairs=self.pairs, other=other, names=names, ids=known, qrels=qrels)

    def to_arrow(self) -> "pa.Table":
        """A row for each judgment, in order; null where there is no score.

        The columns are score, log_odds, label, chain, n_prompt_tokens, n_chain_tokens, ended, truncated and error.
        Token ids are in traces: `[judgment.trace.token_ids for judgment in judgments]`.

        Raises:
            ImportError: pyarrow is missing.
        """
        return _table(COLUMNS, [judgment.to_dict() for judgment in self])

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each judgment, with the columns of `to_arrow`. Its index is that of the frame that was judged, so
        that it can be joined to it, or else each pair's place in the input.

        Raises:
            ImportError: pyarrow or pandas is missing.
        """
        frame = _frame(self.to_arrow())
        places = [judgment.index for judgment in self]
        labels = self.pairs.row_labels if isinstance(self.pairs, TablePairs) else None
        frame.index = places if labels is None else labels[places]
        return frame

    def __repr__(self) -> str:
        """How many there are, and a line for each of the first."""
        counts = f"{len(self)} pairs, {sum(each.label is True for each in self)} relevant"
        n_failed = sum(each.error is not None for each in self)
        heading = f"Judgments: {counts}{f', {n_failed} not judged' if n_failed else ''}"
        return _lines(heading, [(each.index, each) for each in self[:_N_PRINTED]], len(self), self.pairs)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return ranking_html(self, self.pairs)


class Ranking(list[dict[str, Any]]):
    """What `Rank1.rank` gives: a list of dicts, best first, that can show itself, and becomes a table.

    Args:
        hits: the dicts.
        judgments: what they were made of, with the pairs: all passages', in the order given.
    """

    def __init__(self, hits: Iterable[dict[str, Any]], judgments: Judgments) -> None:
        super().__init__(hits)
        self.judgments = judgments

    def to_arrow(self) -> "pa.Table":
        """A row for each dict, best first, with its keys as columns; null where there is no score. A document with a
        title is its text, "title text".

        Raises:
            ImportError: pyarrow is missing.
        """
        columns = {"corpus_id": "int64"} | {name: kind for name, kind in COLUMNS.items() if name != "n_prompt_tokens"}
        if any("text" in hit for hit in self):
            columns["text"] = "string"
        return _table(columns, [{name: _cell(name, hit.get(name)) for name in columns} for hit in self])

    def to_pandas(self) -> "pd.DataFrame":
        """The table of `to_arrow` as a data frame.

        Raises:
            ImportError: pyarrow or pandas is missing.
        """
        return _frame(self.to_arrow())

    def __repr__(self) -> str:
        """How many there are, and a line for each of the best, with its corpus_id before it."""
        by_index = {each.index: each for each in self.judgments}
        best = [(hit["corpus_id"], by_index[hit["corpus_id"]]) for hit in self[:_N_PRINTED]]
        return _lines(f"Ranking: {len(self)} passages, best first, by corpus_id", best, len(self), self.judgments.pairs)

    def _repr_html_(self) -> str:
        """What a notebook shows: the passages that are in the list."""
        shown = {hit["corpus_id"] for hit in self}
        return ranking_html([each for each in self.judgments if each.index in shown], self.judgments.pairs)


def _table(columns: dict[str, str], rows: list[dict[str, Any]]) -> "pa.Table":
    with from_extra("tracing", "tables"):
        import pyarrow as pa
    return pa.table(
        {name: pa.array([row[name] for row in rows], getattr(pa, kind)()) for name, kind in columns.items()}
    )


def _frame(table: "pa.Table") -> "pd.DataFrame":
    with from_extra("tracing", "data frames"):
        import pandas as pd
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _cell(name: str, value: Any) -> Any:  # noqa: ANN401
    if name == "text" and value is not None:
        try:
            return passage_text(value)
        except PairError:
            return None
    return None if isinstance(value, float) and math.isnan(value) else value


def _lines(heading: str, shown: list[tuple[int, Judgment]], n: int, pairs: Sequence[Pair] | None) -> str:
    """A heading, and a line for each judgment with a number before it."""
    lines = [heading, *(f"{number:>4}  {_line(judgment, pairs)}" for number, judgment in shown)]
    return "\n".join([*lines, *([f"      and {n - len(shown)} more"] if n > len(shown) else [])])


def _line(judgment: Judgment, pairs: Sequence[Pair] | None) -> str:
    if judgment.error is not None:
        return f"not judged: {one_line(judgment.error)}"
    _, passage = pair_texts(pairs, judgment.index)
    verdict = (
        f"{judgment.score:.3f} {str(judgment.label).lower():5}  {judgment.ended:7} {judgment.n_chain_tokens:>5} tokens"
    )
    return f"{verdict}  {start(judgment.chain.strip() if passage is None else passage, _WIDTH)}"
