"""Text as it is printed: made safe where it is from users, documents and models; and numbers of things."""

import re

# Escape sequences, and the marks that turn the direction of whatever is written after them; lone surrogates, which
# cannot be written at all. Line feeds and tabs stay.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text as a terminal may have it: no escape sequences, nothing that turns the direction of what follows."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Printable text without line breaks."""
    return printable(" ".join(text.split()))


def counted(n: int, noun: str) -> str:
    """A number of things in words: "1 pair", "2 pairs"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def start(text: str, length: int) -> str:
    """The start of a text on one line, of at most so many characters."""
    line = one_line(text)
    return line if len(line) <= length else line[: length - 1] + "…"
