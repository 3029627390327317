"""The report of a comparison: what was found, and its forms."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rank1_hf.evaluation.agreement import Agreement, Difference, Parting
from rank1_hf.evaluation.significance import N_RESAMPLES, SEED
from rank1_hf.evaluation.writing import finite
from rank1_hf.files.sources import Source
from rank1_hf.files.trec import Qrels
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.printable import counted, one_line, start
from rank1_hf.viewing.provenance import Environment, without_folders
from rank1_hf.viewing.report import write_html
from rank1_hf.viewing.saved import Places, ids_of, pairs_of
from rank1_hf.viewing.tables import Table, csv_text

_N_SHOWN = 10  # queries and chains in a table; the JSON has all
_N_CHARACTERS = 40  # of either chain from where they part

NO_T_TEST = "no p of a t-test: the differences do not vary, or there is one query"
"""What a table says where its t-test has no p-value: t is divided by a standard error of 0 (SciPy gives NaN)."""


@dataclass(frozen=True, slots=True)
class PairedMeasure:
    """A measure of both sides, over the queries for which it has a value on both.

    Attributes:
        measure: its name.
        a, b: the means over the queries; of what counts (NumRet, NumQ, NumRel) the sums, as in ir_measures.
        n: how many queries.
        wins, ties, losses: in how many of them b's value is higher, equal (but for rounding), and lower.
        t_test: the p-value of a two-sided paired t-test; None where there is nothing to test.
        permutation_test: that of a two-sided paired permutation test of the mean difference.
        t_test_holm, permutation_test_holm: the same, corrected after Holm for all measures of the comparison.
    """

    measure: str
    a: float
    b: float
    n: int
    wins: int
    ties: int
    losses: int
    t_test: float | None
    permutation_test: float | None
    t_test_holm: float | None = None
    permutation_test_holm: float | None = None

    def corrected(self, t_test: float | None, permutation_test: float | None) -> "PairedMeasure":
        """The same with corrected p-values."""
        return replace(self, t_test_holm=t_test, permutation_test_holm=permutation_test)


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """What a comparison found.

    Attributes:
        names: what the sides are called.
        sources: where they are.
        environment: what differs in how they were made: its name, and what it is of either side.
        measures: each measure of both sides; empty where nothing is measured.
        values: measure -> query -> the values of both sides.
        agreement: how far the judgments agree; None where a side is a run.
        kendall_tau: query -> Kendall's tau-b of its two rankings, where there is one.
        partings: where chains diverge, those first whose scores are furthest apart.
        notes: what one has to know about the sides, a sentence each.
        judgments: those of either side.
        places: the pairs that they are about.
        qrels: the relevance judgments, where they are known.
        environments: how either side was made, where its folder says so.
    """

    names: tuple[str, str]
    sources: tuple[str, str]
    environment: Sequence[tuple[str, str, str]]
    measures: Sequence[PairedMeasure]
    values: Mapping[str, Mapping[str, tuple[float, float]]]
    agreement: Agreement | None
    kendall_tau: Mapping[str, float]
    partings: Sequence[Parting]
    notes: Sequence[str]
    judgments: tuple[Sequence[Judgment], Sequence[Judgment]]
    places: Places
    qrels: Qrels | None = None
    environments: tuple[Environment | None, Environment | None] = (None, None)

    def tables(self) -> list[Table]:
        """The figures: measures, wins and losses, agreement."""
        found = [self._measure_table(), self._wins_table()] if self.measures else []
        return [*found, self._agreement_table()]

    def all_tables(self) -> list[Table]:
        """What is compared, the figures, the queries that changed most, the diverging chains, and how it was made."""
        compared = Table("Compared", ("", "source"), list(zip(self.names, self.sources, strict=True)), n_texts=2)
        made = Table("Made differently", ("", *self.names), self.environment, n_texts=3)
        details = [table for table in (self._query_table(), self._parting_table(), made) if table.rows]
        return [compared, *self.tables(), *details]

    def to_markdown(self) -> str:
        """All tables, in GitHub's Markdown."""
        return "\n".join(table.to_markdown() for table in self.all_tables())

    def to_latex(self) -> str:
        """The figures, for the package booktabs; without texts of chains, which may be in any script."""
        sources = (f"{name}: {source}" for name, source in zip(self.names, self.sources, strict=True))
        comments = [f"% {one_line(line)}" for line in ("needs \\usepackage{booktabs}", *sources)]
        return "\n".join([*comments, *(table.to_latex() for table in self.tables())])

    def to_csv(self) -> str:
        """The measures alone, a line for each, with all digits."""
        tests = ("t_test", "t_test_holm", "permutation_test", "permutation_test_holm")
        columns = ("measure", *self.names, "difference", *tests, "wins", "ties", "losses", "queries")
        rows = [
            (row.measure, row.a, row.b, row.b - row.a, *_p_values(row), row.wins, row.ties, row.losses, row.n)
            for row in self.measures
        ]
        return csv_text(columns, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: what is not finite becomes None."""
        found: dict[str, Any] = finite(
            {
                "names": self.names,
                "sources": self.sources,
                "environment": self.environment,
                "notes": self.notes,
                "measures": [asdict(row) for row in self.measures],
                "queries": self.values,
                "agreement": None if self.agreement is None else asdict(self.agreement),
                "kendall_tau": self.kendall_tau,
                "partings": [asdict(parting) for parting in self.partings],
            }
        )
        return found

    def to_html(self, path: str | Path, corpus: Source | None = None) -> None:
        """Write one HTML page with the tables, and the judgments of both sides beside each other.

        Args:
            path: the page.
            corpus: where the texts behind the ids are; without it ids are shown.

        Raises:
            InputError: the collection cannot be read.
            OSError: the page cannot be written.
        """
        a, b = self.judgments
        write_html(
            a,
            path,
            pairs=pairs_of(self.places, corpus),
            ids=ids_of(self.places),
            qrels=self.qrels,
            other=b,
            names=self.names,
            environments=self.environments,
            tables=self._without_folders().all_tables(),
        )

    def _without_folders(self) -> "ComparisonReport":
        """The same with the last parts alone of the paths that say where the sides are and how they were made."""
        a, b = map(without_folders, self.sources)
        made = [(what, without_folders(x), without_folders(y)) for what, x, y in self.environment]
        return replace(self, sources=(a, b), environment=made)

    def _measure_table(self) -> Table:
        a, b = self.names
        rows = [
            (row.measure, f"{row.a:.4f}", f"{row.b:.4f}", f"{row.b - row.a:+.4f}", *map(p_value, _p_values(row)))
            for row in self.measures
        ]
        note = (
            f"t-test: p of a two-sided paired t-test; perm.: p of a two-sided paired permutation test of the mean "
            f"({N_RESAMPLES:,} sign flips from seed {SEED}, or all); Holm t, Holm perm.: these, corrected for "
            f"{counted(len(rows), 'measure')}"
        )
        if any(row.t_test is None for row in self.measures):
            note += f"; {NO_T_TEST}"
        columns = ("measure", a, b, "diff.", "t-test", "Holm t", "perm.", "Holm perm.")
        return Table("Measures", columns, rows, note=note)

    def _wins_table(self) -> Table:
        rows = [(row.measure, str(row.wins), str(row.ties), str(row.losses), str(row.n)) for row in self.measures]
        b = self.names[1]
        return Table("Queries", ("measure", f"{b} wins", "ties", f"{b} loses", "queries"), rows)

    def _agreement_table(self) -> Table:
        rows = list(self._pair_rows(self.agreement)) if self.agreement is not None else []
        taus = self.kendall_tau
        if taus:
            lowest = min(taus, key=lambda query: taus[query])
            rows += [
                ("Kendall tau, mean over the queries", f"{fmean(taus.values()):.4f} ({len(taus)})"),
                ("Kendall tau, lowest (query)", f"{taus[lowest]:.4f} ({lowest})"),
                ("queries ranked alike", _share(sum(tau == 1 for tau in taus.values()), len(taus))),
            ]
        return Table("Agreement", ("", "value"), rows)

    def _pair_rows(self, found: Agreement) -> list[tuple[str, str]]:
        a, b = self.names
        rows = [
            ("pairs on both sides", str(found.n_both)),
            (f"pairs of {a} alone, of {b} alone", _two(found.n_only)),
            (f"without a score in {a}, in {b}", _two(found.n_unscored)),
            ("same decision", _share(found.n_same_decision, found.n_scored)),
            ("same score, bit by bit", _share(found.n_same_score, found.n_scored)),
            ("same chain", _share(found.n_same_chain, found.n_scored)),
        ]
        for name, difference in (("score", found.score), ("log-odds", found.log_odds)):
            if difference is not None:
                rows.append((f"{name}, mean and largest difference", _both(difference)))
        return rows

    def _query_table(self) -> Table:
        name, values = next(iter(self.values.items()), ("", {}))
        taus = self.kendall_tau
        queries = values or dict.fromkeys(taus, (0.0, 0.0))
        ordered = sorted(queries, key=lambda query: (-abs(queries[query][1] - queries[query][0]), taus.get(query, 1.0)))
        rows = []
        for query in ordered[:_N_SHOWN]:
            (a, b), tau = queries[query], taus.get(query)
            if a == b and (tau is None or tau == 1):
                break
            figures = (f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}") if values else ()
            rows.append((query, *figures, "" if tau is None else f"{tau:.4f}"))
        columns = (*self.names, "diff.") if values else ()
        title = f"Queries that changed most, by {name}" if values else "Queries that changed most"
        return Table(title, ("query", *columns, "Kendall tau"), rows)

    def _parting_table(self) -> Table:
        a, b = self.names
        has_tokens = any(parting.token is not None for parting in self.partings)
        rows = []
        for parting in self.partings[:_N_SHOWN]:
            left, right = (start(rest, _N_CHARACTERS) or "(ends)" for rest in parting.rest)
            token = (("" if parting.token is None else str(parting.token)),) if has_tokens else ()
            scores = [f"{score:.4f}" for score in parting.scores]
            rows.append((parting.query, parting.document, left, right, str(parting.character), *token, *scores))
        columns = (
            "query",
            "document",
            f"{a} goes on",
            f"{b} goes on",
            "char.",
            *(["token"] if has_tokens else []),
            a,
            b,
        )
        title = f"Diverging chains: {len(self.partings)}, largest score difference first"
        return Table(title, columns, rows, n_texts=4)


def p_value(value: float | None) -> str:
    """A p-value as a table has it; "" where nothing was tested."""
    return "" if value is None else f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _p_values(row: PairedMeasure) -> tuple[float | None, ...]:
    return row.t_test, row.t_test_holm, row.permutation_test, row.permutation_test_holm


def _two(counts: tuple[int, int]) -> str:
    return f"{counts[0]}, {counts[1]}"


def _both(found: Difference) -> str:
    return f"{found.mean:.3g}, {found.largest:.3g}"


def _share(n: int, total: int) -> str:
    return f"{n} of {total}" + (f" ({100 * n / total:.1f} %)" if total else "")
