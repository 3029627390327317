"""Chains of made-up ids."""

from rank1_hf.chains.chain import Chain, ChainRules
from rank1_hf.chains.steering import Steering

PROMPT = [1, 2, 3]
CLOSE, EOS, STOP, WAIT = 90, 91, 92, 93
FORCED = [70, CLOSE]


def rules(close: tuple[int, ...] = (CLOSE,)) -> ChainRules:
    return ChainRules(
        close=close,
        eos=frozenset({EOS}),
        force_close=lambda prompt, thought: [*prompt, *(t for t in thought if t < STOP), 70, *close],
        rethink=lambda prompt, thought: [*prompt, *thought, WAIT],
    )


def think(chain: Chain, *tokens: int) -> list[int]:
    return [chain.advance(token) for token in tokens]


def steered(limit: int = 20, rethinks: int = 0, close: tuple[int, ...] = (CLOSE,), **steering: object) -> Chain:
    return Chain(PROMPT, rules(close), limit=limit, rethinks=rethinks, steering=Steering(**steering))
