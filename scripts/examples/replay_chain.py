"""Replay chains: how likely are chains that were written elsewhere, and what is the verdict behind them?

python scripts/examples/replay_chain.py [MODEL]

Nothing is decoded: all tokens are prefill, many chains at once.
"""

import sys

from rank1_hf import Rank1

PAIR = ("what carries the weight of an aircraft in flight", "The wing carries the weight of the aircraft in flight.")
CHAINS = ["\nThe passage names the wing, the weight and the aircraft.", "\nThe passage is about bread."]


def main(model: str | None = None) -> None:
    """Replay the model's own chain, and two of others."""
    reranker = Rank1(model)
    (own,) = reranker.judge([PAIR], trace=True, show_progress_bar=False)
    assert own.trace is not None
    # By its ids: its text might be tokenized otherwise. (If its `ended` is not "closed", give close="forced", too.)
    chains: list[str | list[int]] = [own.trace.token_ids, *CHAINS]
    for judgment in reranker.score_chains([PAIR] * len(chains), chains, trace=True, show_progress_bar=False):
        assert judgment.trace is not None
        mean = sum(judgment.trace.logprobs) / judgment.n_chain_tokens
        elsewhere = [place for place, margin in enumerate(judgment.trace.margins) if margin < 0]
        print(f"{judgment.log_odds:8.2f}  {mean:6.2f} a token  {judgment.chain.strip()[:60]!r}")
        if elsewhere:
            said, own_text = judgment.trace.texts[elsewhere[0]], judgment.trace.alternative_texts[elsewhere[0]]
            print(f"          the model would have said {own_text!r} in the place of {said!r}")

    # a chain that ran out of tokens: cut behind its last sentence, and closed as the official code closes it
    cut = reranker.score_chain(*PAIR, f"{CHAINS[0]} It does not", close="forced")
    print(f"{cut.log_odds:8.2f}  closed by force")


if __name__ == "__main__":
    main(*sys.argv[1:])
