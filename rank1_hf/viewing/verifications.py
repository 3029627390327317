"""What was verified, as a table, as JSON, and as a page with both sides."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rank1_hf.prompts.pair_text import Pair
from rank1_hf.results.judgment import Judgment
from rank1_hf.results.verification import MEANING, Kind, Verification
from rank1_hf.viewing.printable import one_line
from rank1_hf.viewing.provenance import Environment
from rank1_hf.viewing.report import write_html

Scores = dict[str, dict[str, float]]
"""query -> document -> log-odds."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How many records there are of which kind.

    Attributes:
        n: all of them.
        n_agree: without a fault, and with a score that is equal or within rounding, if there is one.
        n_equal: with a score within 0.0001 of the model's.
        n_rounding: with one farther off that rounding of the dtype explains.
        n_different: with another one.
        n_without_score: with nothing to compare.
        kinds: how many records have each kind of finding.
        n_queries: how many queries have several documents, where the records have ids or queries.
        n_rankings_changed: in how many of them the model's scores put these in another order.
        kendall: the mean of Kendall's tau-b over these queries; None without any, or without scipy.
    """

    n: int
    n_agree: int
    n_equal: int
    n_rounding: int
    n_different: int
    n_without_score: int
    kinds: dict[Kind, int]
    n_queries: int
    n_rankings_changed: int
    kendall: float | None

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


class Verifications(list[Verification]):
    """What `Rank1.verify` gives: a list in the records' order.

    Args:
        verifications: one for each record.
        ours, theirs: both sides of each, as judgments; the model's chain ends where it would have gone elsewhere.
        pairs: their queries and passages.
    """

    def __init__(
        self,
        verifications: Iterable[Verification] = (),
        ours: Sequence[Judgment] = (),
        theirs: Sequence[Judgment] = (),
        pairs: Sequence[Pair] = (),
    ) -> None:
        super().__init__(verifications)
        self.ours, self.theirs, self.pairs = ours, theirs, pairs

    @property
    def summary(self) -> Summary:
        """How many are of which kind, and how the rankings compare."""
        agreements = Counter(each.agreement for each in self)
        kinds = Counter(kind for each in self for kind in {finding.kind for finding in each.findings})
        theirs, ours = self.rankings()
        several = [query for query, scores in theirs.items() if len(scores) > 1]
        return Summary(
            n=len(self),
            n_agree=sum(each.agrees for each in self),
            n_equal=agreements["equal"],
            n_rounding=agreements["rounding"],
            n_different=agreements["different"],
            n_without_score=agreements["unknown"],
            kinds={kind: kinds[kind] for kind in MEANING if kinds[kind]},
            n_queries=len(several),
            n_rankings_changed=sum(_order(theirs[query]) != _order(ours[query]) for query in several),
            kendall=_kendall([(theirs[query], ours[query]) for query in several]),
        )

    def rankings(self) -> tuple[Scores, Scores]:
        """Their log-odds and the model's, of the records that have both: as runs, to be measured with qrels.

        Records without a query's id are grouped by the query itself, and their places stand for documents' ids.
        """
        theirs: Scores = defaultdict(dict)
        ours: Scores = defaultdict(dict)
        for each, pair in zip(self, self.pairs, strict=True):
            if not math.isnan(each.their_log_odds) and not math.isnan(each.log_odds):
                query = str(pair[0]) if each.query_id is None else each.query_id
                document = str(each.index) if each.document_id is None else each.document_id
                theirs[query][document], ours[query][document] = each.their_log_odds, each.log_odds
        return dict(theirs), dict(ours)

    def to_html(
        self,
        path: str | Path,
        *,
        names: tuple[str, str] = ("this model", "the records"),
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        environments: tuple[Environment | None, Environment | None] = (None, None),
    ) -> None:
        """Write one page with both sides of each record, and what was found; it needs no network.

        Args:
            path: the page.
            names: what the two sides are called.
            qrels: {query id: {document id: grade}}, to stand beside the records that have ids.
            environments: how either side was made, as `environment.json` says it; None: not known.

        Raises:
            OSError: it cannot be written.
        """
        remarks = {
            each.index: [f"{finding.kind}: {MEANING[finding.kind]} ({finding.detail})" for finding in each.findings]
            for each in self
        }
        ids = {
            each.index: (each.query_id, each.document_id)
            for each in self
            if each.query_id is not None and each.document_id is not None
        }
        write_html(
            self.ours,
            path,
            pairs=self.pairs,
            ids=ids,
            qrels=qrels,
            other=self.theirs,
            names=names,
            environments=environments,
            remarks=remarks,
        )

    def render(self, *, most: int | None = 20) -> Group:
        """For a rich console: the summary, and a line for each record that does not agree.

        Args:
            most: so many lines at most; None: all.
        """
        summary, wrong = self.summary, [each for each in self if not each.agrees]
        parts: list[RenderableType] = [_table(list(islice(wrong, most)))] if wrong else []
        if most is not None and len(wrong) > most:
            parts.append(f"... and {len(wrong) - most} more")
        compared = summary.n - summary.n_without_score
        parts.append(f"{summary.n_agree} of {summary.n} records agree")
        parts.append(
            f"scores: {summary.n_equal} of {compared} within 0.0001, {summary.n_rounding} within rounding, "
            f"{summary.n_different} different"
        )
        if summary.n_queries:
            tau = "" if summary.kendall is None else f" (Kendall's tau {summary.kendall:.4f})"
            parts.append(f"rankings: {summary.n_rankings_changed} of {summary.n_queries} change{tau}")
        for kind, n in summary.kinds.items():
            parts.append(f"{n:6d}  {kind}: {MEANING[kind]}")
        return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def _table(wrong: Sequence[Verification]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("theirs", "ours", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("record and findings", overflow="fold")
    for each in wrong:
        numbers = (
            f"{value:.6g}" if math.isfinite(value) else "–" for value in (each.their_score, each.score, each.difference)
        )
        found = "; ".join(f"{finding.kind}: {finding.detail}" for finding in each.faults)
        table.add_row(*numbers, Text(one_line(f"{each.where}: {found or 'the score differs'}")))
    return table


def _order(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda document: -scores[document])


def _kendall(rankings: Sequence[tuple[dict[str, float], dict[str, float]]]) -> float | None:
    try:
        from scipy.stats import kendalltau
    except ImportError:
        return None
    taus = [float(kendalltau(list(a.values()), [b[name] for name in a]).statistic) for a, b in rankings]
    known = [tau for tau in taus if not math.isnan(tau)]  # of equal scores alone there is none
    return fmean(known) if known else None
