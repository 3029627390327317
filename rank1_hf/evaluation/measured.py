"""Finished runs, measured by qrels: what `rank1-hf measure` reports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rank1_hf.evaluation.candidates import check_judged, refuse_qrels
from rank1_hf.evaluation.metrics import MEASURES, Values, aggregate, check_measures, coverage, measure, of_run
from rank1_hf.files.trec import Qrels, Run
from rank1_hf.viewing.tables import Table, csv_text

_Row = tuple[str | float | None, ...]


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """The measures of one run.

    Attributes:
        name: what the run is called.
        values: measure -> query -> value.
    """

    name: str
    values: Values

    def of_all_queries(self) -> dict[str, float]:
        """Each measure over all queries: the mean, or the sum of what counts (NumRet, NumQ, NumRel)."""
        return {name: aggregate(name)(list(by_query.values())) for name, by_query in self.values.items()}

    def by_query(self) -> dict[str, dict[str, float]]:
        """query -> measure -> value, where there is one."""
        found: dict[str, dict[str, float]] = {}
        for name, by_query in self.values.items():
            for query, value in by_query.items():
                found.setdefault(query, {})[name] = value
        return found


@dataclass(frozen=True, slots=True)
class MeasuredRuns:
    """The measures of several runs by the same qrels, and their forms.

    Attributes:
        runs: in the order in which they were given.
        notes: which queries are only in a run or only judged, a sentence each.
    """

    runs: Sequence[MeasuredRun]
    notes: Sequence[str]

    def tables(self, *, per_query: bool = False) -> list[Table]:
        """A table with a line for each run, and one with a line for each query of each run."""
        names = self._names()
        found = [Table("Measures", ("run", *names, "queries"), _shown(self._of_runs(names)))]
        if per_query:
            found.append(Table("Queries", ("query", "run", *names), _shown(self._of_queries(names)), n_texts=2))
        return found

    def to_csv(self, *, per_query: bool = False) -> str:
        """One table, with all digits: a line for each run, or for each query of each run."""
        names = self._names()
        if per_query:
            return csv_text(("query", "run", *names), self._of_queries(names))
        return csv_text(("run", *names, "queries"), self._of_runs(names))

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for run in self.runs for name in run.values))

    def _of_runs(self, names: Sequence[str]) -> list[_Row]:
        rows: list[_Row] = []
        for run in self.runs:
            means, n_queries = run.of_all_queries(), max(map(len, run.values.values()), default=0)
            rows.append((run.name, *(means.get(name) for name in names), n_queries))
        return rows

    def _of_queries(self, names: Sequence[str]) -> list[_Row]:
        rows: list[_Row] = [
            (query, run.name, *(values.get(name) for name in names))
            for run in self.runs
            for query, values in run.by_query().items()
        ]
        order = {query: place for place, query in enumerate(dict.fromkeys(row[0] for row in rows))}
        return sorted(rows, key=lambda row: order[row[0]])  # a query's runs below each other

    def to_dict(self, *, per_query: bool = False) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"runs": [_facts(run, per_query) for run in self.runs], "notes": list(self.notes)}


def measure_runs(
    runs: Sequence[tuple[str, Run]],
    qrels: Qrels,
    measures: Sequence[str] = MEASURES,
    *,
    only_run_queries: bool = False,
) -> MeasuredRuns:
    """Measure runs by the same qrels.

    Args:
        runs: what each is called, and its rankings.
        qrels: the relevance judgments.
        measures: what to measure, as ir_measures names it.
        only_run_queries: leave judged queries that a run lacks out of its measures, as trec_eval does; else they count
            as 0, as with trec_eval -c.

    Raises:
        InputError: a run and the qrels have no query in common, a run is the qrels, or a measure cannot be computed.
    """
    check_measures(measures)
    for name, run in runs:
        check_judged(run, qrels, name)
        refuse_qrels(run, qrels, name)
    measured = [
        MeasuredRun(name, measure(of_run(qrels, run) if only_run_queries else qrels, run, measures))
        for name, run in runs
    ]
    return MeasuredRuns(measured, list(_notes(runs, qrels, only_run_queries)))


def _notes(runs: Sequence[tuple[str, Run]], qrels: Qrels, only_run_queries: bool) -> Iterator[str]:
    for name, run in runs:
        yield from coverage(qrels, run, "the run" if len(runs) == 1 else name, only_run_queries=only_run_queries)


def _shown(rows: Sequence[_Row]) -> list[tuple[str, ...]]:
    return [tuple(map(_cell, row)) for row in rows]


def _cell(value: str | float | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _facts(run: MeasuredRun, per_query: bool) -> dict[str, Any]:
    rows = [
        {"measure": name, "value": value, "n": len(run.values[name])} for name, value in run.of_all_queries().items()
    ]
    return {"run": run.name, "measures": rows} | ({"queries": run.values} if per_query else {})
