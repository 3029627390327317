"""A chain as text: token by token as it comes, and cut where a forced close cuts it."""

from collections.abc import Callable, Sequence


class TextStream:
    """Text as its tokens come: a character made of several tokens comes with the last of them.

    All of it together is what the tokens decode to as a whole, unless there are bytes among them that are no text.

    Args:
        decode: ids -> text.
        before: what stands before the first token; some tokenizers decode the very first one of a text differently.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(before)
        self._n_given = len(self._ids)  # the text of so many has been given away

    def push(self, token: int) -> str:
        """The text that another token adds; empty where it only begins a character."""
        self._ids.append(token)
        given, text = self._decode(self._ids[: self._n_given]), self._decode(self._ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        # Only the tokens since the last piece are kept: they are enough to decode the next ones as they are.
        self._ids = self._ids[self._n_given :]
        self._n_given = len(self._ids)
        return text[len(given) :]


def cut_to_last_sentence(chain: str) -> str:
    """A chain without the unfinished sentence at its end, if it has a finished one; stripped."""
    text = chain.rstrip()
    if not text.endswith((".", "!", "?")):
        end = max(text.rfind(mark) for mark in ".!?")
        if end != -1:
            text = text[: end + 1]
    return text.strip()
