"""The observer that records a trace: the model's probabilities at every token of one pair's chain."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rank1_hf.chains.beliefs import BeliefAt, check_belief_at
from rank1_hf.decoding.requests import Decoded
from rank1_hf.decoding.watcher import Needs, Reading, Scores
from rank1_hf.inputs.values import truth_value
from rank1_hf.prompts.prompt import Prompt, PromptEncoder
from rank1_hf.results.trace import Trace
from rank1_hf.tracing.lens import LensObserver
from rank1_hf.tracing.observer import Observer, WatchedPair


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What a trace contains besides the tokens.

    Attributes:
        belief: read the belief at the start and behind each sentence ("sentences"), or at the start and every so many
            tokens; None: not at all. A point costs the few tokens of a forced close.
        lens: read log_odds from every layer at the verdict.
        attention: read what the verdict attends to in the prompt.
    """

    belief: BeliefAt | None = None
    lens: bool = False
    attention: bool = False

    def __post_init__(self) -> None:
        if self.belief is not None:
            check_belief_at(self.belief)
        for name in ("lens", "attention"):
            truth_value(f"{name} of a trace", getattr(self, name))


@dataclass(slots=True)
class _TokenRecord:
    token: int
    logprob: float
    alternative: int
    margin: float
    entropy: float
    seconds: float


class Tracer(Observer):
    """Records the trace of one pair."""

    step_needs = Needs(scores=True, logits=True)

    def __init__(self) -> None:
        self._start: float | None = None
        self._records: dict[int, _TokenRecord] = {}  # by the token's place in the context

    def admitted(self, pair: WatchedPair) -> None:
        """The clock starts."""
        if self._start is None:
            self._start = time.perf_counter()

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:
        """Note a token."""
        assert self._start is not None
        assert reading.scores is not None
        seconds = time.perf_counter() - self._start
        scores = _of_chosen(reading.scores, token, reading)
        self._records[pair.n_seen] = _TokenRecord(
            token, scores.logprob, scores.alternative, scores.margin, scores.entropy, seconds
        )

    def trace(
        self, decoded: Decoded, prompt: Prompt, encoder: PromptEncoder, lens: LensObserver | None = None
    ) -> Trace:
        """The trace of the pair, once it is decoded, with what the lens has read if there was one."""
        records = self._of_chain(len(prompt.ids), decoded.thought)
        log_odds = None if lens is None else lens.log_odds
        attention = None if lens is None or lens.attention is None else lens.attention.mean((0, 1)).tolist()
        return Trace(
            index=decoded.index,
            token_ids=list(decoded.thought),
            texts=encoder.token_texts(prompt.ids, decoded.thought),
            logprobs=[each.logprob for each in records],
            alternative_ids=[each.alternative for each in records],
            alternative_texts=[encoder.chain_text(prompt.ids, [each.alternative]) for each in records],
            margins=[each.margin for each in records],
            entropies=[each.entropy for each in records],
            seconds=[each.seconds for each in records],
            belief=list(decoded.beliefs),
            lens=None if log_odds is None else log_odds.tolist(),
            attention=attention,
            prompt_texts=[] if attention is None else encoder.prompt_texts(prompt),
        )

    def _of_chain(self, n_prompt: int, thought: Sequence[int]) -> list[_TokenRecord]:
        """What was noted of each token of the final chain; NaN where the model did not generate it."""
        nothing = math.nan
        found: list[_TokenRecord] = []
        for place, token in enumerate(thought, start=n_prompt):
            record = self._records.get(place)
            if record is None or record.token != token:  # the chain was rewritten there
                record = _TokenRecord(token, nothing, token, nothing, nothing, nothing)
            found.append(record)
        return found


def _of_chosen(scores: Scores, token: int, reading: Reading) -> Scores:
    """The scores of a token that a logits processor may have chosen in the likeliest one's place."""
    if token == scores.token:
        return scores
    assert reading.logits is not None
    margin = float(reading.logits[token] - reading.logits[scores.token])
    return Scores(token, scores.logprob + margin, scores.token, margin, scores.entropy)
