"""Metrics, computed by ir_measures; two measures of single tasks by the tasks' own definitions; and what changed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rank1_hf.evaluation.trec import Qrels, Run
from rank1_hf.inputs import InputError

try:
    import ir_measures
    import scipy  # noqa: F401 (said now if it is missing; what takes long of it is imported where it is used)
except ImportError as error:
    raise ImportError("metrics need ir_measures and scipy; install them with: pip install 'rank1-hf[eval]'") from error

MEASURES = ("nDCG@10", "RR@10", "AP", "R@10", "R@100")
"""What is measured by default, as ir_measures names it: RR@10 is MRR@10, AP is MAP, R@100 is recall at 100."""

PAIRWISE_ACCURACY = "pairwise accuracy"
P_MRR = "p-MRR"

Values = dict[str, dict[str, float]]
"""measure -> query -> value."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measure before and after.

    Attributes:
        measure: its name.
        before, after: the means over the queries.
        p_value: of a two-sided paired t-test over the queries; None where there is nothing to test: one query, or no
            difference.
        n: how many queries.
    """

    measure: str
    before: float
    after: float
    p_value: float | None
    n: int


def ndcg(qrels: Qrels, run: Run, cutoff: int = 10) -> float:
    """The mean nDCG@cutoff over the judged queries; a query that the run lacks counts as 0."""
    measure = ir_measures.nDCG @ cutoff
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])


def check_measures(names: Iterable[str]) -> None:
    """Say at once that a name is none of ir_measures'.

    Raises:
        InputError: for the first such name.
    """
    for name in names:
        try:
            ir_measures.parse_measure(name)
        except (NameError, ValueError, SyntaxError) as error:
            raise InputError(f"{name!r} is no measure that ir_measures knows; use for example nDCG@10") from error


def measure(qrels: Qrels, run: Run, names: Sequence[str] = MEASURES) -> Values:
    """Each measure's value for each judged query; a query that the run lacks counts as 0.

    Where the queries' ids are those of NevIR (`7_q1`, `7_q2`) or FollowIR (`7-og`, `7-changed`), their task's own
    measure is added, for each `7`.
    """
    values: Values = {name: {} for name in names}
    parsed = {ir_measures.parse_measure(name): name for name in names}
    for found in ir_measures.iter_calc(list(parsed), qrels, run):
        values[parsed[found.measure]][found.query_id] = float(found.value)
    values = {name: {query: of_query[query] for query in qrels} for name, of_query in values.items()}
    for name, of_task in ((PAIRWISE_ACCURACY, pairwise_accuracy(qrels, run)), (P_MRR, p_mrr(qrels, run))):
        if of_task:
            values[name] = of_task
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
    """Each measure's means and whether their difference could be chance."""
    return [
        Comparison(
            name,
            fmean(before[name].values()),
            fmean(after[name].values()),
            _p_value(before[name], after[name]),
            len(after[name]),
        )
        for name in after
    ]


def _p_value(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    pairs = [(before[query], after[query]) for query in after]
    if len(pairs) < 2 or all(x == y for x, y in pairs):
        return None
    from scipy.stats import ttest_rel

    result = ttest_rel([y for _, y in pairs], [x for x, _ in pairs])
    return float(result.pvalue)


def _twins(qrels: Qrels, one: str, other: str) -> list[tuple[str, tuple[str, str]]]:
    """Queries that come in twos, by what their ids have in common."""
    found: dict[str, list[str]] = defaultdict(list)
    for query in qrels:
        for ending in (one, other):
            if query.endswith(ending):
                found[query.removesuffix(ending)].append(query)
    return [(common, (common + one, common + other)) for common, queries in found.items() if len(queries) == 2]


def _ranks(scores: Mapping[str, float]) -> dict[str, int]:
    """Each document's rank, from 1; of equal scores the greater id comes first, as in trec_eval."""
    ordered = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
    return {document: rank for rank, document in enumerate(ordered, start=1)}


def _is_first(grades: Mapping[str, int], scores: Mapping[str, float] | None) -> bool:
    relevant = [document for document, grade in grades.items() if grade > 0]
    return bool(scores) and len(relevant) == 1 and _ranks(scores or {}).get(relevant[0]) == 1
