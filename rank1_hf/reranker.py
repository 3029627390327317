"""Rank1: the model, and `judge`. `predict` and `rank` are in `reranking/cross_encoder.py`, what looks inside a pair in
`reranking/inspection.py`.
"""

import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.decoding.stats import Stats
from rank1_hf.inputs.values import whole_number
from rank1_hf.models.loading import eos_ids
from rank1_hf.models.quantization import Quantization
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.pair_encoder import MAX_LENGTH, PairEncoder
from rank1_hf.prompts.pair_text import Pair, PairError, Passage, Query
from rank1_hf.prompts.pairs import Pairs, as_pairs, in_decoding_order
from rank1_hf.prompts.prompt import Prompt, Truncation
from rank1_hf.prompts.shares import own_share
from rank1_hf.reranking.as_loaded import AsLoaded
from rank1_hf.reranking.caching import CachingMethods
from rank1_hf.reranking.call import Call, collect
from rank1_hf.reranking.call_options import CallOptions, JudgingOptions, OnJudgment, PairOptions, call_options
from rank1_hf.reranking.cross_encoder import CrossEncoderMethods, without_cross_encoder_options
from rank1_hf.reranking.in_force import description, in_force
from rank1_hf.reranking.inspection import InspectionMethods
from rank1_hf.reranking.locking import Locking
from rank1_hf.reranking.model_source import ModelSource
from rank1_hf.reranking.progress import Progress
from rank1_hf.reranking.remarks import BudgetCheck
from rank1_hf.reranking.score_cache import ScoreCache
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import Judgments

logger = logging.getLogger(__name__)


