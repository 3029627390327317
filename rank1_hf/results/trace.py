"""Traces: the model's probabilities at every token of a chain; saved, loaded, and made into tables."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.inputs.extras import from_extra
from rank1_hf.inputs.textfiles import InputError, format_of, read_jsonl
from rank1_hf.results.notebook import notebook_view

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """One pair's chain, token by token. It prints in a few lines; `to_dict` has all of it.

    The lists from `token_ids` to `seconds` are as long as the chain. All scores are of the model's own logits, before
    any logits processor. A token of a given chain has them too, as if the model had said it. What the chain's rules
    wrote (the "Wait" of rethinking, what a rule forces) has NaN for its scores and its time, and itself as its
    alternative.

    Attributes:
        index: the judgment's.
        token_ids: the chain's tokens.
        texts: their texts, which together are the chain; a character of several tokens is the last one's.
        logprobs: natural logarithm of each token's probability.
        alternative_ids: the likeliest other token.
        alternative_texts: its text.
        margins: logit(token) - logit(alternative); negative where a logits processor or a given chain chose another.
        entropies: of the next token, in nats, over the full vocabulary.
        seconds: since the pair was first admitted.
        belief: the belief curve, by n_tokens; empty where not asked for.
        lens: log_odds by layer at the verdict; None where not asked for.
        attention: how much the verdict attends to each token of the prompt, mean over layers and heads; None where not
            asked for.
        prompt_texts: each prompt token's share of the prompt where `attention` is there, else empty. Together they are
            the text as it was given, also where the tokenizer has normalized it.
    """

    index: int
    token_ids: list[int]
    texts: list[str]
    logprobs: list[float]
    alternative_ids: list[int]
    alternative_texts: list[str]
    margins: list[float]
    entropies: list[float]
    seconds: list[float]
    belief: list[BeliefPoint] = field(default_factory=list)
    lens: list[float] | None = None
    attention: list[float] | None = None
    prompt_texts: list[str] = field(default_factory=list)

    def at(self, index: int) -> "Trace":
        """The same trace for another place in the input, where the same pair stands again."""
        return replace(self, index=index)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON: NaN becomes None."""
        fields = asdict(self)
        for name in _MAY_BE_NAN:
            fields[name] = [None if math.isnan(value) else value for value in fields[name]]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Trace":
        """What `to_dict` made."""
        values = dict(fields)
        for name in _MAY_BE_NAN:
            values[name] = [math.nan if value is None else value for value in values[name]]
        return cls(**values | {"belief": [BeliefPoint(**point) for point in values["belief"]]})

    def to_arrow(self) -> "pa.Table":
        """A row for each token; see `to_arrow`."""
        return to_arrow([self])

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each token; see `to_pandas`."""
        return to_pandas([self])

    def __repr__(self) -> str:
        lines = [f"Trace of pair {self.index}: {len(self.token_ids)} tokens"]
        if self.token_ids:
            lines.append(f"chain       {_start(''.join(self.texts))}")
        said = [place for place, margin in enumerate(self.margins) if not math.isnan(margin)]
        if said:
            lines[0] += f", log-probability {sum(self.logprobs[place] for place in said):.2f}"
            at = min(said, key=self.margins.__getitem__)
            other = f"{self.texts[at]!r} before {self.alternative_texts[at]!r}"
            lines.append(f"least sure  {other} (token {at}, margin {self.margins[at]:+.2f})")
        curves = {"belief": [point.log_odds for point in self.belief], "layers": self.lens or []}
        for name, curve in curves.items():
            if curve:
                lines.append(f"{name:10}  log-odds {curve[0]:+.2f} to {curve[-1]:+.2f} ({len(curve)} points)")
        if self.attention is not None:
            lines.append(f"attention   over {len(self.attention)} tokens of the prompt")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None: the plain text."""
        return notebook_view(self)


