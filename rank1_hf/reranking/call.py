"""One call: its pairs on their way through the decoder.

    pairs -> Call.requests -> Decoder -> Call.finish -> judgments

`Rank1` has what all of its calls have in common, the decoder knows token ids. Between them are a call's options, its
invalid pairs, its duplicates, and the texts needed to build its results.
"""

import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from rank1_hf.chains.chain import Chain, Ended
from rank1_hf.chains.rules import SteeringError, rule_for_pair
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.modules import noting_hooks
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.pair_text import Pair, PairError, passage_text, query_text
from rank1_hf.prompts.pairs import unpack
from rank1_hf.prompts.prompt import Prompt
from rank1_hf.reranking.cached_judgments import CachedJudgments
from rank1_hf.reranking.call_options import CallOptions
from rank1_hf.reranking.fingerprints import Fingerprints
from rank1_hf.reranking.resuming import Resumed, carried_by, carry
from rank1_hf.results.judgment import Interrupted, Judgment, sigmoid
from rank1_hf.tracing.lens import LensObserver, n_layers_and_heads
from rank1_hf.tracing.observer import Observed, check_needs
from rank1_hf.tracing.tracer import Tracer

_READY_AT_A_TIME = 64  # judgments that need no decoding, and are handed out together
_KEEP_SECONDS = 0.1  # between two times that unfinished chains are kept: as much thinking a kill costs
_REMEMBERED = 1024  # finished pairs kept for duplicates; equal pairs of a list are decoded next to each other anyway


_Key = tuple[str, str, int | None, tuple[int, ...]]


@dataclass(slots=True)
class _Live:
    """A pair that is being decoded, what an earlier call kept of it, and its chain once it has one."""

    key: _Key
    prompt: Prompt
    fingerprint: str
    kept: Judgment | None
    watcher: Observed | None
    tracer: Tracer | None
    lens: LensObserver | None
    chain: Chain | None = None

    def begin(self, chain: Chain) -> None:
        self.chain = chain


