"""Observers: classes with a method for each event of a pair in the decode loop."""

import logging
import sys
from collections.abc import Callable, Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any

from rank1_hf.chains.chain import Chain, Ended
from rank1_hf.decoding.watcher import NOTHING, Event, Needs, Reading
from rank1_hf.inputs.choices import made, refuse_misspelt
from rank1_hf.inputs.values import is_whole_number

if TYPE_CHECKING:
    from rank1_hf.results.judgment import Judgment

logger = logging.getLogger(__name__)

_ANY = -sys.maxsize  # whether the model has such a layer is another question


class _Asked(dict[Any, Any]):
    """What was asked for, by layer or by (layer, head); whatever else is looked up is an error that says so."""

    def __missing__(self, key: object) -> None:
        what = "(layer, head)" if isinstance(key, tuple) else "layer"
        raise KeyError(f"{what} {key} was not asked for: set step_needs, or verdict_needs for the verdict")


_EMPTY = Reading(scores=None, logits=None, hidden_states=_Asked(), attention=_Asked(), kv=None)


class WatchedPair:
    """A pair while it is decoded, as it is at the time of asking; all of it is read-only.

    Attributes:
        index: its place in the input.
        prompt: the prompt's token ids.
        n_seen: the length of the context at this event.
    """

    def __init__(self, index: int, prompt: Sequence[int], chain: Chain, n_seen: int = 0) -> None:
        self.index = index
        self.prompt = prompt
        self.n_seen = n_seen
        self._chain = chain

    @property
    def context(self) -> tuple[int, ...]:
        """The prompt, the chain, and the closing marker once there is one: what the model sees next."""
        return tuple(self._chain.tokens)

    @property
    def thought(self) -> tuple[int, ...]:
        """The chain's token ids so far, or all of them once it has ended; without the closing marker."""
        return self._chain.thought_so_far

    @property
    def ended(self) -> Ended | None:
        """How the chain ended; None while it goes on."""
        return self._chain.ended


class Observer:
    """Sees each pair of a call while it is decoded: `model.judge(pairs, observers=[MyObserver()])`.

    Subclass it, override the events you need, and name what has to be computed for them; nothing else is. One
    object sees all pairs, many at a time: keep what belongs to one under its `pair.index`. Equal pairs of a call are
    decoded once and seen once, at the first one's index, where they have no logits processor.

    The moments of a pair come in this order: admitted, prefilled, step (once for each token the chain takes, in their
    order, also where several were guessed and verified at once), closed, verdict, finished. Where memory is short a
    pair may be preempted, and is admitted and prefilled again later; its steps go on where they were. A pair that fails
    goes from wherever it is to finished. What an observer raises is logged, and it sees nothing more of that pair; the
    judgment is unharmed, and so are the other observers and pairs.

    Shapes, dtypes and lifetimes of what is handed over are those of `Reading`.

    Both needs may change while a call runs, for one pair or all: they are asked for whenever a step is launched, and
    what they say then is what its readings have. So a change counts from the pair's next step on; the tokens of a draft
    that are verified in the same step are read as it was launched. What the model does not have counts as something
    that the observer has raised.

    Attributes:
        step_needs: what is computed for every token.
        verdict_needs: what is computed for the verdict.
    """

    step_needs: Needs = NOTHING
    verdict_needs: Needs = NOTHING

    def __init_subclass__(cls) -> None:
        """Refuse attributes that are misspelt."""
        super().__init_subclass__()
        refuse_misspelt(cls, ("step_needs", "verdict_needs"))

    def admitted(self, pair: WatchedPair) -> None:
        """The pair has a place among those that are decoded now, for the first time or again."""

    def prefilled(self, pair: WatchedPair) -> None:
        """The model has seen all of the pair's context, for the first time since it was admitted."""

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:
        """The model has generated a token, which may be `</think>` or an EOS, and the chain has taken it.

        Args:
            pair: with this token in its chain, or with what the chain made of it.
            token: the model's, a logits processor's, or a given chain's.
            reading: behind the token before it, at place `pair.n_seen - 1` of the context.
        """

    def closed(self, pair: WatchedPair) -> None:
        """The chain has ended: by the model where `pair.ended` is "closed", else a forced close stands behind it."""

    def verdict(self, pair: WatchedPair, reading: Reading) -> None:
        """The verdict is read. The reading is that behind the last token of `</think>`."""

    def finished(self, pair: WatchedPair, judgment: "Judgment") -> None:
        """The pair has its judgment, which may be an error."""

    def preempted(self, pair: WatchedPair) -> None:
        """The pair has given up its place and its KV for others that came before it; its chain is kept."""


