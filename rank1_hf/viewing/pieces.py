"""A chain in pieces, for display: its tokens where they were traced, else its words.

pieces          the texts that make the chain
n_kept          how many of them the verdict saw
divergence      where two chains diverge
uncertainty     how unsure the model was of each, from 0 to 1
belief          what the verdict would have been along the chain
n_before        how many pieces there are before a place in the text
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from rank1_hf.chains.chain import common_prefix_length
from rank1_hf.prompts.chain_text import cut_to_last_sentence
from rank1_hf.results.judgment import Judgment
from rank1_hf.results.trace import Trace

Shade = Literal["entropy", "margin"]

_WORD = re.compile(r"\s*\S+|\s+\Z")


def pieces(judgment: Judgment) -> list[str]:
    """The texts that make the chain, in order: its tokens, or its words with the space before them."""
    return _WORD.findall(judgment.chain) if judgment.trace is None else judgment.trace.texts


def n_kept(judgment: Judgment) -> int:
    """How many of the pieces the verdict saw: all, unless the chain was closed for the model in mid-sentence."""
    parts = pieces(judgment)
    if judgment.ended in (None, "closed"):
        return len(parts)
    chain = "".join(parts)
    kept = cut_to_last_sentence(chain)
    end = chain.find(kept) + len(kept)
    return len(parts) if not chain[end:].strip() else n_before(parts, end)


def n_before(parts: Sequence[str], character: int) -> int:
    """How many pieces there are before a place in the text; the one that it is in is counted."""
    return bisect_left(_starts(parts), character)


def divergence(a: Judgment, b: Judgment) -> tuple[int, int] | None:
    """The first piece of each chain in which two chains differ; its number of pieces where it ends before that.

    Traced chains are compared by token ids, others by words; a traced one and another by characters. None where they
    are equal.
    """
    if a.trace is not None and b.trace is not None:
        return _parting(a.trace.token_ids, b.trace.token_ids)
    left, right = pieces(a), pieces(b)
    if a.trace is None and b.trace is None:
        return _parting(left, right)
    characters = _parting("".join(left), "".join(right))
    return None if characters is None else (_at(left, characters[0]), _at(right, characters[1]))


def uncertainty(trace: Trace, by: Shade) -> list[float]:
    """How unsure the model was of each token, from 0 (sure) to 1.

    By "entropy" H it is 1 - exp(-H), where exp(H) is among how many equally likely tokens a choice is as open; by
    "margin" m it is exp(-m), the runner-up's probability as a share of the token's own. 0 too for a token that the
    model did not generate itself, which has NaN for both.
    """
    if by == "entropy":
        return [0.0 if math.isnan(entropy) else 1 - math.exp(-max(entropy, 0.0)) for entropy in trace.entropies]
    return [0.0 if math.isnan(margin) else math.exp(-max(margin, 0.0)) for margin in trace.margins]


def belief(source: Judgment | Trace) -> list[tuple[int, float]]:
    """The belief curve, as (chain tokens, log_odds): what was read on the way, then the verdict, which a trace alone
    lacks. Empty without one."""
    if source.belief is not None:  # a trace's always is there
        return [(point.n_tokens, point.log_odds) for point in source.belief]
    assert isinstance(source, Judgment)
    if source.trace is None or not source.trace.belief:
        return []
    end = source.n_chain_tokens
    on_the_way = [point for point in belief(source.trace) if point[0] < end]
    return [*on_the_way, (end, source.log_odds)]


def _parting(a: Sequence[object], b: Sequence[object]) -> tuple[int, int] | None:
    same = common_prefix_length(a, b)
    return None if same == len(a) == len(b) else (same, same)


def _starts(parts: Sequence[str]) -> list[int]:
    return [0, *accumulate(map(len, parts))][: len(parts)]


def _at(parts: Sequence[str], character: int) -> int:
    """The piece that a character is in; the number of pieces where the text ends before it."""
    return bisect_right(list(accumulate(map(len, parts))), character)