class Call:
    """The pairs of one call.

    Args:
        encoder: says how a pair becomes a prompt, and how long its chain may be.
        decoder: what runs the pairs.
        pairs: with their places.
        options: what is wanted besides judgments.
        cached: judgments that are known already, and where those of this call are kept; for calls without options.
        is_wanted: asked before every step whether a pair is still wanted; once it is not, what it holds is freed, and
            its judgment is an error. It may be answered from another thread. None: all of them are.

    Pairs that come over time: None among them means that there is none at the moment; see `Decoder.steps`.

    Attributes:
        is_over: whether all pairs were taken. Requests that ended before go on when they are asked for again.
        n_ended: how many of the judgments taken so far ended in which way; None: without a score.
        n_blank: how many of the pairs taken so far have a blank passage, which is judged as it is.
    """

    def __init__(
        self,
        encoder: PairEncoder,
        decoder: Decoder | PlainDecoder,
        pairs: Iterator[tuple[int, Pair] | None],
        options: CallOptions,
        *,
        cached: CachedJudgments | None = None,
        is_wanted: Callable[[int], bool] | None = None,
    ) -> None:
        self._pair_encoder = encoder
        self._encoder = encoder.encoder
        self._model, self._rules = decoder.model, decoder.rules
        self._pairs = pairs
        self._options = options
        self._cached = cached
        self._is_wanted = is_wanted
        self._resumed = Resumed(options.resume_from)
        self._fingerprints = Fingerprints(decoder, encoder, options)
        self._last_kept = time.monotonic()
        n_layers, n_heads = n_layers_and_heads(decoder.model)
        self._check_needs = partial(check_needs, n_layers=n_layers, n_heads=n_heads)
        self._steering = options.steering(self._encoder, encoder.min_thinking_tokens)
        self._live: dict[int, _Live] = {}
        self._waiting: dict[_Key, list[int]] = {}  # equal pairs, by the one that is being decoded
        self._finished: OrderedDict[_Key, Judgment] = OrderedDict()
        self._ready: deque[Judgment] = deque()
        self.is_over = False
        self.n_ended: Counter[Ended | None] = Counter()
        self.n_blank = 0

    def requests(self) -> Iterator[Request | None]:
        """What is to be decoded; what cannot be, or is already, is seen to here."""
        for arrived in self._pairs:
            if arrived is None:
                yield None
                continue
            index, pair = arrived
            try:
                request = self._taken(index, pair)
            except (PairError, SteeringError) as error:
                self._ready.append(Judgment.failed(index, str(error)))
                request = None
            if request is not None:
                yield request
            elif len(self._ready) >= _READY_AT_A_TIME:
                yield None  # so that they are taken
        self.is_over = True

    def _taken(self, index: int, pair: Pair) -> Request | None:
        """The request of a pair; None where its judgment is known, or an equal pair is being decoded.

        Raises:
            PairError, SteeringError: the pair cannot be decoded.
        """
        query, passage = unpack(self._options.instructed(pair))
        given = self._given_ids(index)
        processed = None if self._options.processor(index) is None else index  # who samples wants each by itself
        text = passage_text(passage)
        key = (query_text(query), text, processed, given)
        self.n_blank += not text.strip()
        if key in self._waiting:
            self._waiting[key].append(index)
            return None
        if key in self._finished:
            self._ready.append(self._finished[key].at(index))
            return None
        prompt = self._pair_encoder.encode(query, passage)
        fingerprint = self._fingerprints.of(index, prompt, given)
        kept = self._resumed.kept(index, fingerprint)
        known = kept if kept is not None and not kept.unfinished else self._cached_judgment(index, prompt)
        if known is not None:
            known = replace(known, fingerprint=fingerprint)
            self._ready.append(known)
            self._remember(key, known)
            return None
        live = self._begin(index, key, prompt, fingerprint, kept)
        request = self._request(index, live, given, self._cancelled(index, key))
        self._waiting[key] = []
        self._live[index] = live
        return request

    def finish(self, decoded: Decoded) -> None:
        """Make the judgment of what the decoder has finished, and of the pairs that are equal to it."""
        live = self._live[decoded.index]
        key = live.key
        judgment = self._judgment(decoded, live)
        if live.watcher is not None:
            if live.tracer in live.watcher.observers:  # it has not failed
                assert live.tracer is not None
                trace = live.tracer.trace(decoded, live.prompt, self._encoder, live.lens)
                judgment = replace(judgment, trace=trace)
            live.watcher.finished(judgment)
        self._ready.append(judgment)
        self._ready.extend(judgment.at(index) for index in self._waiting[key])
        del self._live[decoded.index], self._waiting[key]
        if judgment.error is None:
            self._remember(key, judgment)
            if self._cached is not None:
                self._cached.put(live.prompt, judgment)

    def keep(self, *, now: bool = False) -> None:
        """Hand what the live chains have generated to the call's keeper, if it has one and the time has come.

        Args:
            now: do not wait for that time.
        """
        keeper, time_now = self._options.keeper, time.monotonic()
        if keeper is None or self._options.is_steered or not (now or time_now - self._last_kept >= _KEEP_SECONDS):
            return
        self._last_kept = time_now
        keeper.keep({index: live.chain.generated for index, live in self._live.items() if live.chain is not None})

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Keep what the live chains have generated when Ctrl-C or an error ends the block; the error names hooks.

        Raises:
            Interrupted: Ctrl-C; it carries what is unfinished. So does any other error, as `judgments`.
        """
        try:
            with noting_hooks(self._model):
                yield
        except KeyboardInterrupt as interrupt:
            self.keep(now=True)
            raise Interrupted(self.so_far()) from interrupt
        except GeneratorExit:  # nobody wants the rest
            raise
        except BaseException as error:
            self.keep(now=True)
            carry(error, self.so_far())
            raise

    def so_far(self) -> list[Judgment]:
        """What an earlier call gave of pairs that this one has not come to, what the live pairs and their equals have
        thought so far, and what nobody has taken yet. Of two for one pair the last counts.
        """
        found = self._resumed.not_reached()
        for index, live in self._live.items():
            if live.chain is None or not live.chain.generated:
                continue
            generated = tuple(live.chain.generated)
            error = f"interrupted after {len(generated)} tokens; resume_from=... goes on"
            judgment = self._judgment(Decoded(index, live.chain.thought_so_far, None, math.nan, math.nan, error), live)
            judgment = replace(judgment, unfinished=generated)
            found += [judgment, *map(judgment.at, self._waiting[live.key])]
        return [*found, *self._ready]

    def take_ready(self) -> Iterator[Judgment]:
        """The judgments there are by now, each once; who streams them is called with each. One is taken only when the
        next is asked for, so that an error on the way loses none.
        """
        options = self._options
        while self._ready:
            judgment = self._ready[0]
            self.n_ended[judgment.ended] += 1
            if options.given is not None:
                judgment = options.given.as_given(judgment, self._encoder)
            if options.stream:
                options.stream(judgment)
            yield judgment
            self._ready.popleft()

    def _remember(self, key: _Key, judgment: Judgment) -> None:
        self._finished[key] = judgment
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)

    def _cached_judgment(self, index: int, prompt: Prompt) -> Judgment | None:
        return None if self._cached is None else self._cached.get(index, prompt)

    def _begin(self, index: int, key: _Key, prompt: Prompt, fingerprint: str, kept: Judgment | None) -> _Live:
        options = self._options.traced
        tracer = None if options is None else Tracer()
        lens = None
        if options is not None and (options.lens or options.attention):
            lens = LensObserver(
                self._model,
                self._encoder.true_id,
                self._encoder.false_id,
                layers=options.lens,
                attention=options.attention,
            )
        watching = [observer for observer in (*self._options.observers, tracer, lens) if observer is not None]
        watcher = Observed(watching, index, prompt.ids, self._check_needs) if watching else None
        return _Live(key, prompt, fingerprint, kept, watcher, tracer, lens)

    def _cancelled(self, index: int, key: _Key) -> Callable[[], bool] | None:
        """Asks whether neither a pair is wanted any more, nor one of those that are equal to it."""
        is_wanted = self._is_wanted
        return None if is_wanted is None else lambda: not any(map(is_wanted, (index, *self._waiting[key])))

    def _given_ids(self, index: int) -> tuple[int, ...]:
        given = self._options.given
        return () if given is None else given.ids(index, self._encoder, self._rules)

    def _generated(self, index: int, live: _Live) -> Sequence[int]:
        """What was generated for a pair before."""
        options = self._options
        if options.is_steered:
            return ()
        generated: Sequence[int] = () if live.kept is None else live.kept.unfinished
        if not generated and options.keeper is not None:
            generated = options.keeper.generated(index)
        if max(generated, default=0) >= self._model.config.vocab_size:
            raise PairError("what was generated before is not of this model: it has ids that the model has not")
        return generated

    def _request(
        self, index: int, live: _Live, given: tuple[int, ...], is_cancelled: Callable[[], bool] | None
    ) -> Request:
        prompt, options, steering = live.prompt, self._options, self._steering
        limit, reason = self._pair_encoder.chain_limit(len(prompt.ids))
        if options.given is not None:
            close, more = options.given.close, "max_new_tokens"
            if close is not None:  # nothing is thought, so there is no budget to keep to
                limit, more = self._pair_encoder.chain_room(len(prompt.ids)), "max_length"
            if len(given) > limit:
                raise PairError(
                    f"the chain given has {len(given)} tokens and only {limit} fit; shorten it, or raise {more}"
                )
            marker = self._encoder.close_ids if close == "given" else ()
            steering = replace(steering, given=(*given, *marker), stops_behind_given=close == "forced")
        if steering.rule is not None:
            steering = replace(steering, rule=rule_for_pair(steering.rule, index))
        return Request(
            index=index,
            prompt=prompt.ids,
            n_shared=prompt.n_shared,
            limit=limit,
            limit_reason=reason,
            context=self._pair_encoder.context,
            steering=steering,
            processor=options.processor(index),
            watcher=live.watcher,
            is_cancelled=is_cancelled,
            generated=self._generated(index, live),
            on_chain=live.begin,
        )

    def _judgment(self, decoded: Decoded, live: _Live) -> Judgment:
        prompt, log_odds = live.prompt, decoded.true_logit - decoded.false_logit
        failed = decoded.error is not None
        return Judgment(
            index=decoded.index,
            score=math.nan if failed else sigmoid(log_odds),
            log_odds=log_odds,
            label=None if failed else log_odds > 0,
            chain=self._encoder.chain_text(prompt.ids, decoded.thought),
            n_prompt_tokens=len(prompt.ids),
            n_chain_tokens=len(decoded.thought),
            ended=decoded.ended,
            truncated=prompt.truncated,
            error=decoded.error,
            fingerprint=live.fingerprint,
        )


def collect(judgments: Iterator[Judgment], *, can_resume: bool = True) -> list[Judgment]:
    """All judgments of a call, in input order.

    Args:
        judgments: as the call gives them.
        can_resume: whether the method takes `resume_from`; then an error says so.

    Raises:
        Interrupted: Ctrl-C; it carries what was finished, and what was thought besides. So does any other error, as
            `judgments`.
    """
    finished: list[Judgment] = []
    try:
        finished.extend(judgments)
    except BaseException as error:
        carry(error, [*carried_by(error), *finished])
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(carried_by(error)) from None
        if can_resume and finished:
            error.add_note(f"{len(finished)} pairs were judged before; resume_from=error.judgments goes on from there")
        raise
    return sorted(finished, key=lambda judgment: judgment.index)
