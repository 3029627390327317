"""How pairs are divided among several processes or jobs."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.pair_text import Pair, PairError, passage_text, query_text
from rank1_hf.prompts.pairs import in_decoding_order, unpack

_TYPICAL_CHAIN = 300  # tokens


def shares(costs: Sequence[int], n: int) -> list[range]:
    """Cut a sequence into n runs that cost about the same.

    Runs are consecutive, so that neighbours, the pairs of one query, are parted at n - 1 places at most. Each run costs
    an nth of the total, give or take the largest single cost. What costs nothing stays with what stands before it.

    Args:
        costs: what each element costs, 0 or more.
        n: how many runs.

    Returns:
        n ranges of places, in order, some of them empty where there are few elements.
    """
    total = sum(costs)
    # An element belongs to the run in which its cost ends.
    owners = [max(-(-n * end // total) - 1, 0) if total else 0 for end in accumulate(costs)]
    cuts = [bisect_left(owners, run) for run in range(n + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts)]


def pair_costs(pairs: Iterable[Pair], encoder: PairEncoder) -> list[int]:
    """About how many tokens each pair takes: none where it is equal to the one before it or cannot be judged."""
    costs: list[int] = []
    before = None
    for pair in pairs:
        cost = 0
        with suppress(PairError):
            query, passage = unpack(pair)
            key = (query_text(query), passage_text(passage))
            if key != before:
                cost = len(encoder.encode(query, passage).ids) + min(encoder.max_new_tokens, _TYPICAL_CHAIN)
            before = key
        costs.append(cost)
    return costs


def own_share(pairs: Sequence[Pair], encoder: PairEncoder, n: int, index: int) -> list[tuple[int, Pair]]:
    """What one of n processes takes of the pairs, each with its place in the input."""
    ordered = list(in_decoding_order(pairs))
    return [ordered[place] for place in shares(pair_costs((pair for _, pair in ordered), encoder), n)[index]]
