"""The lists that calls give: they become tables, pages, and what a notebook shows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rank1_hf.prompts.prompt import Pair
from rank1_hf.prompts.tables import TablePairs
from rank1_hf.results import judgment as judgment_module
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.notebook import judgment_html, ranking_html
from rank1_hf.viewing.report import write_html

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

judgment_module.notebook_view = judgment_html

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
        """A row for each judgment, in order, with the `COLUMNS`; null where there is no score. Needs pyarrow."""
        import pyarrow as pa

        fields = [judgment.to_dict() for judgment in self]
        columns = {name: [row[name] for row in fields] for name in COLUMNS}
        return pa.table({name: pa.array(columns[name], getattr(pa, kind)()) for name, kind in COLUMNS.items()})

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each judgment, with the `COLUMNS`. Its index is that of the frame that was judged, so that it can
        be joined to it, or else each pair's place in the input. Needs pandas and pyarrow.
        """
        frame = self.to_arrow().to_pandas()
        places = [judgment.index for judgment in self]
        labels = self.pairs.row_labels if isinstance(self.pairs, TablePairs) else None
        frame.index = places if labels is None else labels[places]
        return frame

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return ranking_html(self, self.pairs)


class Ranking(list[dict[str, Any]]):
    """What `Rank1.rank` gives: a list of dicts, best first, that can show itself.

    Args:
        hits: the dicts.
        judgments: what they were made of, with the pairs: all passages', in the order given.
    """

    def __init__(self, hits: Iterable[dict[str, Any]], judgments: Judgments) -> None:
        super().__init__(hits)
        self.judgments = judgments

    def _repr_html_(self) -> str:
        """What a notebook shows: the passages that are in the list."""
        shown = {hit["corpus_id"] for hit in self}
        return ranking_html([each for each in self.judgments if each.index in shown], self.judgments.pairs)
