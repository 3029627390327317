"""What looks inside one pair: its trace, its lens, a chain that was given, its tokens as they come."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from transformers import PreTrainedModel

from rank1_hf.chains.beliefs import BeliefAt
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.inputs.values import is_whole_number
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.prompt import PairError, Passage, PromptEncoder, Query
from rank1_hf.reranking.call import Call, CallOptions
from rank1_hf.results.judgment import Judgment, TokenEvent
from rank1_hf.results.trace import Trace
from rank1_hf.tracing.lens import Lens, LensObserver
from rank1_hf.tracing.token_stream import TokenStream
from rank1_hf.tracing.tracer import TraceOptions
from rank1_hf.viewing.texts import with_given_chain

_T = TypeVar("_T")


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
    def locked_per_step(self, items: Generator[_T]) -> Generator[_T]:
        """Yield from a generator that drives `decoder`, and hold its lock only while it produces an item."""

    @abstractmethod
    def _judge_one(self, query: Query, passage: Passage, options: CallOptions) -> Judgment:
        """Think about one pair.

        Raises:
            PairError: the pair cannot be judged.
        """

    def trace(
        self,
        query: Query,
        passage: Passage,
        *,
        belief: BeliefAt | None = "sentences",
        lens: bool = True,
        attention: bool = True,
    ) -> Trace:
        """Judge one pair and record its trace; see `TraceOptions` for what the arguments mean.

        Raises:
            PairError: the pair cannot be judged.
        """
        options = TraceOptions(belief, lens=lens, attention=attention)
        judgment = self._judge_one(query, passage, CallOptions(trace=options))
        if judgment.trace is None:
            raise RuntimeError("the trace of this pair failed; the log says why")
        return judgment.trace

    def lens(self, query: Query, passage: Passage) -> Lens:
        """Think about one pair, and read its verdict from every layer and the attention of every head.

        Raises:
            PairError: the pair cannot be judged.
        """
        observer = LensObserver(self.model, self.encoder.true_id, self.encoder.false_id)
        judgment = self._judge_one(query, passage, CallOptions(observers=[observer]))
        return observer.lens(judgment, self.pair_encoder.encode(query, passage), self.encoder)

    def score_chain(
        self,
        query: Query,
        passage: Passage,
        chain: str | Sequence[int],
        *,
        resume: bool = False,
        trace: bool | TraceOptions = False,
    ) -> Judgment:
        """The verdict of the model behind a given chain.

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
        judgment = self._judge_one(query, passage, CallOptions(trace=trace, given=given))
        return with_given_chain(judgment, chain, self.encoder) if isinstance(chain, str) else judgment

    def stream(self, query: Query, passage: Passage) -> Iterator[TokenEvent | Judgment]:
        """Think about one pair aloud: yields each token of the chain as it comes, and then the judgment.

        Raises:
            PairError: the pair cannot be judged.
        """
        return self.locked_per_step(self._stream(query, passage))

    def _stream(self, query: Query, passage: Passage) -> Generator[TokenEvent | Judgment]:
        tokens = TokenStream(self.encoder)
        call = Call(self.pair_encoder, self.model, iter([(0, (query, passage))]), CallOptions(observers=[tokens]))
        with closing(self.decoder.steps(call.requests())) as steps:
            for finished in steps:
                yield from tokens.take()
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
