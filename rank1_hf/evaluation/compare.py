"""Two outputs of `evaluate`, two runs, or two files of judgments, compared.

two sides -> measures with paired tests, agreement, diverging chains -> a report: tables, JSON, a page
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rank1_hf.evaluation import provenance, significance
from rank1_hf.evaluation.agreement import Tokenize, agreement, kendall_taus, partings
from rank1_hf.evaluation.candidates import check_judged, refuse_qrels
from rank1_hf.evaluation.comparison import ComparisonReport, PairedMeasure
from rank1_hf.evaluation.metrics import MEASURES, Values, aggregate, check_measures, coverage, measure, of_run
from rank1_hf.evaluation.sides import Side, by_ids, read_side
from rank1_hf.files.inputs import InputError
from rank1_hf.files.sources import Source
from rank1_hf.files.trec import Qrels, Run, read_qrels
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.printable import counted
from rank1_hf.viewing.saved import Places


def compare(
    a: str | Path | Run | Sequence[Judgment],
    b: str | Path | Run | Sequence[Judgment],
    *,
    qrels: str | Path | Qrels | None = None,
    measures: Sequence[str] | None = None,
    names: tuple[str, str] = ("A", "B"),
    corpus: Source | None = None,
    tokenize: Tokenize | None = None,
    only_run_queries: bool = False,
) -> ComparisonReport:
    """Compare two sides. Differences are those of `b` from `a`.

    Args:
        a, b: an output folder of `evaluate`, a file with a run or with judgments, a run, or what `Rank1.judge` gave.
        qrels: the relevance judgments, as a file or `{query id: {document id: grade}}`. Without them the measures
            are those that two folders of `evaluate` have; other sides are not measured.
        measures: what is measured, as ir_measures names it. None: the five that `evaluate` has, or those that two
            folders have in common.
        names: what the sides are called.
        corpus: the collection behind the ids of one side, where the other has texts alone.
        tokenize: gives the token ids of a chain, so that the report says at which token chains diverge. None: it says
            so where the judgments have traces, and else only at which character.
        only_run_queries: leave judged queries that a side lacks out of its measures, instead of counting them as 0;
            what is measured is then the queries that both sides have. Needs `qrels`.

    Raises:
        InputError: a side or the qrels cannot be read, a side is the qrels, the sides have nothing in common, or a
            measure cannot be computed.
    """
    if measures is not None:
        check_measures(measures)
    if only_run_queries and qrels is None:
        raise InputError("only_run_queries needs qrels: what two folders have measured is as it is")
    places: Places = {}
    sides = read_side(a, places), read_side(b, places)
    if corpus is not None and not _in_common(*sides):
        sides = by_ids(sides[0], places, corpus), by_ids(sides[1], places, corpus)
    if not _in_common(*sides):
        first, other = (next(iter(side.run), None) for side in sides)
        raise InputError(
            f"{names[0]} and {names[1]} have no query in common: the first is {first!r} in {names[0]}, {other!r} in "
            f"{names[1]}" + ("" if corpus is not None else "; a collection would tell which text has which id")
        )
    grades = read_qrels(Path(qrels)) if isinstance(qrels, str | Path) else qrels
    if grades is not None:
        for side, name, given in zip(sides, names, (a, b), strict=True):
            refuse_qrels(side.run, grades, f"{name} ({_source(given)})")
    notes = list(_notes(sides, grades, names, only_run_queries))
    values = _measured(sides, grades, measures, names, only_run_queries)
    if measures is None and grades is None:
        notes += _of_one_side(sides, names)
    if values is None:
        notes.append("nothing is measured; give qrels (--qrels)")
    elif grades is None and not _measured_alike(sides):
        notes.append(
            f"{names[0]} and {names[1]} were measured by different qrels; give qrels (--qrels) to measure both alike"
        )
    judged = [side.judgments for side in sides]
    has_pairs = bool(judged[0].keys() & judged[1].keys())
    return ComparisonReport(
        names=names,
        sources=(_source(a), _source(b)),
        environment=_environment(sides),
        measures=paired_measures(*values) if values else [],
        values=_common(*values) if values else {},
        agreement=agreement(judged[0], judged[1]) if has_pairs else None,
        kendall_tau=kendall_taus(_judged_run(sides[0], has_pairs), _judged_run(sides[1], has_pairs)),
        partings=partings(judged[0], judged[1], places, tokenize),
        notes=notes,
        judgments=(list(judged[0].values()), list(judged[1].values())),
        places=places,
        qrels=next(filter(None, (grades, *(provenance.own_qrels(side.environment) for side in sides))), None),
        environments=(sides[0].environment, sides[1].environment),
    )


def paired_measures(a: Values, b: Values) -> list[PairedMeasure]:
    """Each measure of two sides, over the queries for which it has a value on both, with paired tests.

    The p-values of all measures are corrected together, those of each test by themselves.
    """
    found = []
    for name, by_query in _common(a, b).items():
        first, second = zip(*by_query.values(), strict=True)
        mean, changes = aggregate(name), significance.differences(first, second)
        found.append(
            PairedMeasure(
                measure=name,
                a=mean(first),
                b=mean(second),
                n=len(by_query),
                wins=int((changes > 0).sum()),
                ties=int((changes == 0).sum()),
                losses=int((changes < 0).sum()),
                t_test=significance.paired_t_test(first, second),
                permutation_test=significance.permutation_test(first, second),
            )
        )
    t_tests = significance.holm([row.t_test for row in found])
    permutation_tests = significance.holm([row.permutation_test for row in found])
    return [row.corrected(*both) for row, *both in zip(found, t_tests, permutation_tests, strict=True)]


def _measured(
    sides: tuple[Side, Side],
    qrels: Qrels | None,
    measures: Sequence[str] | None,
    names: tuple[str, str],
    only_run_queries: bool,
) -> tuple[Values, Values] | None:
    """What is measured on either side; None where nothing can be."""
    if qrels is not None:
        for side, name in zip(sides, names, strict=True):
            check_judged(side.run, qrels, name)
        first, second = (
            measure(of_run(qrels, side.run) if only_run_queries else qrels, side.run, measures or MEASURES)
            for side in sides
        )
        return first, second
    a, b = (side.values for side in sides)
    if a is None or b is None:
        if measures is not None:
            raise InputError("measures need qrels (--qrels) where a side is no folder that evaluate has measured")
        return None
    wanted = [name for name in a if name in b] if measures is None else list(dict.fromkeys(measures))
    for values, name in ((a, names[0]), (b, names[1])):
        if missing := [each for each in wanted if each not in values]:
            raise InputError(
                f"{name} has no {missing[0]}, but {', '.join(values)}; give qrels (--qrels) for other measures"
            )
    return {name: a[name] for name in wanted}, {name: b[name] for name in wanted}


def _common(a: Values, b: Values) -> dict[str, dict[str, tuple[float, float]]]:
    """measure -> query -> both values, where there are both."""
    both = {
        name: {query: (value, b[name][query]) for query, value in values.items() if query in b[name]}
        for name, values in a.items()
        if name in b
    }
    return {name: values for name, values in both.items() if values}


def _notes(
    sides: tuple[Side, Side], qrels: Qrels | None, names: tuple[str, str], only_run_queries: bool
) -> Iterable[str]:
    """What one has to know about the two sides, a sentence each."""
    for side, name in zip(sides, names, strict=True):
        if qrels is not None:
            yield from coverage(qrels, side.run, name, only_run_queries=only_run_queries)
        if not side.finished:
            yield f"{name} is a job that was stopped; compared so far: {counted(len(side.judgments), 'judgment')}"


def _of_one_side(sides: tuple[Side, Side], names: tuple[str, str]) -> Iterable[str]:
    """Which measures are left out, where both sides have some, under names that only one of them has."""
    a, b = (side.values or {} for side in sides)
    for values, others, name in ((a, b, names[0]), (b, a, names[1])):
        if others and (left_out := [each for each in values if each not in others]):
            yield f"{name} alone has {', '.join(left_out)}, which {'is' if len(left_out) == 1 else 'are'} left out"


def _measured_alike(sides: tuple[Side, Side]) -> bool:
    """Whether two outputs of `evaluate` were measured by the same qrels, as far as they say so: by one file, perhaps
    for other queries of it, or by others of the same content.
    """
    files, content = (
        [((side.environment or {}).get(part) or {}).get("qrels") for side in sides] for part in ("inputs", "content")
    )
    return (files[0] is not None and files[0] == files[1]) or None in content or content[0] == content[1]


def _environment(sides: tuple[Side, Side]) -> list[tuple[str, str, str]]:
    """What differs in how two outputs of `evaluate` were made."""
    a, b = (side.environment for side in sides)
    return [] if a is None or b is None else list(provenance.differences(a, b))


def _source(given: object) -> str:
    return str(given) if isinstance(given, str | Path) else "given in Python"


def _judged_run(side: Side, has_pairs: bool) -> Mapping[str, Mapping[str, float]]:
    """What rankings are compared by: where both sides have judgments, the documents that have one.

    A run of `evaluate` has the others below them, in the order that they had before on either side.
    """
    return side.judged if has_pairs else side.run


def _in_common(a: Side, b: Side) -> bool:
    return bool(a.run.keys() & b.run.keys() or a.judgments.keys() & b.judgments.keys())
