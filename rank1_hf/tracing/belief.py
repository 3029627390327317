"""The belief curve: where a chain's belief is read, that is, what its verdict would be if it were closed there."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rank1_hf.chains.beliefs import BeliefAt

if TYPE_CHECKING:
    from rank1_hf.prompts.prompt import PromptEncoder


def belief_at(every: BeliefAt | None, encoder: "PromptEncoder") -> Callable[[Sequence[int]], bool] | None:
    """Whether to read the belief behind a chain's tokens so far, as `Steering.belief_at` wants it; None: never."""
    if every is None:
        return None
    if every == "sentences":
        return lambda thought: not thought or encoder.ends_sentence(thought)
    return lambda thought: len(thought) % every == 0
