"""Who judges: this project, and the other ways to get the same scores from the same checkpoint.

Every peer gets the same token ids and budgets, and has a copy of the model of its own (sharing the weights), so that
what one does to the model neither helps nor harms another.
"""

import copy
import gc
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.continuous_batching.utils import WorkloadHints

from benchmarking.workloads import Item, Workload, to_json
from rank1_hf.chains.chain import ChainRules
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.packed import PackedLinear, pack_linear_layers
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.models.loading import eos_ids
from rank1_hf.prompts.prompt import PromptEncoder

Setting = dict[str, int | bool]
"""What a peer lets its user choose, by name."""


_COUNTED = ("steps", "prefill_tokens", "decode_tokens", "draft_tokens", "accepted_tokens", "preemptions")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of one peer gave.

    Attributes:
        seconds: until the last score.
        first_seconds: until the first score.
        log_odds: of every pair.
        chain_tokens: of every pair.
        n_closed: how many chains the model closed itself.
        counts: what else the peer counts.
    """

    seconds: float
    first_seconds: float
    log_odds: list[float]
    chain_tokens: list[int]
    n_closed: int
    counts: dict[str, int] = field(default_factory=dict)


class Peer(Protocol):
    """One way to judge pairs. `settings` are tried once each before anything is measured, and the fastest is kept."""

    name: str
    settings: list[Setting]

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Judge every pair."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model that all peers run.

    Attributes:
        model: loaded, with Transformers' default attention.
        tokenizer: its tokenizer.
        encoder: the prompt contract for it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    encoder: PromptEncoder

    @property
    def rules(self) -> ChainRules:
        """What token ids mean to a chain."""
        return self.encoder.chain_rules(eos_ids(self.model, self.tokenizer))

    def copy_of_model(self) -> PreTrainedModel:
        """Another model with the same weights in memory."""
        weights = [*self.model.parameters(), *self.model.buffers()]
        return copy.deepcopy(self.model, memo={id(weight): weight for weight in weights})


class Ours:
    """This project."""

    name = "rank1_hf"

    def __init__(
        self, checkpoint: Checkpoint, batch_sizes: Sequence[int], options: DecodingOptions | None = None
    ) -> None:
        options = options or DecodingOptions()
        self.settings: list[Setting] = [{"batch_size": size} for size in batch_sizes]
        rules, encoder = checkpoint.rules, checkpoint.encoder
        self._rules = {
            True: rules,
            False: replace(rules, close=(-1,), eos=frozenset()),  # no such tokens: no chain ends before its budget
        }
        model = checkpoint.copy_of_model()
        if options.pack:
            pack_linear_layers(model, kernels=options.kernels)
        self._decoder = Decoder(
            model,
            rules,
            true_id=encoder.true_id,
            false_id=encoder.false_id,
            options=options,
        )

    @property
    def in_force(self) -> DecodingOptions:
        """The options as they are on this device; layers are packed by the one who loads the model."""
        packed = any(isinstance(layer, PackedLinear) for layer in self._decoder.model.modules())
        return replace(self._decoder.options, pack=packed)

    def decoder(self, *, closes: bool) -> Decoder:
        """The decode loop, with chains that end themselves or with chains that do not."""
        self._decoder.rules = self._rules[closes]
        return self._decoder

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Judge every pair in one call of the decode loop."""
        decoder = self.decoder(closes=workload.closes)
        stats = replace(decoder.stats)
        requests = (
            Request(index, item.prompt.ids, item.prompt.n_shared, item.limit)
            for index, item in enumerate(workload.items)
        )
        start, first_seconds = time.perf_counter(), 0.0
        decoded: list[Decoded] = []
        for result in decoder.run(requests, max_rows=setting["batch_size"]):
            first_seconds = first_seconds or time.perf_counter() - start
            if result.error:
                raise RuntimeError(f"pair {result.index} failed: {result.error}")
            decoded.append(result)
        seconds = time.perf_counter() - start
        decoded.sort(key=lambda result: result.index)
        return Outcome(
            seconds,
            first_seconds,
            [result.true_logit - result.false_logit for result in decoded],
            [len(result.thought) for result in decoded],
            sum(result.ended == "closed" for result in decoded),
            {name: getattr(decoder.stats, name) - getattr(stats, name) for name in _COUNTED},
        )


