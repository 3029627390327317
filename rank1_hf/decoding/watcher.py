"""The protocol of watchers: what they can request of a row, when they are notified, and what they receive.

The loop depends on this protocol only, not on its implementations. What no watcher requests is not computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from rank1_hf.chains.chain import Chain

Event = Literal["admitted", "step", "verdict", "preempted"]
"""admitted: the row has a place among the live ones, for the first time or again after it was preempted; step: the
chain has taken a token; verdict: the chain has ended and the verdict is read; preempted: its KV is given up."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a watcher requests at each token, or at the verdict.

    Attributes:
        scores: the numbers of `Scores`.
        logits: the model's logits, before any logits processor.
        hidden_states: the outputs of these decoder layers, counted from 0; the final norm is not applied.
        attention: the attention weights of these (layer, head), both counted from 0.
        kv: the keys and values of the row, layer by layer when they are asked for.
    """

    scores: bool = False
    logits: bool = False
    hidden_states: frozenset[int] = frozenset()
    attention: frozenset[tuple[int, int]] = frozenset()
    kv: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.scores or other.scores,
            self.logits or other.logits,
            self.hidden_states | other.hidden_states,
            self.attention | other.attention,
            self.kv or other.kv,
        )


NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class Scores:
    """How sure the model is of its likeliest token, in float32.

    Attributes:
        token: its id.
        logprob: its log-probability (natural logarithm).
        alternative: the id of the second likeliest token.
        margin: logit(likeliest) - logit(second likeliest).
        entropy: of the next token, in nats, over the whole vocabulary.
    """

    token: int
    logprob: float
    alternative: int
    margin: float
    entropy: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read off a step behind one token of a row: what its watchers asked for, and None or nothing else.

    All tensors are inference tensors on the device of their layer, and copies of the row's own: they may be kept. Only
    `logits` is a view of the whole step's, so copy it (`.clone()`) to keep it for long.

    Attributes:
        scores: see `Scores`.
        logits: [vocabulary], float32.
        hidden_states: by layer, [hidden size], the model's dtype.
        attention: by (layer, head), [context], float32: weights over the tokens up to this one, which sum to 1.
        kv: layer -> (keys, values), [KV heads, context, head dim] each, in the KV cache's dtype, keys rotated; a copy,
            made by the call, which is possible only while the watcher is being notified.
    """

    scores: Scores | None
    logits: Tensor | None
    hidden_states: dict[int, Tensor]
    attention: dict[tuple[int, int], Tensor]
    kv: Callable[[int], tuple[Tensor, Tensor]] | None


class Watcher(Protocol):
    """Is notified of what happens to one row."""

    def needs(self, *, verdict: bool) -> Needs:
        """What it requests at the verdict, or at each token."""

    def notify(
        self, event: Event, chain: Chain, n_seen: int, token: int | None = None, reading: Reading | None = None
    ) -> None:
        """Something has happened to the row. It must not raise.

        Args:
            event: what.
            chain: as it is now, to be read only.
            n_seen: the length of the context that gave this token; 0 where there is no token.
            token: at a step, what the chain was given: the model's token, what a logits processor made of it, or the
                next one of a chain that the caller has given.
            reading: at a step and at the verdict, what was asked for; None where that is nothing.
        """
