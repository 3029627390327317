"""What users get back."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rank1_hf.chains.chain import Ended
from rank1_hf.prompts.prompt import Pair
from rank1_hf.prompts.tables import TablePairs

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from rank1_hf.tracing.trace import Trace

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
"""What a table says of a judged pair: fields of `Judgment.to_dict`, and the Arrow type of each."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the model thought about one pair, and its verdict.

    Attributes:
        index: the pair's place in the input.
        score: p(true) / (p(true) + p(false)) behind `</think>`, in [0, 1]; NaN where there is an error.
        log_odds: logit(true) - logit(false), from float32 logits; orders pairs whose score rounds to 1. NaN where there
            is an error.
        label: whether the model finds the passage relevant (log_odds > 0); None where there is an error.
        chain: the text thought, as the model wrote it, without `<think>` and `</think>`.
        n_prompt_tokens: the prompt's length.
        n_chain_tokens: the chain's length, without `</think>`.
        ended: "closed" by the model itself, or closed for it because of the "budget", "eos" (the model stopped without
            closing) or "context" (no room for more), or because a rule "stopped" it; None where there is an error.
        truncated: whether the passage was cut to fit.
        error: None, or why this pair has no score.
        trace: the chain token by token; None where not asked for.
    """

    index: int
    score: float
    log_odds: float
    label: bool | None
    chain: str
    n_prompt_tokens: int
    n_chain_tokens: int
    ended: Ended | None
    truncated: bool
    error: str | None = None
    trace: "Trace | None" = field(default=None, repr=False)

    @classmethod
    def failed(cls, index: int, error: str) -> "Judgment":
        """A judgment for a pair that could not be decoded at all."""
        return cls(
            index=index,
            score=math.nan,
            log_odds=math.nan,
            label=None,
            chain="",
            n_prompt_tokens=0,
            n_chain_tokens=0,
            ended=None,
            truncated=False,
            error=error,
        )

    def at(self, index: int) -> "Judgment":
        """The same judgment for another place in the input, where the same pair stands again."""
        return replace(self, index=index, trace=None if self.trace is None else self.trace.at(index))

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON: NaN becomes None. The trace only where there is one."""
        fields = asdict(replace(self, trace=None))
        del fields["trace"]
        if self.trace is not None:
            fields["trace"] = self.trace.to_dict()
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in fields.items()}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from rank1_hf.viewing.notebook import judgment_html  # tracing looks at results, and only this looks back

        return judgment_html(self)


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
    ) -> None:
        """Write one HTML page that shows everything, and needs no network; see `rank1_hf.viewing.report.write_html`.

        Args:
            path: the page.
            other: judgments of the same pairs by another model or in another precision, to stand beside these.
            names: what the two runs are called.
        """
        from rank1_hf.viewing.report import write_html

        write_html(self, path, pairs=self.pairs, other=other, names=names)

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
        from rank1_hf.viewing.notebook import ranking_html

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
        from rank1_hf.viewing.notebook import ranking_html

        shown = {hit["corpus_id"] for hit in self}
        return ranking_html([each for each in self.judgments if each.index in shown], self.judgments.pairs)


class TokenEvent(NamedTuple):
    """A token of a chain, as it comes. As a string it is its text, so that `print(event, end="")` writes the chain.

    Attributes:
        token_id: its id.
        text: the text it adds; empty where it only begins a character.
    """

    token_id: int
    text: str

    def __str__(self) -> str:
        return self.text


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `judge` or `predict`. `judgments` holds what was finished, in input order."""

    def __init__(self, judgments: list[Judgment]) -> None:
        super().__init__(f"interrupted; {len(judgments)} finished judgments are kept in .judgments")
        self.judgments = judgments


def sigmoid(log_odds: float) -> float:
    """1 / (1 + exp(-log_odds)) without overflow."""
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))


def ranking_key(judgment: Judgment) -> tuple[bool, float, int]:
    """Sorts best first: by log_odds, ties by position, pairs without a score last."""
    failed = judgment.error is not None
    return (failed, 0.0 if failed else -judgment.log_odds, judgment.index)