class Generate:
    """`generate()` as most people would use it: left-padded batches, sorted by length, and a second pass for the
    verdicts."""

    name = "generate"

    def __init__(self, checkpoint: Checkpoint, batch_sizes: Sequence[int]) -> None:
        self.settings: list[Setting] = [{"batch_size": size} for size in batch_sizes]
        self._checkpoint = checkpoint
        self._model = checkpoint.copy_of_model()

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Judge every pair, a batch at a time."""
        items = workload.items
        order = sorted(range(len(items)), key=lambda index: -len(items[index].prompt.ids))
        verdicts: dict[int, Verdict] = {}
        start, first_seconds = time.perf_counter(), 0.0
        for batch in _batches(order, setting["batch_size"]):
            chains = self._think([items[index] for index in batch], workload.closes)
            pairs = [(items[index], chain) for index, chain in zip(batch, chains, strict=True)]
            judged = judge_chains(self._checkpoint, self._model, pairs, workload.closes, len(batch))
            verdicts.update(zip(batch, judged, strict=True))
            first_seconds = first_seconds or time.perf_counter() - start
        return _outcome(time.perf_counter() - start, first_seconds, [verdicts[index] for index in range(len(items))])

    def _think(self, items: Sequence[Item], closes: bool) -> list[list[int]]:
        ids, mask = _left_padded([item.prompt.ids for item in items], self._model.device)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=_greedy(self._checkpoint, closes, max(item.limit for item in items)),
        )
        return [row[: item.limit] for row, item in zip(output[:, ids.shape[1] :].tolist(), items, strict=True)]


class GenerateBatch:
    """Transformers' continuous batching (what `generate_batch` runs), and a second pass for the verdicts.

    The manager is new in every run, so that no prefix is left in its cache from the last one; that it starts and warms
    up is not counted.
    """

    name = "generate_batch"

    def __init__(self, checkpoint: Checkpoint, batch_sizes: Sequence[int]) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.copy_of_model()
        self._on_cpu = self._model.device.type == "cpu"
        # Its own choices are made for GPUs: on a CPU it would take most of the memory, and rows cost it their square.
        self.settings: list[Setting] = (
            [{"batch_size": size} for size in batch_sizes]
            if self._on_cpu
            else [{"use_cuda_graph": True}, {"use_cuda_graph": False}]
        )

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Judge every pair."""
        items = workload.items
        longest = max(len(item.prompt.ids) for item in items), max(item.limit for item in items)
        with (
            torch.no_grad(),
            self._model.continuous_batching_context_manager(
                generation_config=_greedy(self._checkpoint, workload.closes, longest[1]),
                continuous_batching_config=self._config(setting, sum(longest)),
                workload_hints=WorkloadHints(*longest, len(items)),
            ) as manager,
        ):
            start = time.perf_counter()
            for index, item in enumerate(items):
                manager.add_request(item.prompt.ids, request_id=str(index), max_new_tokens=item.limit)
            chains: dict[int, list[int]] = {}
            while len(chains) < len(items):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    if result.error:
                        raise RuntimeError(f"generate_batch failed: {result.error}")
                    chains[int(result.request_id)] = result.generated_tokens
                elif result is None and not manager.is_running():
                    raise RuntimeError("generate_batch stopped before it was finished")
            seconds = time.perf_counter() - start
        start = time.perf_counter()
        pairs = [(item, chains[index]) for index, item in enumerate(items)]
        verdicts = judge_chains(self._checkpoint, self._model, pairs, workload.closes, batch_size=32)
        seconds += time.perf_counter() - start
        return _outcome(seconds, seconds, verdicts)

    def _config(self, setting: Setting, row_tokens: int) -> ContinuousBatchingConfig:
        if not self._on_cpu:
            return ContinuousBatchingConfig(use_cuda_graph=bool(setting["use_cuda_graph"]))
        n_rows = setting["batch_size"]
        blocks_per_row = -(-row_tokens // 256) + 1  # its default block
        return ContinuousBatchingConfig(
            max_requests_per_batch=n_rows, num_blocks=n_rows * blocks_per_row, max_batch_tokens=512
        )


class Vllm:
    """vLLM in an environment of its own, running the recipe of the rank1 model card; see `vllm_worker.py`.

    The process loads once and is timed inside, so that its start does not count.
    """

    name = "vllm"

    def __init__(self, python: Path, model: str | Path, dtype: str, max_tokens: int) -> None:
        self.settings: list[Setting] = [{}]
        worker = Path(__file__).with_name("vllm_worker.py")
        command = [str(python), str(worker), str(model), "--dtype", dtype, "--max-tokens", str(max_tokens)]
        # Only its CPU build looks at the first two: by itself it would leave one core idle. Threads it binds itself.
        environment = {
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
            **{name: value for name, value in os.environ.items() if not name.startswith("OMP_")},
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.version: str = self._answer()["version"]

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Judge every pair."""
        questions = _opened(self._process.stdin)
        questions.write(to_json(workload) + "\n")
        questions.flush()
        return Outcome(**self._answer())

    def close(self) -> None:
        """End the process."""
        _opened(self._process.stdin).close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _answer(self) -> dict[str, Any]:
        line = _opened(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"vLLM ended with exit code {self._process.wait()}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one pair in the end."""

    log_odds: float
    n_chain_tokens: int
    closed: bool


@torch.inference_mode()
def judge_chains(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    pairs: Sequence[tuple[Item, list[int]]],
    closes: bool,
    batch_size: int,
) -> list[Verdict]:
    """The second pass of peers that only generate: close the chains that did not close themselves, read the logits.

    Args:
        checkpoint: whose rules close a chain.
        model: the peer's.
        pairs: each with what the model generated for it.
        closes: whether `</think>` and EOS end a chain.
        batch_size: how many are read at once.
    """
    encoder, rules = checkpoint.encoder, checkpoint.rules
    contexts: list[list[int]] = []
    known: list[tuple[int, bool]] = []
    for item, generated in pairs:
        (close,) = rules.close
        ends = rules.eos | {close} if closes else frozenset()
        length = next((place for place, token in enumerate(generated) if token in ends), len(generated))
        chain, closed = generated[:length], length < len(generated) and generated[length] == close
        contexts.append([*item.prompt.ids, *chain, close] if closed else encoder.force_close(item.prompt.ids, chain))
        known.append((length, closed))
    log_odds: dict[int, float] = {}
    order = sorted(range(len(contexts)), key=lambda index: -len(contexts[index]))
    for batch in _batches(order, batch_size):
        ids, mask = _left_padded([contexts[index] for index in batch], model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
        logits = output.logits[:, -1].float()
        log_odds.update(zip(batch, (logits[:, encoder.true_id] - logits[:, encoder.false_id]).tolist(), strict=True))
    return [Verdict(log_odds[index], *known[index]) for index in range(len(pairs))]


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def free_memory() -> None:
    """Give back what the last peer left, so that the next one has the whole device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _greedy(checkpoint: Checkpoint, closes: bool, limit: int) -> GenerationConfig:
    rules = checkpoint.rules
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=[*rules.close, *rules.eos] if closes else [-1],
        pad_token_id=min(rules.eos, default=0),
    )


def _outcome(seconds: float, first_seconds: float, verdicts: Sequence[Verdict]) -> Outcome:
    return Outcome(
        seconds,
        first_seconds,
        [verdict.log_odds for verdict in verdicts],
        [verdict.n_chain_tokens for verdict in verdicts],
        sum(verdict.closed for verdict in verdicts),
    )


def _left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [rows, longest] each."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _opened(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
