"""The layer lens: what every layer would say of the verdict, and which tokens of the prompt the verdict attends to.

python scripts/examples/layer_lens.py [MODEL]
"""

import sys

from rank1_hf import Rank1

QUERY = "what carries the weight of an aircraft in flight"
PASSAGE = "The wing carries the weight of the aircraft in flight."


def main(model: str | None = None) -> None:
    """Look at one verdict."""
    lens = Rank1(model).lens(QUERY, PASSAGE)
    for layer, log_odds in enumerate(lens.log_odds):
        print(f"layer {layer:3d}  log_odds {log_odds:8.2f}")
    print(f"the verdict  log_odds {lens.judgment.log_odds:8.2f}")

    begin = "".join(lens.prompt_texts).index(PASSAGE)
    starts = [len("".join(lens.prompt_texts[:place])) for place in range(len(lens.prompt_texts))]
    passage = [place for place, start in enumerate(starts) if begin <= start < begin + len(PASSAGE)]
    looked_at = lens.attention[:, :, passage].sum(axis=-1)
    layer, head = divmod(int(looked_at.argmax()), lens.attention.shape[1])
    print(f"\nthe head that looks most at the passage is head {head} of layer {layer}:")
    for weight, text in sorted(zip(lens.attention[layer, head], lens.prompt_texts, strict=True), reverse=True)[:5]:
        print(f"{weight:8.3f}  {text!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
