"""The options of a call: one set, which all methods that judge pairs take."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypedDict

from transformers import LogitsProcessor, LogitsProcessorList

from rank1_hf.chains.beliefs import BeliefAt, check_belief_at
from rank1_hf.chains.rules import DoNotThink, Rule
from rank1_hf.chains.steering import Steering
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.inputs.choices import did_you_mean, made
from rank1_hf.inputs.values import is_missing
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.pair_text import Pair
from rank1_hf.prompts.pairs import with_instruction
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.reranking.given_chains import GivenChains
from rank1_hf.reranking.remarks import warn_of_no_methods
from rank1_hf.reranking.resuming import ChainKeeper, judgments_to_resume
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing.belief import belief_at
from rank1_hf.tracing.lens import n_layers_and_heads
from rank1_hf.tracing.observer import Observer, check_observers
from rank1_hf.tracing.tracer import TraceOptions

Processor: TypeAlias = LogitsProcessor | LogitsProcessorList
OnJudgment: TypeAlias = Callable[[Judgment], object]


class JudgingOptions(TypedDict, total=False):
    """`PairOptions` without `stream`, for methods that also take True there.

    Attributes:
        instruction: what else decides about relevance; stands behind each query that has no instruction of its own.
        think: False closes every chain before its first token: the verdict without reasoning.
        rule: decides when chains stop and which tokens they take; see `rank1_hf.Rule`.
        logits_processor: of Transformers' own type; for all pairs, or by index for some. It changes which tokens a
            chain takes, never the verdict, and is called with one pair's context [1, tokens] and logits
            [1, vocabulary] at a time.
        trace: put a `Trace` into each judgment; True for the tokens, or `TraceOptions` for more.
        observers: see `rank1_hf.tracing.Observer`; None: none.
        resume_from: what an earlier call with the same pairs and options gave before it was interrupted
            (the error, or its `judgments`, and what a stream has yielded); None: nothing. Judgments with a score
            are taken as they are, and unfinished chains go on; with a rule, logits_processor, trace or observers these
            begin anew. A judgment of another prompt or of other options is its pair's error; see `Fingerprints`.
        keeper: keeps unfinished chains while they grow, and has what it kept before; see `ChainKeeper`.
    """

    instruction: str | None
    think: bool
    rule: Rule | None
    logits_processor: Processor | Mapping[int, Processor] | None
    trace: bool | TraceOptions | None
    observers: Iterable[Observer] | None
    resume_from: Iterable[Judgment] | BaseException | None
    keeper: ChainKeeper | None


class PairOptions(JudgingOptions, total=False):
    """What every method that judges pairs takes, as far as it makes sense there: see `JudgingOptions`, and stream.

    Attributes:
        stream: a function that is called with each judgment once it is there, in the order of finishing, while the
            others are still being decoded. What it raises ends the call. None or False: none.
    """

    stream: OnJudgment | Literal[False] | None


def call_options(
    method: Callable[..., Any],
    decoder: Decoder | PlainDecoder,
    options: PairOptions,
    *,
    unsupported: Mapping[str, str] = MappingProxyType({}),
    given: GivenChains | None = None,
    watches: bool = False,
    warns: bool = True,
) -> "CallOptions":
    """The options that a method of `Rank1` was called with, checked before any work.

    Args:
        method: the method itself.
        decoder: what observers are checked against.
        options: its keyword arguments.
        unsupported: the options that it does not take, and what to use instead.
        given: the chains that it was given.
        watches: whether it watches pairs whatever the options are.
        warns: whether to warn of a rule and of observers that override nothing.

    Raises:
        TypeError: the method does not take one of them.
        ValueError: one makes no sense; or pairs are to be watched by the plain loop, which tells nobody about them.
    """
    found = CallOptions(given=given)
    chosen: dict[str, Any] = dict(options)
    if "observers" in chosen:
        chosen["observers"] = _observers(chosen["observers"])
    if "resume_from" in chosen:
        chosen["resume_from"] = judgments_to_resume(chosen["resume_from"])
    for name, value in chosen.items():
        if name == "stream" and value is True:
            raise TypeError(f"{method.__name__} takes no stream=True: {_NO_ITERATOR}")
        if name in unsupported and value != getattr(found, name):
            raise TypeError(f"{method.__name__} takes no {name}: {unsupported[name]}")
        if name not in PairOptions.__annotations__:
            raise TypeError(_unexpected(method, name, PairOptions.__annotations__.keys() - unsupported.keys()))
    found = replace(found, **chosen)
    if (watches or found.watches) and isinstance(decoder, PlainDecoder):
        raise ValueError(
            "engine='plain' has no traces and no observers (nor lens and stream); leave out engine, or these"
        )
    n_layers, n_heads = n_layers_and_heads(decoder.model)
    check_observers(found.observers, n_layers=n_layers, n_heads=n_heads)
    if warns:
        for steers, base in [(found.rule, Rule), *((observer, Observer) for observer in found.observers)]:
            warn_of_no_methods(steers, base)
    return found


def _unexpected(method: Callable[..., Any], name: str, options: Iterable[str]) -> str:
    """What to say of an argument that a method does not take: whose it is, or what it may be misspelt for."""
    owner = type(getattr(method, "__self__", None))
    of_owner = inspect.signature(owner).parameters
    if name in of_owner:
        return f"{method.__name__}() takes no {name}, which is an argument of the class: {owner.__name__}({name}=...)"
    if name in _SAMPLING:
        return f"{method.__name__}() takes no {name}: decoding is greedy; to sample, give a logits_processor"
    meant = did_you_mean(name, [*inspect.signature(method).parameters, *options, *of_owner])
    return f"{method.__name__}() got an unexpected keyword argument {name!r}{meant}"


def _observers(value: object) -> tuple[Observer, ...]:
    """Those of a call; that they are some is checked where the model is known."""
    if value is None:
        return ()
    if isinstance(value, Observer):
        raise TypeError(f"observers is a list, not one {type(value).__name__}; give a list: [obs]")
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise TypeError(f"observers is a list of observers, as in [obs], not {value!r}")
    return tuple(value)


_SAMPLING = {"temperature", "do_sample", "top_p", "seed"}
_NO_ITERATOR = (
    "judge(pairs, stream=True) yields judgments as they finish, and stream(query, passage) tokens; or give a function"
)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """A call's options: see `PairOptions`, and the chains given to `score_chains`.

    Raises:
        TypeError, ValueError: they make no sense.
    """

    instruction: str | None = None
    think: bool = True
    rule: Rule | None = None
    logits_processor: Processor | Mapping[int, Processor] | None = None
    trace: bool | TraceOptions | None = False
    observers: Sequence[Observer] = ()
    resume_from: Sequence[Judgment] = field(default=(), compare=False)  # this and the next decide no judgment
    keeper: ChainKeeper | None = field(default=None, compare=False)
    stream: OnJudgment | Literal[False] | None = field(default=None, compare=False)  # it decides nothing
    given: GivenChains | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.think, bool):
            raise TypeError(f"think is True or False, not {self.think!r}")
        if self.trace is not None and not isinstance(self.trace, bool | TraceOptions):
            raise TypeError(f"trace is True, False or TraceOptions(...), not {self.trace!r}{made(self.trace)}")
        if self.keeper is not None and not all(
            callable(getattr(self.keeper, name, None)) for name in ("generated", "keep")
        ):
            raise TypeError(f"a keeper has the methods generated and keep, see ChainKeeper; {self.keeper!r} has not")
        if self.stream and not callable(self.stream):
            raise TypeError(f"stream is a function that takes a judgment, or True, not {self.stream!r}")
        if not isinstance(self.instruction, str) and not is_missing(self.instruction):
            raise TypeError(f"an instruction is text, not {self.instruction!r}")
        if self.rule is not None:
            if not self.think:
                raise ValueError("think=False is a rule by itself; leave out rule, or think=False")
            if not isinstance(self.rule, Rule):
                raise TypeError(f"a rule is an object of a subclass of Rule, not {self.rule!r}{made(self.rule)}")
        processors = self.logits_processor
        for processor in processors.values() if isinstance(processors, Mapping) else [processors]:
            if processor is not None and (isinstance(processor, type) or not callable(processor)):
                raise TypeError(
                    f"a logits processor is an object of Transformers' type, or a dict of them, not {processor!r}"
                    f"{made(processor)}"
                )
        if self.rule is not None and self.rule.reads_beliefs:
            check_belief_at(self.rule.belief_at)
            of_trace = None if self.traced is None else self.traced.belief
            if of_trace not in (None, self.rule.belief_at):
                raise ValueError(
                    f"the rule reads beliefs at {self.rule.belief_at!r} and the trace at {of_trace!r}; use one for both"
                )

    def check_pairs(self, pairs: Sequence[Pair], encoder: PairEncoder) -> None:
        """Refuse pairs that do not fit, and processors for pairs that there are not.

        Raises:
            PromptTooLongError: with truncation="error", for the first pair that does not fit.
            ValueError: a logits processor is for no pair.
        """
        encoder.check_lengths(pairs if self.instruction is None else [*map(self.instructed, pairs)])
        if isinstance(self.logits_processor, Mapping):
            for key in self.logits_processor.keys() - range(len(pairs)):
                raise ValueError(f"logits_processor has one for pair {key!r}, and there are {len(pairs)} pairs, from 0")

    def instructed(self, pair: Pair) -> Pair:
        """A pair, its query with the call's instruction."""
        return with_instruction(pair, self.instruction) if isinstance(self.instruction, str) else pair

    @property
    def traced(self) -> TraceOptions | None:
        """What goes into the traces; None where there are none."""
        if self.trace is None or isinstance(self.trace, bool):
            return TraceOptions() if self.trace else None
        return self.trace

    @property
    def watches(self) -> bool:
        """Whether the pairs are observed while they are decoded."""
        return bool(self.observers) or self.traced is not None

    @property
    def is_steered(self) -> bool:
        """Whether something may have a state of its own about a chain, or has written it: then it cannot go on."""
        return self.watches or self.given is not None or not (self.rule is None and self.logits_processor is None)

    @property
    def belief(self) -> BeliefAt | None:
        """Where beliefs are read, for the trace or for the rule."""
        if self.rule is not None and self.rule.reads_beliefs:
            return self.rule.belief_at
        return None if self.traced is None else self.traced.belief

    def steering(self, encoder: PromptEncoder, min_thinking_tokens: int) -> Steering:
        """What it asks of every chain."""
        rule = self.rule if self.think else DoNotThink()
        return Steering(min_thinking_tokens, rule, belief_at=belief_at(self.belief, encoder))

    def processor(self, index: int) -> Processor | None:
        """That of one pair."""
        if isinstance(self.logits_processor, Mapping):
            return self.logits_processor.get(index)
        return self.logits_processor
