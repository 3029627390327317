"""Metrics, computed by ir_measures; two measures of single tasks by the tasks' own definitions; and what changed.

A ranking is measured in the order that it has: documents of equal score stand as they do in the run, since this is the
order in which they were taken and shown. (The libraries behind ir_measures break such ties by the documents' ids, each
in its own direction.)
"""

import math
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rank1_hf.evaluation.measures import parse_measure, provider_of
from rank1_hf.evaluation.significance import paired_t_test
from rank1_hf.files.inputs import InputError
from rank1_hf.files.trec import Qrels, Run, best_first

try:
    import ir_measures
except ImportError as error:
    raise ImportError("metrics need ir_measures and scipy; install them with: pip install ir-measures scipy") from error

MEASURES = ("nDCG@10", "RR@10", "AP", "R@10", "R@100")
"""What is measured by default, as ir_measures names it: RR@10 is MRR@10, AP is MAP, R@100 is recall at 100."""

PAIRWISE_ACCURACY = "pairwise accuracy"
P_MRR = "p-MRR"

Values = dict[str, dict[str, float]]
"""measure -> query -> value."""

_HIGHEST_OF_GDEVAL = 4  # grade
_OF_JUDGMENTS = {"NumQ", "NumRel"}  # which ir_measures gives as 0 for a query that the run lacks


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measure before and after, over the queries for which it has a value in both rankings.

    Attributes:
        measure: its name.
        before, after: the means over the queries; of what counts (NumRet, NumQ, NumRel) the sums, as in ir_measures.
        p_value: of a two-sided paired t-test over the queries; None where there is nothing to test: one query, or
            differences that do not vary.
        n: how many queries.
    """

    measure: str
    before: float
    after: float
    p_value: float | None
    n: int


def ndcg(qrels: Qrels, run: Run, cutoff: int = 10) -> float:
    """The mean nDCG@cutoff over the judged queries; a query that the run lacks counts as 0.

    Raises:
        InputError: the cutoff is below 1.
    """
    name = f"nDCG@{cutoff}"
    return fmean(measure(qrels, run, [name])[name].values())


def check_measures(names: Iterable[str]) -> None:
    """Say at once that a name is no measure that can be computed here, whatever the run is.

    Raises:
        InputError: for the first such name, with the reason.
    """
    for name in names:
        parse_measure(name)


def of_run(qrels: Qrels, run: Run) -> Qrels:
    """The qrels of the queries that a run ranks: those that trec_eval averages over, unless it is given -c."""
    return {query: grades for query, grades in qrels.items() if run.get(query)}


def coverage(qrels: Qrels, run: Run, name: str = "the run", *, only_run_queries: bool = False) -> Iterator[str]:
    """Which queries only one of the two has, a sentence each.

    Args:
        qrels, run: the relevance judgments and the rankings.
        name: what the run is called.
        only_run_queries: whether the qrels that are measured by are those of `of_run`.
    """
    if n := len(qrels) - len(of_run(qrels, run)):
        one = n == 1
        verdict = ("is left out" if one else "are left out") if only_run_queries else f"count{'s' * one} as 0"
        yield f"{n} judged {'query is' if one else 'queries are'} not in {name} and {verdict}"
    if n := len(run.keys() - qrels.keys()):
        noun, verb = ("query", "has") if n == 1 else ("queries", "have")
        yield f"{n} {noun} of {name} {verb} no relevance judgments (qrels)"


def measure(
    qrels: Qrels, run: Run, names: Sequence[str] = MEASURES, skip: Callable[[InputError], None] | None = None
) -> Values:
    """Each measure's value for each judged query; a query that the run lacks counts as 0.

    What NumQ and NumRel count is independent of the run, so they count such a query too, as trec_eval -c does. Accuracy
    alone has no value for a query of which nothing relevant was retrieved.

    Where the queries' ids are those of NevIR (`7_q1`, `7_q2`) or FollowIR (`7-og`, `7-changed`), their task's own
    measure is added, for each `7`.

    Args:
        qrels, run: the relevance judgments and the rankings.
        names: of the measures, as ir_measures has them; two names of one measure give both their values.
        skip: called with what is wrong with a measure that cannot be computed; the others are computed all the same.

    Raises:
        InputError: a measure cannot be computed, and there is no `skip`.
    """
    ranked = {query: list(best_first(scores)) for query in qrels if (scores := run.get(query))}
    plain_qrels, plain_run = _renamed(qrels, ranked)
    values: Values = {}
    for name in dict.fromkeys(names):
        try:
            found = _compute(name, plain_qrels, plain_run)
        except InputError as error:
            if skip is None:
                raise
            skip(error)
            continue
        values[name] = {query: found[id_] for query, id_ in zip(qrels, plain_qrels, strict=True) if id_ in found}
    in_order = {query: _falling(documents) for query, documents in ranked.items()}
    for name, of_task in ((PAIRWISE_ACCURACY, pairwise_accuracy(qrels, in_order)), (P_MRR, p_mrr(qrels, in_order))):
        if of_task:
            values[name] = of_task
    return values


def _renamed(qrels: Qrels, ranked: Mapping[str, Sequence[str]]) -> tuple[Qrels, Run]:
    """Qrels and rankings under ids that every library takes, queries and documents numbered in their order.

    gdeval wants digits alone for a query, reads `PLAIN-1` as 1, and divides its lines at spaces.
    """
    plain_qrels: Qrels = {}
    plain_run: Run = {}
    for number, (query, grades) in enumerate(qrels.items(), start=1):
        documents = ranked.get(query, ())
        ids = {document: sys.intern(str(n)) for n, document in enumerate(dict.fromkeys((*documents, *grades)))}
        plain_qrels[str(number)] = {ids[document]: grade for document, grade in grades.items()}
        if documents:
            plain_run[str(number)] = _falling([ids[document] for document in documents])
    return plain_qrels, plain_run


def _falling(documents: Sequence[str]) -> dict[str, float]:
    """Scores that say the documents' order, and nothing else: n, n - 1, ..., 1."""
    return {document: float(len(documents) - place) for place, document in enumerate(documents)}


