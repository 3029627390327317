"""A chain's tokens as they come, for `Rank1.stream`."""

from collections import deque
from collections.abc import Iterator

from rank1_hf.decoding.watcher import Reading
from rank1_hf.prompts.chain_text import TextStream
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.results.judgment import TokenEvent
from rank1_hf.tracing.observer import Observer, WatchedPair


class TokenStream(Observer):
    """Collects the tokens of one pair's chain until they are taken."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._text: TextStream | None = None
        self._n_seen = 0
        self._events: deque[TokenEvent] = deque()

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:
        """Collect the chain's new tokens."""
        if self._text is None:
            self._text = self._encoder.text_stream(pair.prompt)
        for each in pair.thought[self._n_seen :]:
            self._events.append(TokenEvent(each, self._text.push(each)))
        self._n_seen = len(pair.thought)

    def take(self) -> Iterator[TokenEvent]:
        """The tokens since the last call."""
        while self._events:
            yield self._events.popleft()
