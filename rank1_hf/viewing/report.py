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
from statistics import fmean
from string import Template
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from rank1_hf.prompts.pair_text import Pair
from rank1_hf.results.belief_curve import mean_entropy
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.pieces import belief, divergence, n_before, n_kept, pieces
from rank1_hf.viewing.provenance import Environment, provenance_table
from rank1_hf.viewing.tables import Table
from rank1_hf.viewing.texts import pair_texts

if TYPE_CHECKING:
    from rank1_hf.results.trace import Trace

_ASSETS = files("rank1_hf") / "assets" / "report"


class PageOptions(TypedDict, total=False):
    """What a page shows besides judgments.

    Attributes:
        pairs: what was judged: a judgment's `index` is its pair's place here. Without them the page shows no texts.
        ids: the ids of the query and the document, by index.
        qrels: {query id: {document id: grade}}; grades stand beside the pairs that have ids.
        other: judgments of the same pairs by another model or in another precision, matched by `index`. The page shows
            both, and where their chains diverge.
        names: what the two runs are called.
        environments: how each of the runs was made; None: not known.
        tables: shown above the judgments.
        remarks: what else is to be said about a pair, by its index.
    """

    pairs: Sequence[Pair] | None
    ids: Mapping[int, tuple[str, str]]
    qrels: Mapping[str, Mapping[str, int]] | None
    other: Sequence[Judgment] | None
    names: tuple[str, str]
    environments: Sequence[Environment | None]
    tables: Sequence[Table]
    remarks: Mapping[int, Sequence[str]]


def write_html(judgments: Sequence[Judgment], path: str | Path, **options: Unpack[PageOptions]) -> None:
    """Write judgments as one HTML page that opens in any browser, without a network.

    Args:
        judgments: of one call or several, with traces or without.
        path: the page; what was there is replaced.
        options: what else it shows: see `PageOptions`.

    Raises:
        OSError: the page cannot be written.
    """
    # A lone surrogate becomes \udXXX, which is JSON's own escape.
    Path(path).write_bytes(page(report_data(judgments, **options)).encode("utf-8", "backslashreplace"))


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


def report_data(judgments: Sequence[Judgment], **options: Unpack[PageOptions]) -> dict[str, Any]:
    """What the page shows, as JSON has it.

    Returns:
        "names" of the one or two runs; "made", the table of how they were made; "tables", shown above; "queries" and
        "passages", each text once; "rows", one a pair, queries in the order of the input and each query's pairs ranked
        by the first run. A row has its "index", the places of its texts in "query" and "passage" (None where they are
        not known), its "ids" and its "grade" (None likewise), its "runs" (None where a run lacks the pair), where their
        chains diverge in "diverges", and what else is to be said in "remarks". A run has the judgment's fields, its
        "rank" among its query's, its chain in "pieces", how many of them the verdict saw in "kept", its "belief" curve,
        the mean "entropy" of its tokens and its "trace". A point of the curve is the tokens before it, log_odds, the
        pieces before it, and the entropy since the point before where there is no trace.
    """
    pairs, ids, qrels = options.get("pairs"), options.get("ids", {}), options.get("qrels") or {}
    names, remarks = options.get("names", ("this run", "other run")), options.get("remarks", {})
    queries, passages = _Texts(), _Texts()
    places: dict[int, tuple[int | None, int | None]] = {}
    runs: list[dict[int, Judgment]] = []
    for run in (judgments, options.get("other")):
        if run is not None:
            runs.append({judgment.index: judgment for judgment in run})
    for index in sorted({index for run in runs for index in run}):
        query, passage = pair_texts(pairs, index)
        places[index] = queries.place(query), passages.place(passage)
    ranks = [_ranks(run, places) for run in runs]
    rows: list[dict[str, Any]] = []
    for index, (query_place, passage_place) in places.items():
        found = [run.get(index) for run in runs]
        query_id, document_id = ids.get(index, (None, None))
        rows.append(
            {
                "index": index,
                "query": query_place,
                "passage": passage_place,
                "ids": None if query_id is None else (query_id, document_id),
                "grade": qrels.get(query_id or "", {}).get(document_id or ""),
                "runs": [
                    judgment and _judgment(judgment, rank.get(index))
                    for judgment, rank in zip(found, ranks, strict=True)
                ],
                "diverges": divergence(found[0], found[1]) if len(found) == 2 and found[0] and found[1] else None,
                "remarks": list(remarks.get(index, ())),
            }
        )
    last = len(rows)
    rows.sort(key=lambda row: (row["query"] or 0, ranks[0].get(row["index"], last), row["index"]))
    made = provenance_table(options.get("environments", ())[: len(runs)], names[: len(runs)])
    return {
        "names": names[: len(runs)],
        "made": made and made.to_dict(),
        "tables": [table.to_dict() for table in options.get("tables", ())],
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
        **{name: value for name, value in fields.items() if name not in ("index", "chain", "belief")},
        "log_odds": judgment.log_odds if math.isfinite(judgment.log_odds) else None,
        "rank": rank,
        "pieces": pieces(judgment),
        "kept": n_kept(judgment),
        "belief": _belief(judgment),
        "entropy": _entropy(judgment),
        "trace": judgment.trace and _trace(judgment.trace),
    }


def _belief(judgment: Judgment) -> list[tuple[int, float, int, float | None]]:
    if judgment.belief is None:
        return [(n_tokens, round(log_odds, 4), n_tokens, None) for n_tokens, log_odds in belief(judgment)]
    parts = pieces(judgment)
    return [
        (point.n_tokens, round(point.log_odds, 4), n_before(parts, point.n_characters), point.entropy)
        for point in judgment.belief
    ]


def _entropy(judgment: Judgment) -> float | None:
    """How unsure the model was along the chain, in nats a token; None where it is not known."""
    if judgment.trace is None:
        return mean_entropy(judgment.belief or ())
    known = [entropy for entropy in judgment.trace.entropies if math.isfinite(entropy)]
    return round(fmean(known), 3) if known else None


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
