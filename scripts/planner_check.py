"""The planner's memory figures beside what models really take: a table, in Markdown and JSON.

    python scripts/planner_check.py --output DIR --config qwen2.5-7b qwen2.5-14b     # random weights, on a GPU
    python scripts/planner_check.py --output DIR                                     # the embedded model, on a CPU

Each model judges more pairs than its KV cache has room for, so that all is as large as it becomes.
Exits with 1 where the plan is off by more than 10%.
"""

import argparse
import json
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rank1_hf import Rank1
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run
from rank1_hf.models.cards import GIB
from rank1_hf.models.devices import DTYPES, resolve_device
from rank1_hf.models.family import FAMILY
from rank1_hf.models.loading import load_model, open_checkpoint
from rank1_hf.models.memory import EXPECTED_ROWS, GPU_PREFILL_TOKENS, kv_bytes_per_token, step_bytes
from rank1_hf.models.planning import Size

EMBEDDED = "rank1-tiny"
SHAPES = {f"qwen2.5-{size}": FAMILY[f"jhu-clsp/rank1-{size}"] for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")}
CPU_PREFILL_TOKENS = 512
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Checked:
    """Bytes, planned and measured."""

    name: str
    planned_weights: int
    measured_weights: int
    planned: int
    measured: int

    @property
    def error(self) -> float:
        """How far the plan is off, as a share of what was measured."""
        return self.planned / self.measured - 1

    @property
    def holds(self) -> bool:
        """Whether the plan is as good as it has to be."""
        return abs(self.error) <= TOLERANCE


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of tensors that were alive at once, of those made while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        given = {_key(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (key := _key(tensor)) not in self._known | given:
                storage = tensor.untyped_storage()
                self._known.add(key)
                self._live += storage.nbytes()
                weakref.finalize(storage, self._gone, key, storage.nbytes())
                self.peak = max(self.peak, self._live)
        return made

    def _gone(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self._live -= n_bytes


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most memory that some work takes at once, besides what is taken before: on a GPU with what graphs keep for
    themselves, elsewhere that of tensors.
    """
    if device.type != "cuda":
        with _LiveBytes() as live:
            work()
        return int(live.peak)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    work()
    return int(torch.cuda.max_memory_reserved(device)) - int(before)


def check(
    name: str,
    model: PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401
    *,
    n_pairs: int = 240,
    kv_cache_tokens: int,
    chain_tokens: int,
) -> Checked:
    """Judge pairs of the sample, as many of them together as there is room for, and compare.

    Args:
        name: for the report.
        model: on its device.
        tokenizer: its own; with random weights any that has no more tokens.
        n_pairs: how many pairs.
        kv_cache_tokens: the most tokens of the KV cache; the pairs should need more.
        chain_tokens: the budget.
    """
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    pairs = [(collection.queries[q], collection.corpus[d].passage) for q, found in run.items() for d in found][:n_pairs]
    decoding = DecodingOptions(kv_cache_tokens=kv_cache_tokens)
    reranker = Rank1(model, tokenizer=tokenizer, max_new_tokens=chain_tokens, decoding=decoding)
    n_tokens = sum(len(reranker.encode(*pair).ids) + chain_tokens for pair in pairs)
    n_rows = min(len(pairs) * kv_cache_tokens // n_tokens, len(pairs), EXPECTED_ROWS)
    peak = peak_bytes(model.device, lambda: reranker.judge(pairs, batch_size=EXPECTED_ROWS, show_progress_bar=False))
    weights, config, dtype = sum(weight.nbytes for weight in model.parameters()), model.config, model.dtype
    planned_weights = Size.of(config).n_bytes(dtype)
    on_gpu = model.device.type == "cuda"
    prefill = GPU_PREFILL_TOKENS if on_gpu else CPU_PREFILL_TOKENS
    step = step_bytes(config, dtype, n_tokens=prefill + n_rows, n_rows=n_rows, on_gpu=on_gpu)
    planned = planned_weights + kv_cache_tokens * kv_bytes_per_token(config, dtype) + step
    return Checked(name, planned_weights, weights, planned, weights + peak)


def table(checked: Sequence[Checked]) -> str:
    """A Markdown table."""
    lines = [
        "| model | weights planned, GiB | measured | all planned, GiB | measured | off by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in checked:
        sizes = (one.planned_weights, one.measured_weights, one.planned, one.measured)
        cells = [one.name, *(f"{size / GIB:.3f}" for size in sizes), f"{one.error:+.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(folder: Path, checked: Sequence[Checked]) -> None:
    """Write what has been checked so far."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(one) | {"error": one.error, "holds": one.holds} for one in checked]
    (folder / "planner.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (folder / "planner.md").write_text(f"# Planned and measured memory\n\n{table(checked)}\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder for planner.json and planner.md")
    parser.add_argument("--config", nargs="*", choices=SHAPES, default=[], help="random weights of these shapes")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", help="without it: CUDA, MPS or CPU, the first there is")
    parser.add_argument("--pairs", type=int, default=240, help="how many pairs of the sample")
    parser.add_argument("--kv-cache-tokens", type=int, default=20_000, help="the most tokens of the KV cache")
    parser.add_argument("--chain-tokens", type=int, default=64, help="the most tokens of a chain")
    options = parser.parse_args()
    opened, device, dtype = open_checkpoint(), resolve_device(options.device), DTYPES[options.dtype]
    checked: list[Checked] = []
    for name in options.config or [EMBEDDED]:
        if name == EMBEDDED:
            model = load_model(opened, dtype=dtype, device=device)
        else:
            with device:
                model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[name]), dtype=dtype).eval()
        sizes = {"kv_cache_tokens": options.kv_cache_tokens, "chain_tokens": options.chain_tokens}
        checked.append(check(name, model, opened.tokenizer, n_pairs=options.pairs, **sizes))
        del model
        write(options.output, checked)
    print(table(checked))
    sys.exit(not all(one.holds for one in checked))


if __name__ == "__main__":
    main()
