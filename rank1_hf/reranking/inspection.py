"""What looks inside one pair: its trace, its lens, a chain that was given, its tokens as they come."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal, TypeVar, Unpack, overload

import torch
from transformers import PreTrainedModel

from rank1_hf.chains.beliefs import BeliefAt
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.modules import noting_hooks
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.files.completions import completion_of
from rank1_hf.inputs.values import truth_value
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.pair_text import Pair, PairError, Passage, Query
from rank1_hf.prompts.pairs import Pairs, as_pairs, unpack
from rank1_hf.prompts.prompt import Prompt, PromptEncoder
from rank1_hf.reranking.call import Call
from rank1_hf.reranking.call_options import CallOptions, JudgingOptions, OnJudgment, PairOptions, call_options
from rank1_hf.reranking.cases import Rounding
from rank1_hf.reranking.given_chains import Close, GivenChain, GivenChains
from rank1_hf.reranking.verification import verify
from rank1_hf.results.completion import Completion
from rank1_hf.results.judgment import Judgment, TokenEvent
from rank1_hf.results.trace import Trace
from rank1_hf.tracing.lens import Lens, LensObserver
from rank1_hf.tracing.token_stream import TokenStream
from rank1_hf.tracing.tracer import TraceOptions
from rank1_hf.viewing.judgments import Judgments
from rank1_hf.viewing.verifications import Verifications

_T = TypeVar("_T")

_RESUMES = dict.fromkeys(("resume_from", "keeper"), "a chain begins anew here; judge takes up what was interrupted")
_TRACES = _RESUMES | {
    "trace": "it shows what it finds in a form of its own; use judge(pairs, trace=...) for judgments with traces"
}
_DECODES = _RESUMES | dict.fromkeys(
    ("think", "rule", "logits_processor"),
    "nothing is decoded behind a whole chain; use score_chain(..., resume=True) to think on from it",
)


class InspectionMethods(ABC):
    """What a class that judges pairs shows of one pair.

    Attributes:
        model: the model.
        decoder: runs it.
        encoder: text to ids.
        pair_encoder: pairs to prompts.
    """

    model: PreTrainedModel
    decoder: Decoder | PlainDecoder
    encoder: PromptEncoder
    pair_encoder: PairEncoder

    @abstractmethod
    def encode(self, query: Query, passage: Passage) -> Prompt:
        """The prompt of one pair, cut as it will be decoded."""

    @abstractmethod
    def locked_per_step(self, items: Generator[_T]) -> Generator[_T]:
        """Yield from a generator that drives `decoder`, and hold its lock only while it produces an item."""

    @abstractmethod
    def _judge_one(self, query: Query, passage: Passage, options: CallOptions) -> Judgment:
        """Think about one pair.

        Raises:
            PairError: the pair cannot be judged.
        """

    @abstractmethod
    def _judge_all(
        self, pairs: Sequence[Pair], batch_size: int | None, show_progress_bar: bool | None, options: CallOptions
    ) -> Judgments:
        """Judge pairs, in input order."""

    @abstractmethod
    def _stream_all(
        self, pairs: Iterable[Pair], batch_size: int | None, show_progress_bar: bool | None, options: CallOptions
    ) -> Iterator[Judgment]:
        """Judge pairs, in the order of finishing."""

    def trace(
        self,
        query: Query,
        passage: Passage,
        *,
        belief: BeliefAt | None = "sentences",
        lens: bool = True,
        attention: bool = True,
        **options: Unpack[PairOptions],
    ) -> Trace:
        """Judge one pair and record its trace; see `TraceOptions` for what the arguments mean, and `Rank1.judge`.

        Raises:
            PairError: the pair cannot be judged.
            TypeError, ValueError: an option makes no sense.
        """
        asked = call_options(self.trace, self.decoder, options, unsupported=_TRACES, watches=True)
        wanted = TraceOptions(belief, lens=lens, attention=attention)
        judgment = self._judge_one(query, passage, replace(asked, trace=wanted))
        if judgment.trace is None:
            raise RuntimeError("the trace of this pair failed; the log says why")
        return judgment.trace

    def lens(self, query: Query, passage: Passage, **options: Unpack[PairOptions]) -> Lens:
        """Think about one pair, and read its verdict from every layer and the attention of every head.

        Raises:
            PairError: the pair cannot be judged.
            TypeError, ValueError: an option makes no sense; see `Rank1.judge`.
        """
        asked = call_options(self.lens, self.decoder, options, unsupported=_TRACES, watches=True)
        observer = LensObserver(self.model, self.encoder.true_id, self.encoder.false_id)
        judgment = self._judge_one(query, passage, replace(asked, observers=(*asked.observers, observer)))
        return observer.lens(judgment, self.encode(*unpack(asked.instructed((query, passage)))), self.encoder)

    def score_chain(
        self,
        query: Query,
        passage: Passage,
        chain: GivenChain,
        *,
        resume: bool = False,
        close: Close = "given",
        **options: Unpack[PairOptions],
    ) -> Judgment:
        """The verdict of the model behind a given chain: `score_chains` of one.

        Args:
            query, passage: the pair.
            chain: what stands behind `<think>`: a text or token ids, as in `score_chains`.
            resume: let the model think on from the end of the chain, instead of closing it there.
            close: as in `score_chains`; not with `resume`.
            options: see `Rank1.judge`; rule, logits_processor and think only with `resume`.

        Returns:
            The judgment; its chain is the whole one, a text as it was given.

        Raises:
            PairError: the pair cannot be judged, or the chain is none or does not fit.
            TypeError, ValueError: an option makes no sense.
        """
        if truth_value("resume", resume) and close != "given":
            raise ValueError(
                f"with resume=True the model closes the chain itself; leave out close={close!r}, or resume"
            )
        given = GivenChains([chain], None if resume else close)
        unsupported = _RESUMES if resume else _DECODES
        asked = call_options(self.score_chain, self.decoder, options, unsupported=unsupported, given=given)
        (judgment,) = self._judge_all([(query, passage)], None, False, asked)
        if judgment.error is not None:
            raise PairError(judgment.error)
        return judgment

    @overload
    def score_chains(
        self,
        pairs: Pairs,
        chains: Sequence[GivenChain],
        *,
        close: Close = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        **options: Unpack[PairOptions],
    ) -> Judgments: ...

    @overload
    def score_chains(
        self,
        pairs: Pairs,
        chains: Sequence[GivenChain],
        *,
        close: Close = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        stream: Literal[True],
        **options: Unpack[JudgingOptions],
    ) -> Iterator[Judgment]: ...

    def score_chains(
        self,
        pairs: Pairs,
        chains: Sequence[GivenChain],
        *,
        close: Close = "given",
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        stream: bool | OnJudgment | None = False,
        **options: Unpack[JudgingOptions],
    ) -> Judgments | Iterator[Judgment]:
        """The verdicts of the model behind given chains (teacher forcing): nothing is decoded, all tokens are prefill.

        The logits behind every token given are read all the same, so traces and observers see it as if the model had
        said it: its log-probability, its margin (negative where the model would have said something else), the entropy
        there, and beliefs. With reproducible=True tokens are fed one by one, as they were decoded, so that a chain
        given by its ids, and closed as it was, gets the very bits of its own judgment.

        Args:
            pairs: as in `judge`.
            chains: one for each pair: what stands behind `<think>`, a text (as `Judgment.chain` is), or token ids (as
                `Trace.token_ids` are), without markers. A text is tokenized anew, perhaps into other tokens than the
                model generated: only ids replay a chain exactly.
            close: "given": each is closed as it is, as a model closes its chain; "forced": each is cut after its last
                sentence and closed, as the official code closes a chain that ran out of tokens. So a chain gets the
                score that it had there. A judgment whose `ended` is not "closed" was closed so too.
            batch_size, show_progress_bar, stream: as in `judge`.
            options: instruction, trace and observers: see `Rank1.judge`.

        Returns:
            A judgment for each pair, with the chain as it was given, which counts as "closed", or as "stopped" where it
            is closed by force. A chain that is none, does not fit, or has what no chain may have (`</think>`, EOS, the
            id of `<think>`, a lone surrogate) is its pair's error.

        Raises:
            TypeError, ValueError: as in `judge`; or there are not as many chains as pairs.
        """
        many = as_pairs(pairs)
        many = many if isinstance(many, Sequence) else list(many)
        given = GivenChains.of(chains, close, n_pairs=len(many))
        every = PairOptions(**options, stream=False if stream is True else stream)
        asked = call_options(self.score_chains, self.decoder, every, unsupported=_DECODES, given=given)
        return (self._stream_all if stream is True else self._judge_all)(many, batch_size, show_progress_bar, asked)

    def verify(
        self,
        records: Iterable[Completion | Mapping[str, Any]],
        *,
        dtype: str | torch.dtype | None = None,
        rounding: float | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Verifications:
        """Check what another engine or the official code has made: would this model have thought and scored the same?

        Each chain is teacher-forced behind the prompt that this tokenizer makes of its pair; nothing is decoded.

        Args:
            records: completions, or objects as other engines give them; see `rank1_hf.files.completions` for the forms.
            dtype: that of the other engine; None: this model's. The coarser of the two says what rounding explains.
            rounding: logits no farther apart than this count as equal; None: by the dtype.
            batch_size, show_progress_bar: as in `judge`.

        Returns:
            A `Verification` for each record, in their order, which can sum itself up and write itself as a page.

        Raises:
            InputError: a record is no object, or has a field whose value makes no sense.
            ValueError: there is no such dtype, or the rounding is none.
        """
        chosen = Rounding.of(self.model.dtype, dtype, rounding)
        completions = [
            record if isinstance(record, Completion) else completion_of(record, f"record {index}")
            for index, record in enumerate(records)
        ]
        return verify(self, completions, chosen, batch_size=batch_size, show_progress_bar=show_progress_bar)

    def stream(self, query: Query, passage: Passage, **options: Unpack[PairOptions]) -> Iterator[TokenEvent | Judgment]:
        """Think about one pair aloud: yields each token of the chain as it comes, and then the judgment.

        Raises:
            PairError: the pair cannot be judged.
            TypeError, ValueError: an option makes no sense; see `Rank1.judge`.
        """
        asked = call_options(self.stream, self.decoder, options, unsupported=_RESUMES, watches=True)
        return self.locked_per_step(self._stream((query, passage), asked))

    def _stream(self, pair: Pair, asked: CallOptions) -> Generator[TokenEvent | Judgment]:
        tokens = TokenStream(self.encoder)
        asked = replace(asked, observers=(*asked.observers, tokens))
        call = Call(self.pair_encoder, self.decoder, iter([(0, pair)]), asked)
        with closing(self.decoder.steps(call.requests())) as steps, noting_hooks(self.model):
            for finished in steps:
                yield from tokens.take()
                for decoded in finished:
                    call.finish(decoded)
        for judgment in call.take_ready():
            if judgment.error is not None:
                raise PairError(judgment.error)
            yield judgment
