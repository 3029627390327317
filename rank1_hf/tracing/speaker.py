"""A chain's tokens as they come, for `Rank1.stream`."""

from collections import deque
from collections.abc import Iterator

from rank1_hf.decoding.watcher import Reading
from rank1_hf.prompts.chain_text import TextStream
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.results.judgment import TokenEvent
from rank1_hf.tracing.observer import Observer, WatchedPair


class Speaker(Observer):
    """Hears one pair's chain, and hands out its tokens."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._text: TextStream | None = None
        self._n_said = 0
        self._waiting: deque[TokenEvent] = deque()

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:
        """Note what has come."""
        if self._text is None:
            self._text = self._encoder.text_stream(pair.prompt)
        for each in pair.thought[self._n_said :]:
            self._waiting.append(TokenEvent(each, self._text.push(each)))
        self._n_said = len(pair.thought)

    def take(self) -> Iterator[TokenEvent]:
        """What has come since it was last asked."""
        while self._waiting:
            yield self._waiting.popleft()
