"""Speculation: what followed the last few tokens before, in any row, may follow them again.

Chains quote their passages, and a model words the chains of different pairs much alike, so the rows of a run share one
table of what they have seen. A draft is fed together with the row's token and verified by the model in the same step,
so the output is exactly the greedy one.

Prompt lookup (Saxena 2023) drafts from a row's own context; drafting from other outputs of the same model is the idea
of REST (He et al. 2024) and SuffixDecoding (Oliaro et al. 2024).
"""

from collections.abc import Sequence

NGRAM_SIZES = (4, 2)  # longer matches are likelier to go on alike, so they are tried first
MAX_DRAFT = 7  # tokens of one row; longer drafts are seldom right to their end
MAX_NGRAMS = 1 << 17  # some 30 MB

_Followers = dict[tuple[int, ...], tuple[int, int]]  # n-gram -> the token that followed last, how often in a row


class Drafts:
    """What followed the n-grams of all rows, the recent ones.

    Args:
        max_ngrams: the most n-grams that are remembered.
    """

    def __init__(self, max_ngrams: int = MAX_NGRAMS) -> None:
        self._max_recent = max_ngrams // 2
        self._recent: _Followers = {}
        self._older: _Followers = {}

    def learn(self, tokens: Sequence[int], n_known: int) -> None:
        """Take in a row's context, of which the first `n_known` tokens have been taken in before."""
        for end in range(n_known, len(tokens)):
            for size in NGRAM_SIZES:
                if size <= end:
                    ngram = tuple(tokens[end - size : end])
                    followed_by, n_times = self._followed(ngram) or (None, 0)
                    self._recent[ngram] = tokens[end], n_times + 1 if followed_by == tokens[end] else 1
        if len(self._recent) > self._max_recent:
            self._recent, self._older = {}, self._recent

    def propose(self, tokens: Sequence[int], n_tokens: int, least_chance: float) -> list[int]:
        """Up to `n_tokens` tokens that may follow `tokens`, while the chance that all are right is not too small."""
        context, chance = list(tokens[-max(NGRAM_SIZES) :]), 1.0
        n_given = len(context)
        while len(context) - n_given < n_tokens:
            followed = self._longest_match(context)
            if followed is None:
                break
            token, n_times = followed
            chance *= n_times / (n_times + 1)  # close to how often it is right, for 4-grams and 2-grams of real chains
            if chance < least_chance:
                break
            context.append(token)
        return context[n_given:]

    def _longest_match(self, context: list[int]) -> tuple[int, int] | None:
        matches = (self._followed(tuple(context[-size:])) for size in NGRAM_SIZES)
        return next((match for match in matches if match is not None), None)

    def _followed(self, ngram: tuple[int, ...]) -> tuple[int, int] | None:
        return self._recent.get(ngram) or self._older.get(ngram)