def _start(text: str, length: int = 80) -> str:
    """As Python writes it, so that no character in it does anything to a terminal."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")


_MAY_BE_NAN = ("logprobs", "margins", "entropies", "seconds")
_COLUMNS = {
    "token_id": "token_ids",
    "text": "texts",
    "logprob": "logprobs",
    "alternative_id": "alternative_ids",
    "alternative_text": "alternative_texts",
    "margin": "margins",
    "entropy": "entropies",
    "seconds": "seconds",
}


def write_traces(traces: Iterable[Trace] | Trace, path: str | Path) -> None:
    """Save traces, a line or a row each, as the file's name says: .jsonl, or .parquet (which needs pyarrow).

    Nothing is written where one of them is no trace.

    Raises:
        TypeError: one is none; the message says which.
        ValueError: another name.
        ImportError: pyarrow is missing.
    """
    path, traces = Path(path), _checked(traces)
    unfinished = path.with_name(f"{path.name}.new")  # a file that is there is whole
    if _format(path) == "jsonl":
        with unfinished.open("w", encoding="utf-8") as file:
            for trace in traces:
                file.write(json.dumps(trace.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
    else:
        with from_extra("tracing", "Parquet files"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        pq.write_table(pa.Table.from_pylist([asdict(trace) for trace in traces], schema=_schema()), unfinished)
    unfinished.replace(path)


def read_traces(path: str | Path) -> list[Trace]:
    """Load what `write_traces` saved; a .jsonl file may be gzipped since.

    Raises:
        ValueError: the name ends in neither .jsonl nor .parquet, or a line is no trace.
        ImportError: pyarrow is missing.
    """
    path = Path(path)
    if format_of(path) == "jsonl":
        return [_read(fields, where) for where, fields in read_jsonl(path)]
    _format(path)
    with from_extra("tracing", "Parquet files"):
        import pyarrow.parquet as pq
    return [Trace.from_dict(row) for row in pq.read_table(path).to_pylist()]


def to_arrow(traces: Iterable[Trace] | Trace) -> "pa.Table":
    """A row for each token of each trace: index, position (in the chain, from 0), and the lists of `Trace`.

    Raises:
        TypeError: one is no trace; the message says which.
        ImportError: pyarrow is missing.
    """
    with from_extra("tracing", "tables"):
        import pyarrow as pa
    traces = _checked(traces)
    columns: dict[str, Any] = {
        "index": pa.array([trace.index for trace in traces for _ in trace.token_ids], pa.int64()),
        "position": pa.array([at for trace in traces for at in range(len(trace.token_ids))], pa.int64()),
    }
    for name, of_trace in _COLUMNS.items():
        type_ = _schema().field(of_trace).type.value_type
        columns[name] = pa.array([value for trace in traces for value in getattr(trace, of_trace)], type_)
    return pa.table(columns)


def to_pandas(traces: Iterable[Trace] | Trace) -> "pd.DataFrame":
    """The table of `to_arrow` as a data frame.

    Raises:
        TypeError: one is no trace; the message says which.
        ImportError: pyarrow or pandas is missing.
    """
    with from_extra("tracing", "data frames"):
        import pandas as pd
    frame: pd.DataFrame = to_arrow(traces).to_pandas()
    return frame


def _checked(traces: object) -> list[Trace]:
    """Traces in a list, one alone too.

    Raises:
        TypeError: there is something else.
    """
    many: list[Any] = list(traces) if isinstance(traces, Iterable) else [traces]
    for place, each in enumerate(many):
        if each is None:
            raise TypeError(f"element {place} is None: judge with trace=True, and leave out the pairs with an error")
        if not isinstance(each, Trace):
            name = type(each).__name__
            raise TypeError(f"element {place} is a {name}: give traces, as in [j.trace for j in judgments]")
    return many


def _schema() -> "pa.Schema":
    import pyarrow as pa

    ids, texts, numbers = pa.list_(pa.int64()), pa.list_(pa.string()), pa.list_(pa.float64())
    return pa.schema(
        {
            "index": pa.int64(),
            "token_ids": ids,
            "texts": texts,
            "logprobs": numbers,
            "alternative_ids": ids,
            "alternative_texts": texts,
            "margins": numbers,
            "entropies": numbers,
            "seconds": numbers,
            "belief": pa.list_(pa.struct({"n_tokens": pa.int64(), "log_odds": pa.float64()})),
            "lens": numbers,
            "attention": numbers,
            "prompt_texts": texts,
        }
    )


def _read(fields: Any, where: str) -> Trace:  # noqa: ANN401
    try:
        return Trace.from_dict(fields)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: no trace; give a file that write_traces saved") from None


def _format(path: Path) -> str:
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in ("jsonl", "parquet"):
        raise ValueError(f"{path}: traces are saved as .jsonl or .parquet")
    return suffix