def _compute(name: str, qrels: Qrels, run: Run) -> dict[str, float]:
    """One measure's value for each query, where it has one."""
    parsed = parse_measure(name)
    highest = max((grade for grades in qrels.values() for grade in grades.values()), default=0)
    if provider_of(parsed) is ir_measures.gdeval and highest > _HIGHEST_OF_GDEVAL:
        raise InputError(
            f"{name} cannot be computed: gdeval takes grades up to {_HIGHEST_OF_GDEVAL}, and the highest is {highest}"
        )
    if parsed.NAME in _OF_JUDGMENTS:
        run = {query: {"0": 1.0} for query in qrels}
    os.environ.setdefault("PERL_BADLANG", "0")  # gdeval is Perl, which otherwise complains of locales on stderr
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = [(one.query_id, float(one.value)) for one in ir_measures.iter_calc([parsed], qrels, run)]
    except Exception as error:  # of whichever library computes it
        reason = " ".join(str(error).split())
        raise InputError(f"{name} cannot be computed: {type(error).__name__}: {reason}") from error
    values = {query: value for query, value in results if not math.isnan(value)}
    if not values:
        raise InputError(f"{name} cannot be computed: it has no value for any query")
    return values


def pairwise_accuracy(qrels: Qrels, run: Run) -> dict[str, float]:
    """NevIR's measure: 1 where both queries of a pair have their own passage first and the other's second, else 0.

    As in Weller et al., NevIR: Negation in Neural Information Retrieval (arXiv 2305.07614), section 3, and MTEB's
    `paired_accuracy`.
    """
    values: dict[str, float] = {}
    for pair, (first, second) in _twins(qrels, "_q1", "_q2"):
        values[pair] = float(_is_first(qrels[first], run.get(first)) and _is_first(qrels[second], run.get(second)))
    return values


def p_mrr(qrels: Qrels, run: Run) -> dict[str, float]:
    """FollowIR's measure: how far the documents fall that an altered instruction makes irrelevant; from -1 to 1.

    For a document at rank r under the original and s under the changed instruction it is s/r - 1 where it rises
    (s <= r) and 1 - r/s where it falls, averaged over the documents of a query. As in Weller et al., FollowIR
    (arXiv 2403.15246), section 4, and MTEB's `calculate_pmrr`; a document that a ranking lacks stands behind its end.
    """
    values: dict[str, float] = {}
    for query, (original, changed) in _twins(qrels, "-og", "-changed"):
        fallen = [id_ for id_, grade in qrels[original].items() if grade > 0 >= qrels[changed].get(id_, 0)]
        before, after = _ranks(run.get(original, {})), _ranks(run.get(changed, {}))
        ranks = [(before.get(id_, len(before) + 1), after.get(id_, len(after) + 1)) for id_ in fallen]
        if ranks:
            values[query] = fmean(s / r - 1 if s <= r else 1 - r / s for r, s in ranks)
    return values


def compare(before: Values, after: Values) -> list[Comparison]:
    """Each measure's values over all queries, and whether their difference could be chance.

    A measure that has no query with a value in both is left out.
    """
    comparisons = []
    for name, values in after.items():
        pairs = [(before[name][query], value) for query, value in values.items() if query in before[name]]
        if pairs:
            first, second = zip(*pairs, strict=True)
            mean = aggregate(name)
            comparisons.append(Comparison(name, mean(first), mean(second), paired_t_test(first, second), len(pairs)))
    return comparisons


def aggregate(name: str) -> Callable[[Sequence[float]], float]:
    """What makes one value of a measure's values over the queries: the mean, or the sum of what counts."""
    of_task = name in (PAIRWISE_ACCURACY, P_MRR)
    return fmean if of_task or isinstance(parse_measure(name).aggregator(), ir_measures.MeanAgg) else math.fsum


def _twins(qrels: Qrels, one: str, other: str) -> list[tuple[str, tuple[str, str]]]:
    """Queries that come in twos, by what their ids have in common."""
    found: dict[str, list[str]] = defaultdict(list)
    for query in qrels:
        for ending in (one, other):
            if query.endswith(ending):
                found[query.removesuffix(ending)].append(query)
    return [(common, (common + one, common + other)) for common, queries in found.items() if len(queries) == 2]


def _ranks(scores: Mapping[str, float]) -> dict[str, int]:
    """Each document's rank, from 1; `measure` has made all scores different."""
    ordered = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
    return {document: rank for rank, document in enumerate(ordered, start=1)}


def _is_first(grades: Mapping[str, int], scores: Mapping[str, float] | None) -> bool:
    relevant = [document for document, grade in grades.items() if grade > 0]
    return bool(scores) and len(relevant) == 1 and _ranks(scores or {}).get(relevant[0]) == 1