class Observed:
    """One pair's observers, as the decode loop's watcher of it.

    Args:
        observers: those of the pair.
        index: its place in the input.
        prompt: its token ids.
        check: refuses needs that the model does not have; see `check_needs`.
    """

    def __init__(
        self,
        observers: Iterable[Observer],
        index: int,
        prompt: Sequence[int],
        check: Callable[[Observer], None] = lambda observer: None,
    ) -> None:
        self.observers = list(observers)
        self._index = index
        self._prompt = prompt
        self._check = check
        self._asked: dict[tuple[int, bool], Needs] = {}  # by observer, for a step or the verdict: what its reading has
        self._pair: WatchedPair | None = None
        self._is_prefilled = self._is_closed = False

    def needs(self, *, verdict: bool) -> Needs:
        """What all of them need of the step that is launched now."""
        everything = NOTHING
        for observer in list(self.observers):
            try:
                needed = observer.verdict_needs if verdict else observer.step_needs
                if needed is not self._asked.get((id(observer), verdict)):
                    self._check(observer)
            except Exception:
                self._drop(observer)
            else:
                self._asked[id(observer), verdict] = needed
                everything |= needed
        return everything

    def notify(
        self, event: Event, chain: Chain, n_seen: int, token: int | None = None, reading: Reading | None = None
    ) -> None:
        """Hand an event on to all of them; each is given what it declared."""
        self._pair = pair = WatchedPair(self._index, self._prompt, chain, n_seen)
        if event == "admitted":
            self._is_prefilled = False
            self._notify_all(lambda observer: observer.admitted(pair))
        elif event == "preempted":
            self._notify_all(lambda observer: observer.preempted(pair))
        else:
            if not self._is_prefilled:
                self._is_prefilled = True
                self._notify_all(lambda observer: observer.prefilled(pair))
            if token is not None:
                self._notify_all(lambda observer: observer.step(pair, token, self._share(observer, reading)))
            if pair.ended is not None and not self._is_closed:
                self._is_closed = True
                self._notify_all(lambda observer: observer.closed(pair))
            if event == "verdict":
                self._notify_all(lambda observer: observer.verdict(pair, self._share(observer, reading, verdict=True)))

    def finished(self, judgment: "Judgment") -> None:
        """Hand the judgment on to all of them."""
        pair = self._pair
        if pair is not None:  # there was room for it
            self._notify_all(lambda observer: observer.finished(pair, judgment))

    def _notify_all(self, notify: Callable[[Observer], None]) -> None:
        for observer in list(self.observers):
            try:
                notify(observer)
            except Exception:
                self._drop(observer)

    def _drop(self, observer: Observer) -> None:
        """Behind an exception of its own."""
        name = type(observer).__name__
        logger.exception("the observer %s failed at pair %d; it sees no more of that pair", name, self._index)
        self.observers = [each for each in self.observers if each is not observer]

    def _share(self, observer: Observer, reading: Reading | None, *, verdict: bool = False) -> Reading:
        """What one observer has asked for, of what was read for all."""
        needs = self._asked.get((id(observer), verdict), NOTHING)
        if reading is None or needs == NOTHING:
            return _EMPTY
        return Reading(
            scores=reading.scores if needs.scores else None,
            logits=reading.logits if needs.logits else None,
            hidden_states=_Asked({layer: reading.hidden_states[layer] for layer in needs.hidden_states}),
            attention=_Asked({head: reading.attention[head] for head in needs.attention}),
            kv=reading.kv if needs.kv else None,
        )


def check_observers(observers: Iterable[Observer], *, n_layers: int, n_heads: int) -> None:
    """Say before any work what observers want that the model does not have.

    Raises:
        TypeError: one is no `Observer`, or does not say by `Needs` what it needs.
        ValueError: there is no such layer or head.
    """
    for observer in observers:
        if not isinstance(observer, Observer):
            raise TypeError(
                f"an observer is an object of a subclass of rank1_hf.tracing.Observer, not {observer!r}{made(observer)}"
            )
        check_needs(observer, n_layers=n_layers, n_heads=n_heads)


def check_needs(observer: Observer, *, n_layers: int, n_heads: int) -> None:
    """Say what an observer wants that the model does not have; errors as of `check_observers`."""
    for needed in (observer.step_needs, observer.verdict_needs):
        if not isinstance(needed, Needs):
            raise TypeError(f"what {type(observer).__name__} needs must be rank1_hf.tracing.Needs, not {needed!r}")
        _check_types(type(observer).__name__, needed)
    needs = observer.step_needs | observer.verdict_needs
    layers = needs.hidden_states | {layer for layer, _ in needs.attention}
    heads = {head for _, head in needs.attention}
    for name, wanted, n in (("layers", layers, n_layers), ("heads", heads, n_heads)):
        if not wanted <= set(range(n)):
            raise ValueError(
                f"{type(observer).__name__} needs {name} {sorted(wanted)}, and the model has {name} 0 to {n - 1}"
            )


def _check_types(name: str, needs: Needs) -> None:
    for field in ("scores", "logits", "kv"):
        if not isinstance(getattr(needs, field), bool):
            raise TypeError(f"{name} needs {field}={getattr(needs, field)!r}; it is True or False")
    layers, heads = needs.hidden_states, needs.attention
    if not isinstance(layers, Set) or not all(is_whole_number(layer, least=_ANY) for layer in layers):
        raise TypeError(f"{name} needs hidden_states={layers!r}; layers are whole numbers, as in {{2}}")
    if not isinstance(heads, Set) or not all(map(_is_layer_and_head, heads)):
        raise TypeError(f"{name} needs attention={heads!r}; heads are (layer, head) in whole numbers, as in {{(2, 0)}}")


def _is_layer_and_head(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(is_whole_number(each, least=_ANY) for each in value)
