"""How far quantized weights judge as the weights they were made from, and how much smaller they are: a Markdown table.

    python scripts/quantization_agreement.py                                  # the embedded model on its sample
    python scripts/quantization_agreement.py --model jhu-clsp/rank1-7b --pairs pairs.jsonl

Each line of the pairs has a query and a passage, and may have a dataset_prompt and a max_output_tokens. Everything is
compared with the unquantized model in `--dtype`. So is the same model in float32, as a measure for the rest: where
greedy chains diverge over rounding alone, quantization cannot be blamed for it.

Needs `pip install 'rank1-hf[bench]'`.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn

from rank1_hf import Judgment, Rank1
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run
from rank1_hf.inputs.textfiles import read_jsonl
from rank1_hf.models.devices import DTYPES

Pairs = list[tuple[str, Any]]
Settings = tuple[int | None, str | None]
"""A budget and a dataset prompt."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one form of the model judged, and the bytes of its linear layers, without embedding and output layer."""

    judgments: list[Judgment]
    linear_bytes: int


def main() -> None:
    """The command line."""
    options = parse_options()
    workload = read_pairs(options.pairs) if options.pairs else sample_pairs(options.max_new_tokens)
    kinds: dict[str, dict[str, Any]] = {
        options.dtype: {"dtype": options.dtype},
        "float32": {"dtype": "float32"},
        "8bit": {"dtype": options.dtype, "quantization": "8bit"},
        "4bit": {"dtype": options.dtype, "quantization": "4bit"},
    }
    measured = {
        name: measure(workload, model=options.model, device=options.device, **kind) for name, kind in kinds.items()
    }
    print(table(measured, options.dtype))


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a hub name or a folder; without it: the embedded model")
    parser.add_argument("--pairs", type=Path, help="a .jsonl file, gzipped or not; without it: the sample of Cranfield")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="the budget, for the sample")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of what is not quantized")
    parser.add_argument("--device", help="without it: CUDA, MPS or CPU, the first there is")
    return parser.parse_args()


def sample_pairs(budget: int) -> dict[Settings, Pairs]:
    """The sample that ships with the package."""
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    pairs = [
        (collection.queries[query], collection.corpus[one].passage) for query, found in run.items() for one in found
    ]
    return {(budget, None): pairs}


def read_pairs(path: Path) -> dict[Settings, Pairs]:
    """The pairs of a file, by what they are judged with."""
    groups: dict[Settings, Pairs] = defaultdict(list)
    for _, pair in read_jsonl(path):
        groups[pair.get("max_output_tokens"), pair.get("dataset_prompt")].append((pair["query"], pair["passage"]))
    return groups


def measure(workload: dict[Settings, Pairs], **arguments: Any) -> Measured:  # noqa: ANN401
    """Judge all pairs with the model in one form."""
    judgments: list[Judgment] = []
    n_bytes = 0
    for (budget, template), pairs in workload.items():
        reranker = Rank1(max_new_tokens=budget, prompt_template=template, **arguments)
        judgments += reranker.judge(pairs)
        n_bytes = linear_bytes(reranker.model)  # now that the first step has brought them into their final form
    return Measured(judgments, n_bytes)


def linear_bytes(model: nn.Module) -> int:
    """What the linear layers inside the decoder layers take: weights, biases and the constants of quantization."""
    tensors: dict[int, Tensor] = {}
    for name, layer in model.named_modules():
        if ".layers." in name and hasattr(layer, "in_features"):
            # bitsandbytes keeps its constants beside the weight, and the same memory once more in the layer's state.
            weight = getattr(layer, "weight", None)
            owners = [weight, getattr(weight, "quant_state", None), getattr(layer, "state", None)]
            owners.append(getattr(owners[1], "state2", None))
            held = [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
            found = [value for value in [*layer.parameters(), *held] if isinstance(value, Tensor)]
            tensors |= {t.data_ptr() if t.layout == torch.strided else id(t): t for t in found}
    return sum(tensor.nbytes for tensor in tensors.values())


def table(measured: dict[str, Measured], baseline: str) -> str:
    """A Markdown table of everything against the baseline; pairs that either could not judge are left out."""
    theirs = measured[baseline]
    lines = [
        f"| against {baseline} | linear layers | decisions equal | chains equal | Spearman | Kendall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, ours in measured.items():
        if name == baseline:
            continue
        both = [
            (one, other)
            for one, other in zip(ours.judgments, theirs.judgments, strict=True)
            if one.error is None and other.error is None
        ]
        log_odds = [one.log_odds for one, _ in both], [other.log_odds for _, other in both]
        cells = [
            name,
            f"{ours.linear_bytes / theirs.linear_bytes:.3f}x",
            _share([one.label == other.label for one, other in both]),
            _share([one.chain == other.chain for one, other in both]),
            f"{spearmanr(*log_odds).statistic:.3f}",
            f"{kendalltau(*log_odds).statistic:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


if __name__ == "__main__":
    main()
