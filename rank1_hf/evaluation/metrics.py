"""Metrics, computed by ir_measures."""

from rank1_hf.evaluation.trec import Qrels, Run

try:
    import ir_measures
except ImportError as error:
    raise ImportError("metrics need ir_measures; install it with: pip install 'rank1-hf[eval]'") from error


def ndcg(qrels: Qrels, run: Run, cutoff: int = 10) -> float:
    """The mean nDCG@cutoff over the judged queries; a query that the run lacks counts as 0."""
    measure = ir_measures.nDCG @ cutoff
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])
