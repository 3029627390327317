"""How far two sides agree: the same rankings, the same decisions, the same chains; and where chains diverge."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rank1_hf.chains.chain import common_prefix_length
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.saved import Places

_DECIMALS = 12  # of Kendall's tau, whose rounding would make equal rankings differ
Tokenize = Callable[[str], Sequence[int]]
"""A chain's token ids."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Two chains about one pair that are not the same.

    Attributes:
        index: of the pair.
        query, document: its ids.
        character: the first place, from 0, at which the texts differ; the length of one that ends there.
        token: the same in tokens; None where they are not known.
        rest: what either chain says from there on.
        scores: of either side; NaN where there is none.
    """

    index: int
    query: str
    document: str
    character: int
    token: int | None
    rest: tuple[str, str]
    scores: tuple[float, float]

    @property
    def score_difference(self) -> float:
        """How far the scores are apart; 0 where one is missing."""
        difference = abs(self.scores[1] - self.scores[0])
        return 0.0 if math.isnan(difference) else difference


@dataclass(frozen=True, slots=True)
class Difference:
    """How far numbers of the two sides are apart: the mean and the largest absolute difference."""

    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the judgments of two sides agree. Pairs without a score on one side count only among `n_both`.

    Attributes:
        n_both: pairs that both sides have.
        n_only: pairs that only the one, or only the other has.
        n_unscored: of `n_both`, those without a score, on either side.
        n_scored: of `n_both`, those with a score on both.
        n_same_decision: of these, those with the same answer.
        n_same_score: of these, those whose scores are equal, bit by bit.
        n_same_chain: of these, those with the same chain.
        score: the differences of the scores; None where there are none.
        log_odds: the differences of the log-odds where both are finite; None where none are.
    """

    n_both: int
    n_only: tuple[int, int]
    n_unscored: tuple[int, int]
    n_scored: int
    n_same_decision: int
    n_same_score: int
    n_same_chain: int
    score: Difference | None
    log_odds: Difference | None


def agreement(a: Mapping[int, Judgment], b: Mapping[int, Judgment]) -> Agreement:
    """How far two sides agree about the pairs that both have, which are matched by their index."""
    both = [(judgment, b[index]) for index, judgment in a.items() if index in b]
    scored = [pair for pair in both if pair[0].error is None and pair[1].error is None]
    return Agreement(
        n_both=len(both),
        n_only=(len(a.keys() - b.keys()), len(b.keys() - a.keys())),
        n_unscored=(sum(x.error is not None for x, _ in both), sum(y.error is not None for _, y in both)),
        n_scored=len(scored),
        n_same_decision=sum(x.label == y.label for x, y in scored),
        n_same_score=sum(x.score == y.score for x, y in scored),
        n_same_chain=sum(x.chain == y.chain for x, y in scored),
        score=_difference([(x.score, y.score) for x, y in scored]),
        log_odds=_difference([(x.log_odds, y.log_odds) for x, y in scored]),
    )


def partings(
    a: Mapping[int, Judgment], b: Mapping[int, Judgment], places: Places, tokenize: Tokenize | None = None
) -> list[Parting]:
    """Where chains diverge, those first whose scores are furthest apart.

    Args:
        a, b: judgments by index.
        places: the pairs' indices.
        tokenize: gives the token ids of chains that have no trace.
    """
    found = []
    for (query, document), index in places.items():
        left, right = a.get(index), b.get(index)
        if left is None or right is None or left.chain == right.chain or left.error or right.error:
            continue
        character = common_prefix_length(left.chain, right.chain)
        ids = _token_ids(left, tokenize), _token_ids(right, tokenize)
        token = None if ids[0] is None or ids[1] is None else common_prefix_length(ids[0], ids[1])
        rest = left.chain[character:], right.chain[character:]
        found.append(Parting(index, query, document, character, token, rest, (left.score, right.score)))
    return sorted(found, key=lambda parting: (-parting.score_difference, parting.character))


def kendall_taus(a: Mapping[str, Mapping[str, float]], b: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Kendall's tau-b between the scores of each query's documents that both runs have.

    A query with fewer than two such documents, or with equal scores alone on one side, has none. By SciPy.
    """
    from scipy.stats import kendalltau

    taus = {}
    for query, scores in a.items():
        shared = [document for document in scores if document in b.get(query, {})]
        x, y = [scores[document] for document in shared], [b[query][document] for document in shared]
        if len(set(x)) > 1 and len(set(y)) > 1:
            taus[query] = round(float(kendalltau(x, y).statistic), _DECIMALS)
    return taus


def _difference(pairs: Sequence[tuple[float, float]]) -> Difference | None:
    found = [abs(y - x) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    return Difference(fmean(found), max(found)) if found else None


def _token_ids(judgment: Judgment, tokenize: Tokenize | None) -> Sequence[int] | None:
    if judgment.trace is not None:
        return judgment.trace.token_ids
    return None if tokenize is None else tokenize(judgment.chain)
