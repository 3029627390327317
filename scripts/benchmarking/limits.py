"""What the machine could do at best, and how much of that our decode steps and our prefill reach.

A decode step must read all weights and the keys and values of its rows once, and do their multiplications; a prefill
must do its multiplications. Dividing by the measured bandwidth and matrix rate gives the least time they can take.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from benchmarking.workloads import Workload
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.stats import Stats


@dataclass(frozen=True, slots=True)
class Limits:
    """The machine.

    Attributes:
        copy_bandwidth: bytes read and written per second by a large copy.
        read_bandwidth: bytes read per second by a large sum.
        matrix_rate: operations per second of a large matrix product in the dtype (a multiplication and an addition are
            two).
    """

    copy_bandwidth: float
    read_bandwidth: float
    matrix_rate: float

    @property
    def bandwidth(self) -> float:
        """The better of the two."""
        return max(self.copy_bandwidth, self.read_bandwidth)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model asks of a machine.

    Attributes:
        weight_bytes: the weights that every step reads: all but the input embedding, of which it reads a few rows.
        kv_bytes: keys and values of one token, in all layers.
        token_operations: for one token in the layers, without attention.
        logit_operations: for the logits of one token.
        attention_operations: for one token and one token of its context.
    """

    weight_bytes: int
    kv_bytes: int
    token_operations: int
    logit_operations: int
    attention_operations: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Cost":
        """The cost of a model with attention in every layer."""
        config = model.config.get_text_config()
        embedding, logits = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        others = [weight for weight in model.parameters() if weight is not embedding and weight is not logits]
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        element_size = next(weight.element_size() for weight in others if weight.is_floating_point())
        return cls(
            weight_bytes=sum(weight.nbytes for weight in others) + logits.nbytes,
            kv_bytes=2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * element_size,
            token_operations=2 * sum(weight.numel() for weight in others if weight.dim() == 2),
            logit_operations=2 * logits.numel(),
            attention_operations=4 * config.num_hidden_layers * config.num_attention_heads * head_dim,
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """How fast one phase of the decode loop is, beside how fast it could be.

    Attributes:
        name: "decode" (one step) or "prefill" (all prompts).
        n_rows: rows that decode together.
        n_context: tokens of context a row, in the middle.
        seconds: taken.
        read_seconds: what reading the weights and the KV takes at the measured bandwidth.
        compute_seconds: what the operations take at the measured matrix rate.
        fraction: the larger of these two in `seconds`.
    """

    name: str
    n_rows: int
    n_context: int
    seconds: float
    read_seconds: float
    compute_seconds: float
    fraction: float


def measure_limits(device: torch.device, dtype: torch.dtype, *, quick: bool = False) -> Limits:
    """Measure the machine; the best of several tries."""
    n_bytes = 2**24 if quick else 2**28 if device.type == "cpu" else 2**31
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    size = 512 if quick else 2048 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return Limits(
        copy_bandwidth=2 * n_bytes / _best_seconds(lambda: target.copy_(source), device),
        read_bandwidth=n_bytes / _best_seconds(source.sum, device),
        matrix_rate=2 * size**3 / _best_seconds(lambda: left @ right, device),
    )


def measure_decode(decoder: Decoder, workload: Workload, cost: Cost, limits: Limits) -> Phase:
    """The median time of a step in which every row of a workload brings one token.

    Args:
        decoder: one whose chains do not end before their budget.
        workload: its items are alike in length (`Source.of_lengths`), and all decode together.
        cost: of the model.
        limits: of the machine.
    """
    n_rows, item = len(workload.items), workload.items[0]
    steps = _steps(decoder, workload)
    times = [step.seconds for step in steps if step.decode_tokens == n_rows and step.prefill_tokens == 0]
    n_context = len(item.prompt.ids) + item.limit // 2
    read = (cost.weight_bytes + n_rows * n_context * cost.kv_bytes) / limits.bandwidth
    operations = cost.token_operations + cost.logit_operations + n_context * cost.attention_operations
    return _phase("decode", n_rows, n_context, statistics.median(times), read, n_rows * operations / limits.matrix_rate)


def measure_prefill(decoder: Decoder, workload: Workload, cost: Cost, limits: Limits) -> Phase:
    """The time of the steps that feed the prompts of a workload, without a shared prefix."""
    steps = [step for step in _steps(decoder, workload) if step.decode_tokens == 0]
    n_rows, n_prompt = len(workload.items), len(workload.items[0].prompt.ids)
    n_tokens = sum(step.prefill_tokens for step in steps)
    read = len(steps) * cost.weight_bytes / limits.bandwidth
    operations = n_tokens * (cost.token_operations + n_prompt // 2 * cost.attention_operations)
    operations += n_rows * cost.logit_operations
    seconds = sum(step.seconds for step in steps)
    return _phase("prefill", n_rows, n_prompt, seconds, read, operations / limits.matrix_rate)


def _phase(name: str, n_rows: int, n_context: int, seconds: float, read: float, compute: float) -> Phase:
    return Phase(name, n_rows, n_context, seconds, read, compute, max(read, compute) / seconds)


@dataclass(frozen=True, slots=True)
class _TimedStep:
    seconds: float
    prefill_tokens: int
    decode_tokens: int


def _steps(decoder: Decoder, workload: Workload) -> list[_TimedStep]:
    steps: list[_TimedStep] = []
    before = decoder.stats.prefill_tokens, decoder.stats.decode_tokens
    start = time.perf_counter()

    def on_step(stats: Stats) -> None:
        nonlocal before, start
        now, counts = time.perf_counter(), (stats.prefill_tokens, stats.decode_tokens)
        steps.append(_TimedStep(now - start, counts[0] - before[0], counts[1] - before[1]))
        before, start = counts, now

    requests = [Request(i, item.prompt.ids, 0, item.limit) for i, item in enumerate(workload.items)]
    for _ in decoder.run(requests, max_rows=len(requests), on_step=on_step):
        pass
    return steps


def _best_seconds(work: Callable[[], object], device: torch.device, n_tries: int = 7) -> float:
    best = float("inf")
    for _ in range(n_tries):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
