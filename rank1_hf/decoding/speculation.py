"""Speculation by prompt lookup: chains quote passages a lot, so what followed the last few tokens may follow again.

A draft is fed together with the row's token and verified by the model in the same step, so the output is exactly the
greedy one. It pays while a step is bound by reading the weights, that is with few rows; with many, the drafted tokens
cost as much as they save. (Prompt lookup decoding: Saxena 2023.)
"""

from collections.abc import Sequence

NGRAM_SIZES = (3, 2)  # longer matches are likelier to go on alike, so they are tried first
LEAST_DRAFT, MAX_DRAFT = 4, 8  # tokens; shorter drafts save too little, longer ones are seldom right to their end


class PromptLookup:
    """Where the n-grams of one row's context stood last, kept up to date as the context grows."""

    def __init__(self) -> None:
        self._followed_at: dict[tuple[int, ...], int] = {}  # n-gram -> where the token behind it stands
        self._n_seen = 0

    def propose(self, tokens: Sequence[int], n_tokens: int) -> list[int]:
        """Up to `n_tokens` tokens that may follow `tokens`; none where their end has not been seen before."""
        if len(tokens) < self._n_seen:  # the context was rewritten
            self._followed_at.clear()
            self._n_seen = 0
        for end in range(max(self._n_seen, 1), len(tokens)):
            for size in NGRAM_SIZES:
                if size <= end:
                    self._followed_at[tuple(tokens[end - size : end])] = end
        self._n_seen = len(tokens)
        for size in NGRAM_SIZES:
            start = self._followed_at.get(tuple(tokens[-size:]))
            if start is not None:
                return list(tokens[start : start + n_tokens])
        return []
