"""All that a caller may ask of one chain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rank1_hf.chains.rules import Rule


@dataclass(frozen=True, slots=True)
class Steering:
    """What a caller asks of one chain. The default asks nothing.

    Attributes:
        min_tokens: a chain that ends with fewer tokens is made to think again, as in rethinking.
        rule: decides instead of the model.
        given: the chain's first token ids, which the caller has written; with the closing marker at their end, the
            whole chain.
        belief_at: whether to read the belief behind a chain's tokens so far; None: never.
    """

    min_tokens: int = 0
    rule: Rule | None = None
    given: Sequence[int] = ()
    belief_at: Callable[[Sequence[int]], bool] | None = None


UNSTEERED = Steering()
"""Asks nothing: the model decides."""
