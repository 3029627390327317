"""Judgments as one HTML page: the ranking, the chains, what was traced of them, and two runs side by side.

    judgments (+ pairs, + another run) -> report_data -> JSON -> page.html with page.css and page.js inside it

The page needs no network, and its content security policy allows only the one style sheet and the one script that are
inside it, by their hashes. Queries, passages and chains travel as JSON whose every `<` is escaped, and page.js puts
them into the page as text only: whatever a passage says, it is never markup.
"""

import hashlib
import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from rank1_hf.prompts.prompt import Pair
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.pieces import belief, divergence, n_kept, pieces
from rank1_hf.viewing.tables import Table
from rank1_hf.viewing.texts import pair_texts

if TYPE_CHECKING:
    from rank1_hf.results.trace import Trace

_ASSETS = files("rank1_hf") / "assets" / "report"


def write_html(
    judgments: Sequence[Judgment],
    path: str | Path,
    *,
    pairs: Sequence[Pair] | None = None,
    other: Sequence[Judgment] | None = None,
    names: tuple[str, str] = ("this run", "other run"),
    tables: Sequence[Table] = (),
) -> None:
    """Write judgments as one HTML page that opens in any browser, without a network.

    Args:
        judgments: of one call or several, with traces or without.
        path: the page; what was there is replaced.
        pairs: what was judged: a judgment's `index` is its pair's place here. None: the page shows no texts.
        other: judgments of the same pairs by another model or in another precision, matched by `index`. The page shows
            both, and where their chains part.
        names: what the two runs are called.
        tables: shown above the judgments.

    Raises:
        OSError: the page cannot be written.
    """
    # A lone surrogate becomes \udXXX, which is JSON's own escape.
    Path(path).write_bytes(
        page(report_data(judgments, pairs=pairs, other=other, names=names, tables=tables)).encode(
            "utf-8", "backslashreplace"
        )
    )


def page(data: Mapping[str, Any]) -> str:
    """The page that shows `report_data`."""
    html, css, js = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Template(html).substitute(
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(js)}'; "
        "base-uri 'none'; form-action 'none'",
        css=css,
        js=js,
        data=text.replace("<", "\\u003c"),
    )


def report_data(
    judgments: Sequence[Judgment],
    *,
    pairs: Sequence[Pair] | None = None,
    other: Sequence[Judgment] | None = None,
    names: tuple[str, str] = ("this run", "other run"),
    tables: Sequence[Table] = (),
) -> dict[str, Any]:
    """What the page shows, as JSON has it.

    Returns:
        "names" of the one or two runs; "tables", shown above; "queries" and "passages", each text once; "rows", one a
        pair, queries in the order of the input and each query's pairs ranked by the first run. A row has its "index",
        the places of its texts in "query" and "passage" (None where they are not known), its "runs" (None where a run
        lacks the pair), and where their chains part in "diverges". A run's part has the judgment's fields, its "rank"
        among its query's, its chain in "pieces", how many of them the verdict saw in "kept", its "belief" curve and its
        "trace".
    """
    queries, passages = _Texts(), _Texts()
    places: dict[int, tuple[int | None, int | None]] = {}
    runs: list[dict[int, Judgment]] = []
    for run in (judgments, other):
        if run is not None:
            runs.append({judgment.index: judgment for judgment in run})
    for index in sorted({index for run in runs for index in run}):
        query, passage = pair_texts(pairs, index)
        places[index] = queries.place(query), passages.place(passage)
    ranks = [_ranks(run, places) for run in runs]
    rows: list[dict[str, Any]] = []
    for index, (query_place, passage_place) in places.items():
        found = [run.get(index) for run in runs]
        rows.append(
            {
                "index": index,
                "query": query_place,
                "passage": passage_place,
                "runs": [
                    judgment and _judgment(judgment, rank.get(index))
                    for judgment, rank in zip(found, ranks, strict=True)
                ],
                "diverges": divergence(found[0], found[1]) if len(found) == 2 and found[0] and found[1] else None,
            }
        )
    last = len(rows)
    rows.sort(key=lambda row: (row["query"] or 0, ranks[0].get(row["index"], last), row["index"]))
    return {
        "names": names[: len(runs)],
        "tables": [table.to_dict() for table in tables],
        "queries": queries.texts,
        "passages": passages.texts,
        "rows": rows,
    }


class _Texts:
    """Texts, each kept once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        return list(self._places)

    def place(self, text: str | None) -> int | None:
        return None if text is None else self._places.setdefault(text, len(self._places))


def _ranks(run: Mapping[int, Judgment], places: Mapping[int, tuple[int | None, int | None]]) -> dict[int, int]:
    """Each scored judgment's rank among those of its query, from 1."""
    ranks: dict[int, int] = {}
    counts: dict[int | None, int] = {}
    for judgment in sorted(run.values(), key=ranking_key):
        if judgment.error is None:
            query, _ = places[judgment.index]
            ranks[judgment.index] = counts[query] = counts.get(query, 0) + 1
    return ranks


def _judgment(judgment: Judgment, rank: int | None) -> dict[str, Any]:
    fields = replace(judgment, chain="", trace=None).to_dict()
    return {
        **{name: value for name, value in fields.items() if name not in ("index", "chain")},
        "log_odds": judgment.log_odds if math.isfinite(judgment.log_odds) else None,
        "rank": rank,
        "pieces": pieces(judgment),
        "kept": n_kept(judgment),
        "belief": [(n_tokens, round(log_odds, 4)) for n_tokens, log_odds in belief(judgment)],
        "trace": judgment.trace and _trace(judgment.trace),
    }


def _trace(trace: "Trace") -> dict[str, Any]:
    """What the page shows of a trace. Digits that cannot be seen are left out: they would be half of the page."""
    return {
        "logprobs": _rounded(trace.logprobs, 3),
        "alternatives": trace.alternative_texts,
        "margins": _rounded(trace.margins, 3),
        "entropies": _rounded(trace.entropies, 3),
        "seconds": max((each for each in _rounded(trace.seconds, 3) if each is not None), default=None),
        "lens": trace.lens and _rounded(trace.lens, 4),
        "attention": trace.attention and _rounded(trace.attention, 5),
        "prompt": trace.prompt_texts,
    }


def _rounded(values: Sequence[float], digits: int) -> list[float | None]:
    """JSON has no infinity, and no NaN, which stands where the model did not generate a token itself."""
    return [round(value, digits) if math.isfinite(value) else None for value in values]


def _hash(text: str) -> str:
    """What a content security policy calls a text by."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
