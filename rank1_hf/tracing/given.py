"""The observer of given chains: where the model would have gone elsewhere, and how likely the answers are."""

from collections.abc import Callable
from dataclasses import dataclass

from rank1_hf.decoding.watcher import Needs, Reading
from rank1_hf.results.verification import Parting
from rank1_hf.tracing.observer import Observer, WatchedPair


@dataclass(frozen=True, slots=True)
class AnswerLogits:
    """The two answers at a verdict.

    Attributes:
        true_logit, false_logit: the logits.
        true_rank, false_rank: their ranks among all tokens, from 1.
        true_logprob: the log-probability of true, over the whole vocabulary.
    """

    true_logit: float
    false_logit: float
    true_rank: int
    false_rank: int
    true_logprob: float


class GivenChainReader(Observer):
    """Reads what teacher forcing says about each pair's chain.

    Args:
        true_id, false_id: the answers.
        rounding: how near to a logit another one counts as equal to it.

    Attributes:
        ties: by index, the first place where the model would have gone elsewhere within rounding.
        partings: by index, the first place beyond that.
        answers: by index.
    """

    step_needs = Needs(scores=True, logits=True)
    verdict_needs = Needs(logits=True)

    def __init__(self, true_id: int, false_id: int, rounding: Callable[[float], float]) -> None:
        self._answers = [true_id, false_id]
        self._rounding = rounding
        self.ties: dict[int, Parting] = {}
        self.partings: dict[int, Parting] = {}
        self.answers: dict[int, AnswerLogits] = {}

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:
        """Compare a token with the model's."""
        assert reading.scores is not None
        assert reading.logits is not None
        likeliest = reading.scores.token
        if token == likeliest or pair.index in self.partings:
            return
        logit, other = reading.logits[[likeliest, token]].tolist()
        parting = Parting(pair.n_seen - len(pair.prompt), token, likeliest, logit - other, logit)
        beyond = parting.margin > self._rounding(logit)
        (self.partings if beyond else self.ties).setdefault(pair.index, parting)

    def verdict(self, pair: WatchedPair, reading: Reading) -> None:
        """Note the answers."""
        assert reading.logits is not None
        two = reading.logits[self._answers]
        ranks = (reading.logits[:, None] > two).sum(0) + 1
        logprob = two[0] - reading.logits.logsumexp(0)
        true_logit, false_logit = two.tolist()
        true_rank, false_rank = ranks.tolist()
        self.answers[pair.index] = AnswerLogits(true_logit, false_logit, true_rank, false_rank, float(logprob))
