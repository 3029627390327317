"""Pairs in which a chosen share of the query's words stands in the passage."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

from training.language import Language
from training.rule import STOP_WORDS, WORD


@dataclass(frozen=True)
class Pair:
    """A query and a passage."""

    query: str
    passage: str


class PairMaker:
    """Makes pairs in which a chosen share of the query's words stands in the passage.

    Args:
        language: what they are made of.
        rng: what they are drawn with.
        real: the share of passages that are real sentences, and not words without order.
        repeats: the share of queries that say one of their content words again.
        punctuation: the share of a query's words in brackets, quotes or slashes, and of words joined by a hyphen.
    """

    def __init__(
        self,
        language: Language,
        rng: random.Random,
        real: float = 0.5,
        repeats: float = 0.25,
        punctuation: float = 0.0,
    ) -> None:
        self.language, self.rng, self.real, self.repeats = language, rng, real, repeats
        self.punctuation = punctuation

    def make(self, query_words: int, passage_words: int, only: list[str] | None = None) -> Pair:
        """A pair of these lengths; the query asks for words of `only`, if given."""
        passage = self.base_passage(passage_words)
        query = self.rng.sample(only, query_words) if only else self.query_words(passage, query_words)
        present = self.rng.sample(query, self.rng.randint(0, len(query))) if passage_words else []
        passage = self.plant(passage, query, present)
        return Pair(self.phrase(query), " ".join(passage))

    def word(self) -> str:
        """A word of no context, so that it can be known only by looking: common, rare, invented or a number."""
        if self.happens():
            return self.join(self.rng.choice(self.language.common))
        kind = self.rng.random()
        if kind < 0.6:
            return self.rng.choice(self.language.common)
        if kind < 0.85:
            return self.rng.choice(self.language.words)
        if kind < 0.97:
            return self.invented()
        return str(self.rng.randint(0, 3000))

    def invented(self) -> str:
        """The beginning of one word and the end of another, perhaps hyphenated or capitalised."""
        first, second = self.rng.choices(self.language.words, k=2)
        word = first[: self.rng.randint(2, 4)] + self.rng.choice(["", "-"]) * (len(first) > 4) + second[-3:]
        return self.rng.choice([word, word, word.capitalize()])

    def base_passage(self, length: int) -> list[str]:
        """Real sentences, or words without order, some punctuated, more or fewer stop words between them."""
        if self.rng.random() < self.real:
            return self.sentences(length)
        phrases = self.rng.random() * 0.5
        words = [
            self.rng.choice(self.language.phrases) if self.rng.random() < phrases else self.word()
            for _ in range(length)
        ]
        words = [word + self.rng.choice(",.;)") if self.rng.random() < 0.08 else word for word in words]
        if words and self.rng.random() < 0.8:  # most first sentences are short
            words[self.rng.randrange(min(20, length))] += self.rng.choice([".", " ."])
        return words

    def sentences(self, length: int) -> list[str]:
        """Consecutive real sentences, mostly lower-cased, cut to `length` words."""
        start, words = self.rng.randrange(len(self.language.sentences)), []
        for sentence in itertools.islice(itertools.cycle(self.language.sentences), start, None):
            words += sentence.split()
            if len(words) >= length:
                break
        text = " ".join(words[:length])
        if self.rng.random() < 0.4:  # punctuation apart, as in tokenized collections
            text = re.sub(r"([.,;:?!])(?=\s|$)", r" \1", text)
        return (text.lower() if self.rng.random() < 0.8 else text).split()

    def query_words(self, passage: list[str], count: int) -> list[str]:
        """Distinct content words: from the passage, from a sentence elsewhere, or from nowhere."""
        here = WORD.findall(" ".join(passage)) or ["nothing"]
        there = WORD.findall(" ".join(self.sentences(20)))
        sources = [here, there, None]
        weights = [self.rng.random() for _ in sources]
        words: dict[str, None] = {}
        while len(words) < count:
            source = self.rng.choices(sources, weights)[0]
            word = self.word() if source is None else self.rng.choice(source)
            if word.lower() not in STOP_WORDS:
                words[word] = None
                if len(words) < count and self.happens():
                    words[self.join(word)] = None
        return list(words)

    def plant(self, passage: list[str], query: list[str], present: list[str]) -> list[str]:
        """Make exactly the words `present` of the query stand in the passage, with some near misses of the others."""
        absent = [word for word in query if word not in present]  # a list: the order of a set is not reproducible
        passage = [token for token in passage if not set(absent) & set(WORD.findall(token))]
        standing = set(WORD.findall(" ".join(passage)))
        planted = [word for word in present if word not in standing or self.rng.random() < 0.1]
        if passage:
            near = [self.near_miss(word) for word in absent if self.rng.random() < 0.2]
            planted += [word for word in near if word not in query]
        for word in planted:
            end = len(passage) if self.rng.random() < 0.6 else min(12, len(passage))
            passage.insert(self.rng.randint(0, end), word)
        return passage

    def near_miss(self, word: str) -> str:
        """A word that looks like `word`, or an invented one."""
        if self.happens():
            return self.join(word)
        return self.rng.choice([word + "s", word + "ed", word[:-1] or word + "x", self.invented(), "non-" + word])

    def happens(self) -> bool:
        """Whether a word gets punctuation."""
        return self.punctuation > 0 and self.rng.random() < self.punctuation

    def join(self, word: str) -> str:
        """`word` and a common one as one word, by a hyphen."""
        other = self.rng.choice(self.language.common)
        return self.rng.choice([f"{word}-{other}", f"{other}-{word}"])

    def punctuate(self, word: str) -> str:
        """`word` in brackets, quotes or slashes, or with one of them."""
        before, after = self.rng.choice(
            ["()", '""', "''", "//", "??", "-,", ("", ","), ("(", ""), ("", ")"), ("", ";"), ("", " -")]
        )
        return before + word + after

    def phrase(self, words: list[str]) -> str:
        """A query that asks for `words`, with stop words between them (or none)."""
        wordy, parts = self.rng.choice([0, 0.3, 0.8]), []
        for word in words:
            if self.rng.random() < wordy:
                parts += self.rng.choices(self.language.phrases, k=self.rng.choice(self.language.runs))
            parts.append(word)
        if self.rng.random() < self.repeats:
            parts.insert(self.rng.randint(1, len(parts)), self.rng.choice(words))
        parts = [self.punctuate(part) if self.happens() else part for part in parts]
        return " ".join(parts) + self.rng.choice(["", "", ".", "?"])