class Rank1(Locking, CrossEncoderMethods, InspectionMethods, CachingMethods):
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
        decoding: what the engine does beyond the plain loop, as `DecodingOptions` or as text ("speculate=off"); for
            example `DecodingOptions(kv_cache_tokens=100_000, reproducible=True)`.
        engine: "paged", many pairs at a time; or "plain", one pair at a time by `decoding/plain.py`, which is what
            everything else is compared with. It has no traces, observers, lens or streams of tokens, and takes of
            `decoding` only `reproducible` and what is switched off.
        cache: a file of judgments, or a `ScoreCache`: a pair that was judged before, and all the same, is not decoded
            again. See `deciding_facts` for what must be the same.
        revision, subfolder, token: where on the hub or in the folder the checkpoint is; see `open_checkpoint`.
        allow_pickles: take weights from `.bin` files where there are no safetensors; see `open_checkpoint`.
        old_options: fields of `DecodingOptions` as arguments of their own, deprecated.

    Attributes:
        model, tokenizer: as loaded.
        encoder: text to ids.
        pair_encoder: pairs to prompts that leave room for a chain.
        decoder: runs the model.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ContractError: its tokenizer cannot express the prompt contract.
        ValueError: an argument makes no sense; the message says which and why.
        TypeError: an argument is `CrossEncoder`'s alone; the message says what to do instead.
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
        max_length: int = MAX_LENGTH,
        prompt_template: str | None = None,
        rethink: int = 0,
        min_thinking_tokens: int = 0,
        truncation: Truncation = "passage",
        markers: Markers | None = None,
        decoding: DecodingOptions | str | None = None,
        engine: Literal["paged", "plain"] = "paged",
        cache: ScoreCache | str | Path | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        allow_pickles: bool = False,
        **old_options: Any,  # noqa: ANN401
    ) -> None:
        old_options = without_cross_encoder_options(old_options, known=Rank1.__init__.__kwdefaults__ or ())
        decoding = DecodingOptions.of(decoding).with_old_names(old_options, "Rank1").for_engine(engine)
        max_length = whole_number("max_length", max_length, least=1)
        rethink = whole_number("rethink", rethink, least=0)
        min_thinking_tokens = whole_number("min_thinking_tokens", min_thinking_tokens, least=0)
        if max_new_tokens is not None:
            max_new_tokens = whole_number("max_new_tokens", max_new_tokens, least=1)
        self._cache = None if cache is None else ScoreCache.of(cache)
        source = ModelSource(
            model,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            quantization=quantization,
            device_map=device_map,
            max_memory=max_memory,
            num_gpus=num_gpus,
            revision=revision,
            subfolder=subfolder,
            token=token,
            allow_pickles=allow_pickles,
            reproducible=decoding.reproducible,
        )
        checkpoint = source.checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.pair_encoder = PairEncoder.of(
            checkpoint,
            template=prompt_template,
            markers=markers,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            min_thinking_tokens=min_thinking_tokens,
            truncation=truncation,
        )
        self.encoder = self.pair_encoder.encoder
        self._processes = source.processes
        self._lock = threading.RLock()
        # Last, since it takes longest: errors in the other arguments have been raised by now.
        self._weights = "" if self._cache is None else source.fingerprint()  # before they are packed
        self.model = source.load(decoding)
        rules = self.encoder.chain_rules(eos_ids(self.model, self.tokenizer), self.model.config.vocab_size)
        answers = {"true_id": self.encoder.true_id, "false_id": self.encoder.false_id}
        self.decoder: Decoder | PlainDecoder
        if engine == "plain":
            self.decoder = PlainDecoder(self.model, rules, **answers, rethinks=rethink)
        else:
            self.decoder = Decoder(self.model, rules, **answers, rethinks=rethink, options=decoding)
            if self.decoder.options.graphs:
                self.decoder.warm_up(self.encoder.encode("?", "").ids)
        self._as_loaded = None if self._cache is None else AsLoaded(self.model, self.decoder)
        for line in in_force(self.decoder, self.pair_encoder):
            logger.info("%s", line)

    def __repr__(self) -> str:
        """Which model, in what precision, where, and with what limits."""
        return description(self.decoder, self.pair_encoder)

    @property
    def stats(self) -> Stats:
        """What has been decoded since the model was loaded: steps, tokens of each kind, preemptions."""
        return self.decoder.stats

    @property
    def max_length(self) -> int:
        """The most tokens of prompt and chain together: the argument, or the model's own limit where that is less."""
        return self.pair_encoder.context

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a chain."""
        return self.pair_encoder.max_new_tokens

    @max_new_tokens.setter
    def max_new_tokens(self, budget: int) -> None:
        self.pair_encoder.max_new_tokens = budget

    @property
    def min_thinking_tokens(self) -> int:
        """The fewest tokens that a chain may have; one that closes earlier is reopened."""
        return self.pair_encoder.min_thinking_tokens

    @property
    def truncation(self) -> Truncation:
        """What happens to a prompt that does not fit."""
        return self.pair_encoder.truncation

    @overload
    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        **options: Unpack[PairOptions],
    ) -> Judgments: ...

    @overload
    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        stream: Literal[True],
        **options: Unpack[JudgingOptions],
    ) -> Iterator[Judgment]: ...

    def judge(
        self,
        pairs: Pairs,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        stream: bool | OnJudgment | None = False,
        **options: Unpack[JudgingOptions],
    ) -> Judgments | Iterator[Judgment]:
        """Think about every pair. A pair that cannot be judged gets a judgment with an `error`; the others are
        unharmed.

        Args:
            pairs: (query, passage) each; or one pair alone; or a table with the columns "query" and "passage" (a pandas
                frame, an Arrow table, a `datasets.Dataset`). A query is text or {"text", "instruction"}, a passage is
                text or {"title", "text"}. The same pair twice is decoded once, unless a logits processor may sample.
            batch_size: how many pairs decode together at most. None: what is fast on the device.
            show_progress_bar: None: on a terminal. Where there is no bar, a line is logged at INFO every minute.
            stream: True: yield judgments as they finish, each with its `index`, taking pairs as there is room for
                them. A function: call it with each then, and return them all in the end.
            options: instruction, think, rule, logits_processor, trace, observers, resume_from: see
                `rank1_hf.reranking.call_options.PairOptions`.

        Returns:
            A list in input order, which can also write itself as a table or an HTML page, or with `stream=True` an
            iterator in the order of finishing. A warning is given where nearly all chains ran to their budget.

        Raises:
            TypeError: `pairs` is not a collection of pairs, or one of strings (see `rank`).
            ValueError: a table lacks a column; or `stream` with `num_gpus`; or its processes were given different
                pairs; or what is asked for is not in the model, or makes no sense.
            PromptTooLongError: with truncation="error", for the first prompt that does not fit, before anything is
                decoded (where `pairs` is a list).
            Interrupted: Ctrl-C. Its `judgments`, and any error's, are what was finished (not of a stream) or begun.
        """
        every = PairOptions(**options, stream=False if stream is True else stream)
        asked, many = call_options(self.judge, self.decoder, every), as_pairs(pairs)
        if stream is True:
            return self._stream_all(many, batch_size, show_progress_bar, asked)
        many = many if isinstance(many, Sequence) else list(many)
        return self._judge_all(many, batch_size, show_progress_bar, asked)

    def _stream_all(
        self, pairs: Iterable[Pair], batch_size: int | None, show_progress_bar: bool | None, options: CallOptions
    ) -> Iterator[Judgment]:
        batch_size = self._check(pairs, batch_size, options, streams=True)
        total = len(pairs) if isinstance(pairs, Sized) else None
        indexed = in_decoding_order(pairs) if isinstance(pairs, Sequence) else enumerate(pairs)
        return self.locked_per_step(self._judge(indexed, total, batch_size, show_progress_bar, options))

    def _judge_all(
        self, pairs: Sequence[Pair], batch_size: int | None, show_progress_bar: bool | None, options: CallOptions
    ) -> Judgments:
        batch_size = self._check(pairs, batch_size, options, streams=bool(options.stream))
        if self._processes is not None:
            share = own_share(list(pairs), self.pair_encoder, self._processes.n, self._processes.index)
            show = show_progress_bar if self._processes.index == 0 else False
            with self._lock:
                judged = self._judge(iter(share), len(share), batch_size, show, options)
                return Judgments(self._processes.collect(judged, n_pairs=len(pairs)), pairs)
        with self._lock:
            judged = self._judge(in_decoding_order(pairs), len(pairs), batch_size, show_progress_bar, options)
            return Judgments(collect(judged, can_resume=options.given is None), pairs)

    def _check(
        self, pairs: Iterable[Pair], batch_size: int | None, options: CallOptions, *, streams: bool
    ) -> int | None:
        """Refuse before any work what cannot be done. Returns the batch size."""
        if streams and self._processes is not None:
            raise ValueError("the judgments of several processes come together at the end; leave stream out")
        if isinstance(pairs, Sequence):
            options.check_pairs(pairs, self.pair_encoder)
        return None if batch_size is None else whole_number("batch_size", batch_size, least=1)

    def _judge_one(self, query: Query, passage: Passage, options: CallOptions) -> Judgment:
        with self._lock:
            (judgment,) = self._judge(iter([(0, (query, passage))]), 1, None, False, options)
        if judgment.error is not None:
            raise PairError(judgment.error)
        return judgment

    def _judge(
        self,
        pairs: Iterator[tuple[int, Pair]],
        total: int | None,
        batch_size: int | None,
        show: bool | None,
        options: CallOptions,
    ) -> Generator[Judgment]:
        call = Call(self.pair_encoder, self.decoder, pairs, options, cached=self.cached_judgments(options, batch_size))
        speaks = self._processes is None or self._processes.index == 0
        budget = BudgetCheck(call.n_ended, self.max_new_tokens, self.encoder.markers.close, speaks=speaks)
        progress = Progress(total, show, self.decoder.stats, n_blank=lambda: call.n_blank, speaks=speaks)
        with progress, call.interruptible():

            def after_step(stats: Stats) -> None:
                progress.step(stats)
                call.keep()

            while not call.is_over:
                for decoded in self.decoder.run(call.requests(), max_rows=batch_size, on_step=after_step):
                    call.finish(decoded)
                    for judgment in call.take_ready():
                        progress.done(judgment)
                        yield judgment
                    budget.check()
                for judgment in call.take_ready():
                    progress.done(judgment)
                    yield judgment
        budget.check(at_end=True)

    def encode(self, query: Query, passage: Passage) -> Prompt:
        """The prompt of one pair, cut as it will be decoded.

        Raises:
            PairError: the pair cannot be judged.
        """
        return self.pair_encoder.encode(query, passage)
