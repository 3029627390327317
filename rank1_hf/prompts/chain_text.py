"""A chain as text: token by token as it comes, and cut where a forced close cuts it."""

import re
from collections.abc import Callable, Sequence

# Closing quotes and brackets may follow the mark.
_SENTENCE_END = re.compile(r"""(?:[!?]|(?<!\d)\.|\.(?!\Z))["'\u201d\u2019\u00bb)\]*]*\s*\Z""")


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


class SentenceEnds:
    """Where the sentences of a chain end, as far as its tokens so far tell: behind ".", "!" or "?", and behind the
    quotes and brackets that follow in the same token.

    Marks with no letter or digit between them are one end, at the first of them. A "." right behind a digit is none
    until something else follows: the next token may go on with the number.

    Args:
        decode: ids -> text.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._texts: dict[int, str] = {}

    def behind(self, thought: Sequence[int]) -> bool:
        """Whether a sentence ends behind these tokens that has not ended behind fewer of them."""
        if not self._has_mark(thought, len(thought)):
            return False
        for n in range(len(thought), 0, -1):
            if any(map(str.isalnum, self._text(thought[n - 1]))):
                return True
            if self._has_mark(thought, n - 1):
                return False
        return False

    def _has_mark(self, thought: Sequence[int], n: int) -> bool:
        """Whether the first n tokens end in an end mark; the last two of them tell."""
        return _SENTENCE_END.search("".join(map(self._text, thought[max(n - 2, 0) : n]))) is not None

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._decode([token])
        return self._texts[token]


def cut_to_last_sentence(chain: str) -> str:
    """A chain without the unfinished sentence at its end, if it has a finished one; stripped."""
    text = chain.rstrip()
    if not text.endswith((".", "!", "?")):
        end = max(text.rfind(mark) for mark in ".!?")
        if end != -1:
            text = text[: end + 1]
    return text.strip()
