"""Rank1: the model, `judge`, and what looks inside; `predict` and `rank` are those of `CrossEncoderMethods`."""

import contextlib
import operator
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rank1_hf.chains.chain import BeliefAt, Rule
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.progress import Progress
from rank1_hf.models.batch_invariance import make_batch_invariant
from rank1_hf.models.devices import resolve_device, resolve_dtype
from rank1_hf.models.loading import (
    Checkpoint,
    context_length,
    eos_ids,
    load_model,
    open_checkpoint,
)
from rank1_hf.models.packed import pack_linear_layers
from rank1_hf.models.placement import is_split
from rank1_hf.models.quantization import Quantization, check_batch_invariance, quantization_config
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.pairs import Pairs, as_pairs, in_decoding_order, unpack
from rank1_hf.prompts.prompt import (
    Pair,
    PairError,
    Passage,
    Prompt,
    PromptEncoder,
    PromptTooLongError,
    Query,
    Truncation,
    passage_text,
    query_text,
)
from rank1_hf.reranking.call import Asked, Call, Processor
from rank1_hf.reranking.checks import check_layers, check_loaded, check_memory, check_vocabulary
from rank1_hf.reranking.cross_encoder import CrossEncoderMethods
from rank1_hf.reranking.processes import Processes, warn_of_idle_processes
from rank1_hf.reranking.remarks import warn_of_budget
from rank1_hf.reranking.shares import shares
from rank1_hf.results.judgment import Interrupted, Judgment, Judgments, TokenEvent
from rank1_hf.tracing.lens import Lens, LensObserver, n_layers_and_heads
from rank1_hf.tracing.observer import Observer, check_observers
from rank1_hf.tracing.speaker import Speaker
from rank1_hf.tracing.trace import Trace, TraceOptions
from rank1_hf.values import is_whole_number, whole_number
from rank1_hf.viewing.texts import with_given_chain

_T = TypeVar("_T")

DEFAULT_BUDGET = 8192
"""The official code's `max_output_tokens`."""

_CLOSE_RESERVE = 8  # what a forced close adds behind a chain besides `</think>`: two line breaks, and pieces that split
_TYPICAL_CHAIN = 300  # tokens, for sharing pairs out among processes


class Rank1(CrossEncoderMethods):
    """A reasoning reranker. Calls from several threads take turns, since they share the model and its KV memory.

    Args:
        model: a hub name, a checkpoint folder, a loaded causal LM (with `tokenizer`; it is switched to this package's
            attention), or None: the small demonstration model that ships with the package.
        tokenizer: only with a loaded model.
        dtype: "float32", "float16", "bfloat16" or a torch dtype; None: the checkpoint's own.
        device: None: CUDA, MPS or CPU, the first there is.
        quantization: "8bit" or "4bit" (bitsandbytes: LLM.int8, or NF4 with double quantization), or any quantization
            config of Transformers; None: the checkpoint as it is.
        device_map: how the layers are spread over several devices, as in Transformers: "auto", "balanced", or a dict;
            each layer's KV cache lies on its layer's device. Instead of `device`.
        max_memory: the most memory for weights on each device, as in {0: "10GiB", 1: "20GiB", "cpu": "30GiB"}.
        num_gpus: how many GPUs share the pairs of each call, each with a whole model and a process of its own, which
            `accelerate launch --num_processes N` starts. Every process must be given the same pairs, and gets all
            judgments.
        max_new_tokens: the budget: the most tokens a chain may have. None: 8192 as in the official code, or half of the
            context where that is less.
        max_length: the most tokens of prompt and chain together; the model's own limit where that is less.
        prompt_template: a dataset prompt with `FILL_QUERY_HERE`, which stands in the query's place.
        rethink: how many times a closed chain is made to think again.
        min_thinking_tokens: a chain that would end with fewer tokens is made to think again, as often as it takes.
        truncation: what happens to a prompt that does not fit beside the budget: "passage" cuts the end of the
            passage, and the result says so; "error" raises before anything is decoded.
        markers: the strings that open, close and answer a chain, for models that are not rank1.
        kv_cache_tokens: the most tokens the KV cache may hold, over all pairs that decode together; None: as many as
            the device has memory for, that is `gpu_memory_utilization` of a GPU, or half of the free main memory.
        gpu_memory_utilization: the share of a GPU's memory to use in all, above 0 and at most 1.
        reproducible: give every pair bit-identical chains and scores whatever else is in the call, in whatever order,
            in any dtype, for the same `batch_size` on the same machine. Slower. Refused with a quantization that looks
            across rows, as "8bit" does; see `rank1_hf.models.batch_invariance`.
        compile: compile the model's layers with torch.compile, for long runs on a GPU. The first steps take some
            seconds longer; needs a C++ compiler, and on a GPU Triton.
        revision, subfolder, token: where on the hub or in the folder the checkpoint is; see `open_checkpoint`.
        allow_pickles: take weights from `.bin` files where there are no safetensors; see `open_checkpoint`.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ContractError: its tokenizer cannot express the prompt contract.
        ValueError: an argument makes no sense; the message says which and why.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel | None = None,
        *,
        tokenizer: PreTrainedTokenizerFast | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        quantization: Quantization | None = None,
        device_map: str | dict[str, Any] | None = None,
        max_memory: dict[int | str, int | str] | None = None,
        num_gpus: int = 1,
        max_new_tokens: int | None = None,
        max_length: int = 16000,
        prompt_template: str | None = None,
        rethink: int = 0,
        min_thinking_tokens: int = 0,
        truncation: Truncation = "passage",
        markers: Markers | None = None,
        kv_cache_tokens: int | None = None,
        gpu_memory_utilization: float = 0.9,
        reproducible: bool = False,
        compile: bool = False,  # noqa: A002
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        allow_pickles: bool = False,
    ) -> None:
        max_length = whole_number("max_length", max_length, least=1)
        rethink = whole_number("rethink", rethink, least=0)
        min_thinking_tokens = whole_number("min_thinking_tokens", min_thinking_tokens, least=0)
        num_gpus = whole_number("num_gpus", num_gpus, least=1)
        if num_gpus > 1 and (device_map is not None or max_memory is not None):
            raise ValueError(
                "num_gpus puts a whole model on each GPU, device_map and max_memory spread one over several; give one"
            )
        if kv_cache_tokens is not None:
            kv_cache_tokens = whole_number("kv_cache_tokens", kv_cache_tokens, least=1)
        if not 0 < gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, not {gpu_memory_utilization!r}")
        if max_new_tokens is not None:
            max_new_tokens = whole_number("max_new_tokens", max_new_tokens, least=1)
        if truncation not in ("passage", "error"):
            raise ValueError(f"truncation must be 'passage' or 'error', not {truncation!r}")
        dtype, chosen = resolve_dtype(dtype), resolve_device(device)
        if isinstance(model, PreTrainedModel):
            check_loaded(
                dtype=dtype,
                device=device,
                quantization=quantization,
                device_map=device_map,
                max_memory=max_memory,
                revision=revision,
                subfolder=subfolder,
                token=token,
                allow_pickles=allow_pickles or None,
            )
            if tokenizer is None:
                raise ValueError("a loaded model needs its tokenizer: Rank1(model, tokenizer=tokenizer)")
            checkpoint = Checkpoint("the loaded model", {}, model.config, tokenizer)
        else:
            if tokenizer is not None:
                raise ValueError("a checkpoint brings its own tokenizer; leave tokenizer out, or give a loaded model")
            checkpoint = open_checkpoint(
                model, revision=revision, subfolder=subfolder, token=token, allow_pickles=allow_pickles
            )
        self._lock = threading.RLock()  # the decoder's: reentrant, since a stream may be read between other calls
        self._processes: Processes | None = None
        if num_gpus > 1:
            if ":" in str(chosen):
                raise ValueError(f"num_gpus={num_gpus} gives each process a GPU of its own; use device={chosen.type!r}")
            kind = model.device.type if isinstance(model, PreTrainedModel) else chosen.type
            self._processes = Processes(num_gpus, kind)
            device = chosen = self._processes.device
        else:
            warn_of_idle_processes()
        quantized = quantization_config(quantization, checkpoint.config, chosen)
        if reproducible:
            check_batch_invariance(quantization or getattr(checkpoint.config, "quantization_config", None))
        check_vocabulary(checkpoint)
        self.tokenizer = checkpoint.tokenizer
        self.encoder = PromptEncoder(checkpoint.tokenizer, template=prompt_template, markers=markers)
        self.context = min(max_length, context_length(checkpoint.config) or max_length)
        self.max_new_tokens = min(DEFAULT_BUDGET, self.context // 2) if max_new_tokens is None else max_new_tokens
        self.min_thinking_tokens = min_thinking_tokens
        self.truncation = truncation
        if min_thinking_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_thinking_tokens={min_thinking_tokens} is more than a chain may have: "
                f"max_new_tokens={self.max_new_tokens}"
            )
        self._check_budget()
        if (
            chosen.type == "cuda"
            and device_map is None
            and max_memory is None
            and not isinstance(model, PreTrainedModel)
        ):
            check_memory(checkpoint, dtype, quantization, chosen)
        if not isinstance(model, PreTrainedModel):
            check_layers(checkpoint.config)
        elif model._supports_attention_backend:  # the decoder says so, where it does not
            check_layers(model)
        # Last, since it takes longest: whatever is wrong with the rest has been said by now.
        if isinstance(model, PreTrainedModel):
            self.model = model
        else:
            self.model = load_model(
                checkpoint,
                dtype=dtype,
                device=device,
                quantization=quantized,
                device_map=device_map,
                max_memory=max_memory,
            )
            if not is_split(self.model):
                pack_linear_layers(self.model)  # only ours: a model that was handed over keeps its weights
        if reproducible:
            make_batch_invariant(self.model)
        self.decoder = Decoder(
            self.model,
            self.encoder.chain_rules(eos_ids(self.model, self.tokenizer)),
            true_id=self.encoder.true_id,
            false_id=self.encoder.false_id,
            rethinks=rethink,
            kv_cache_tokens=kv_cache_tokens,
            gpu_memory_utilization=gpu_memory_utilization,
            reproducible=reproducible,
            compile=compile,
        )

    @overload
    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        stream: Literal[False] = ...,
        think: bool = ...,
        rule: Rule | None = ...,
        logits_processor: Processor | Mapping[int, Processor] | None = ...,
        trace: bool | TraceOptions = ...,
        observers: Sequence[Observer] = ...,
    ) -> Judgments: ...

    @overload
    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        stream: Literal[True],
        think: bool = ...,
        rule: Rule | None = ...,
        logits_processor: Processor | Mapping[int, Processor] | None = ...,
        trace: bool | TraceOptions = ...,
        observers: Sequence[Observer] = ...,
    ) -> Iterator[Judgment]: ...

    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        stream: bool = False,
        think: bool = True,
        rule: Rule | None = None,
        logits_processor: Processor | Mapping[int, Processor] | None = None,
        trace: bool | TraceOptions = False,
        observers: Sequence[Observer] = (),
    ) -> Judgments | Iterator[Judgment]:
        """Think about every pair. A pair that cannot be judged gets a judgment with an `error`; the others are
        unharmed.

        Args:
            pairs: (query, passage) each; or one pair alone; or a table with the columns "query" and "passage" (a pandas
                frame, an Arrow table, a `datasets.Dataset`). A query is text or {"text", "instruction"}, a passage is
                text or {"title", "text"}. The same pair twice is decoded once.
            batch_size: how many pairs decode together at most. None: what is fast on the device.
            show_progress_bar: None: only on a terminal.
            stream: yield judgments as they finish, each with its `index`, taking pairs as there is room for them.
            think: False closes every chain before its first token: what the model believes without thinking.
            rule: decides when chains stop and what they say; see `rank1_hf.chains.chain.Rule`.
            logits_processor: of Transformers' own type; for all pairs, or by index for some. It changes which tokens a
                chain takes, never the verdict, and is called with one pair's context [1, tokens] and logits
                [1, vocabulary] at a time.
            trace: put a `Trace` into each judgment; True for the tokens, or `TraceOptions` for more.
            observers: see `rank1_hf.tracing.Observer`.

        Returns:
            A list in input order, which can also write itself as a table or an HTML page, or with `stream` an iterator
            in the order of finishing. A warning says so where nearly all chains ran to their budget.

        Raises:
            TypeError: `pairs` is not a collection of pairs.
            ValueError: a table lacks a column; or `stream` with `num_gpus`; or its processes were given different
                pairs; or what is asked for is not in the model, or makes no sense.
            PromptTooLongError: with truncation="error", for the first prompt that does not fit, before anything is
                decoded (where `pairs` is a list).
            Interrupted: Ctrl-C; it carries what was finished (not with `stream`, where you have it already).
        """
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, least=1)
        n_layers, n_heads = n_layers_and_heads(self.model)
        check_observers(observers, n_layers=n_layers, n_heads=n_heads)
        asked = Asked(think, rule, logits_processor, trace, tuple(observers))
        many = as_pairs(pairs)
        if stream and self._processes is not None:
            raise ValueError("the judgments of several processes come together at the end; leave stream out")
        if not stream and not isinstance(many, Sequence):
            many = list(many)
        if self.truncation == "error" and isinstance(many, Sequence):
            self._check_lengths(many)
        if self._processes is not None:
            many = list(many)
            with self._lock:
                together = self._judge_together(self._processes, many, batch_size, show_progress_bar, asked)
            return Judgments(together, many)
        total = len(many) if isinstance(many, Sized) else None
        indexed = in_decoding_order(many) if isinstance(many, Sequence) else enumerate(many)
        judgments = self._judge(indexed, total, batch_size, show_progress_bar, asked)
        if stream or not isinstance(many, Sequence):
            return self.in_turn(judgments)
        with self._lock:
            return Judgments(_collect(judgments), many)

    # ---- looking inside ----------------------------------------------------------------------------------------------

    def trace(
        self,
        query: Query,
        passage: Passage,
        *,
        belief: BeliefAt | None = "sentences",
        lens: bool = True,
        attention: bool = True,
    ) -> Trace:
        """Think about one pair and tell everything about it; see `TraceOptions` for what the arguments mean.

        Raises:
            PairError: the pair cannot be judged.
        """
        options = TraceOptions(belief, lens=lens, attention=attention)
        judgment = self._judge_one(query, passage, Asked(trace=options))
        if judgment.trace is None:
            raise RuntimeError("the trace of this pair failed; the log says why")
        return judgment.trace

    def lens(self, query: Query, passage: Passage) -> Lens:
        """Think about one pair, and read its verdict from every layer and the attention of every head.

        Raises:
            PairError: the pair cannot be judged.
        """
        observer = LensObserver(self.model, self.encoder.true_id, self.encoder.false_id)
        judgment = self._judge_one(query, passage, Asked(observers=[observer]))
        return observer.lens(judgment, self.encode(query, passage), self.encoder)

    def score_chain(
        self,
        query: Query,
        passage: Passage,
        chain: str | Sequence[int],
        *,
        resume: bool = False,
        trace: bool | TraceOptions = False,
    ) -> Judgment:
        """The verdict behind a chain that somebody else has written: what would the model say if it had thought this?

        Args:
            query, passage: the pair.
            chain: what stands behind `<think>`: a text (as `Judgment.chain` is), or token ids (as `Trace.token_ids`
                are), without markers.
            resume: let the model think on from the end of the chain, instead of closing it there as it is.
            trace: as in `judge`.

        Returns:
            The judgment; its chain is the whole one, a text as it was given, and without `resume` it counts as
            "closed".

        Raises:
            PairError: the pair cannot be judged, or the chain does not fit.
            ValueError: the chain contains `</think>`, or ids that are none.
        """
        given = (*self._chain_ids(chain), *(() if resume else self.encoder.close_ids))
        judgment = self._judge_one(query, passage, Asked(trace=trace, given=given))
        return with_given_chain(judgment, chain, self.encoder) if isinstance(chain, str) else judgment

    def stream(self, query: Query, passage: Passage) -> Iterator[TokenEvent | Judgment]:
        """Think about one pair aloud: yields each token of the chain as it comes, and then the judgment.

        Raises:
            PairError: the pair cannot be judged.
        """
        return self.in_turn(self._stream(query, passage))

    def _stream(self, query: Query, passage: Passage) -> Generator[TokenEvent | Judgment]:
        speaker = Speaker(self.encoder)
        call = Call(self, iter([(0, (query, passage))]), Asked(observers=[speaker]))
        with contextlib.closing(self.decoder.steps(call.requests())) as steps:
            for finished in steps:
                yield from speaker.take()
                for decoded in finished:
                    call.finish(decoded)
        for judgment in call.take_ready():
            if judgment.error is not None:
                raise PairError(judgment.error)
            yield judgment

    def _chain_ids(self, chain: str | Sequence[int]) -> Sequence[int]:
        if isinstance(chain, str):
            if self.encoder.markers.close in chain:
                raise ValueError(f"a chain is given without {self.encoder.markers.close}; cut it there")
            return self.encoder.chain_ids(chain)
        ids = [operator.index(each) for each in chain if is_whole_number(each, least=0)]
        if len(ids) < len(chain) or max(ids, default=0) >= self.model.config.vocab_size:
            raise ValueError("a chain is a text, or a list of the token ids of this model")
        return ids

    # ---- one call ----------------------------------------------------------------------------------------------------

    def _judge_one(self, query: Query, passage: Passage, asked: Asked) -> Judgment:
        with self._lock:
            (judgment,) = self._judge(iter([(0, (query, passage))]), 1, None, False, asked)
        if judgment.error is not None:
            raise PairError(judgment.error)
        return judgment

    def _judge(
        self,
        pairs: Iterator[tuple[int, Pair]],
        total: int | None,
        batch_size: int | None,
        show: bool | None,
        asked: Asked,
    ) -> Generator[Judgment]:
        call = Call(self, pairs, asked)
        with Progress(total, show) as progress:
            for decoded in self.decoder.run(call.requests(), max_rows=batch_size, on_step=progress.step):
                call.finish(decoded)
                for judgment in call.take_ready():
                    progress.done()
                    yield judgment
            for judgment in call.take_ready():
                progress.done()
                yield judgment
        if self._processes is None or self._processes.index == 0:
            warn_of_budget(call.n_ended, budget=self.max_new_tokens, close=self.encoder.markers.close)

    def in_turn(self, items: Generator[_T]) -> Generator[_T]:
        """What a generator over `decoder` gives, while the calls of other threads come between its items and never
        into a step. Whoever runs the decoder without `judge` runs it through this.
        """
        done = object()
        try:
            while True:
                with self._lock:
                    item = next(items, done)
                if item is done:
                    return
                yield cast(_T, item)
        finally:
            with self._lock:
                items.close()

    def _judge_together(
        self, processes: Processes, pairs: Sequence[Pair], batch_size: int | None, show: bool | None, asked: Asked
    ) -> list[Judgment]:
        """Judge this process's share of the pairs; the judgments of all."""
        ordered = list(in_decoding_order(pairs))
        mine = shares(self._costs(ordered), processes.n)[processes.index]
        show = show if processes.index == 0 else False
        share = (ordered[place] for place in mine)
        judgments = processes.collect(self._judge(share, len(mine), batch_size, show, asked))
        if [judgment.index for judgment in judgments] != list(range(len(pairs))):
            raise ValueError("the processes of num_gpus must all be given the same pairs; each takes its share itself")
        return judgments

    def _costs(self, pairs: Sequence[tuple[int, Pair]]) -> list[int]:
        """About how many tokens each pair takes: none where it is equal to the one before it or cannot be judged."""
        costs: list[int] = []
        before = None
        for _, pair in pairs:
            cost = 0
            with contextlib.suppress(PairError):
                query, passage = unpack(pair)
                key = (query_text(query), passage_text(passage))
                if key != before:
                    cost = len(self.encode(query, passage).ids) + min(self.max_new_tokens, _TYPICAL_CHAIN)
                before = key
            costs.append(cost)
        return costs

    def encode(self, query: Query, passage: Passage) -> Prompt:
        """The prompt of one pair, cut as it will be decoded.

        Raises:
            PairError: the pair cannot be judged.
        """
        return self.encoder.encode(query, passage, max_tokens=self._prompt_room, truncation=self.truncation)

    @property
    def _close_tokens(self) -> int:
        return _CLOSE_RESERVE + len(self.encoder.close_ids)

    @property
    def _prompt_room(self) -> int:
        """The most tokens a prompt may have: the context less the budget, but enough to close a chain of one token."""
        return self.context - max(self.max_new_tokens, 1 + self._close_tokens)

    def chain_limit(self, n_prompt_tokens: int) -> tuple[int, Literal["budget", "context"]]:
        """The most tokens a chain may have behind a prompt of this length, and what reaching that is called."""
        limit = min(self.max_new_tokens, self.context - n_prompt_tokens - self._close_tokens)
        return limit, "budget" if limit == self.max_new_tokens else "context"

    def _check_budget(self) -> None:
        shortest = len(self.encoder.encode("?", "").ids)
        if shortest > self._prompt_room:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} does not fit: the context is {self.context} tokens (the smaller "
                f"of max_length and the model's own limit) and the shortest prompt needs {shortest} of them; "
                f"use at most {max(self.context - shortest, 0)}"
            )

    def _check_lengths(self, pairs: Sequence[Pair]) -> None:
        for index, pair in enumerate(pairs):
            try:
                self.encode(*unpack(pair))
            except PromptTooLongError as error:
                raise PromptTooLongError(f"pair {index}: {error}") from None
            except PairError:
                pass  # its judgment will say so


def _collect(judgments: Iterator[Judgment]) -> list[Judgment]:
    finished: list[Judgment] = []
    try:
        finished.extend(judgments)
    except KeyboardInterrupt:
        raise Interrupted(sorted(finished, key=lambda judgment: judgment.index)) from None
    return sorted(finished, key=lambda judgment: judgment.index)
