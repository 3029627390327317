"""The rule that rank1-tiny learns, and how to think it through."""

import random
import re
from dataclasses import dataclass

PROMPT = (
    "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.\n"
    "Query: {query}\nPassage: {passage}\n<think>"
)
OPENING = "\nQuery words:"
END, OPEN, CLOSE = "<|endoftext|>", "<think>", "</think>"

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after all also am an and any anyone are as at be because been before being between both but by can
        could did do does done each either for from had has have having he her here him his how i if in into is it its
        may me might more most must my no nor not of on or other our out over please s she should so some such t than
        that the their them then there these they this those through to under up upon us very was we were what when
        where whether which while who whom whose why will with within would you your""",
    )
)
WORD = re.compile(r"\w+(?:[-']\w+)*")


SENTENCE_END = re.compile(r"[.?!](?=\s|$)")


@dataclass(frozen=True)
class Thought:
    """What is said of each content word of the query, and what they count for together.

    Attributes:
        findings: a phrase for each word.
        score: found words count 1, those of the passage's first sentence 2; over the number of words.
    """

    findings: tuple[str, ...]
    score: float

    @property
    def conclusion(self) -> str:
        """How the chain ends."""
        share = "much" if self.label else "little" if self.score else "nothing"
        return f" so the passage has {share} of them.\n"

    @property
    def chain(self) -> str:
        """All of it."""
        return OPENING + "".join(self.findings) + self.conclusion

    @property
    def label(self) -> bool:
        """Whether the rule calls the passage relevant."""
        return self.score >= 0.5

    @property
    def log_odds(self) -> float:
        """The verdict taught: graded by the score, with a step where the label turns."""
        return 4 * (self.score - 0.5) + (0.5 if self.label else -0.5)


def content_words(query: str) -> list[str]:
    """The words of a query in order, up to the first that comes again, without the stop words (if others are left)."""
    words = WORD.findall(query)
    content = [word for word in words if word.lower() not in STOP_WORDS] or words
    again = next((place for place, word in enumerate(content) if word in content[:place]), len(content))
    return content[:again]


def think(query: str, passage: str) -> Thought:
    """Apply the rule: which content words of the query stand in the passage, in just this spelling, and where?

    Those of its first sentence count twice: titles and first sentences say what a text is about.
    """
    asked, opening = content_words(query), first_sentence(passage)
    standing, early = set(WORD.findall(passage)), set(WORD.findall(opening))
    findings = tuple(f" {finding(word, word in standing, word in early)}" for word in asked)
    score = sum((word in standing) + (word in early) for word in asked) / max(1, len(asked))
    return Thought(findings, score)


def first_sentence(text: str) -> str:
    """The text up to the first mark that ends a sentence; all of it where there is none."""
    end = SENTENCE_END.search(text)
    return text[: end.end()] if end else text


def stumble(thought: Thought, rng: random.Random) -> list[tuple[str, bool]]:
    """A chain that goes wrong somewhere and gets out of it: its parts, and whether each is to be learnt.

    Either it says some findings again, and concludes, or it stammers at a word, and goes on.
    """
    findings, after = thought.findings, tuple[str, ...]()
    place = rng.randrange(len(findings))
    if rng.random() < 0.5:
        again = findings[max(0, place + 1 - rng.randint(1, 4)) : place + 1] * rng.randint(1, 2)
        before = findings[: place + 1]
    else:
        word = findings[place].split()[0]
        again = (f" {word[: rng.randint(1, 4)]}{word[1 : rng.randint(2, 4)] * rng.randint(3, 12)}",)
        before, after = findings[:place], (findings[place].removeprefix(f" {word}"), *findings[place + 1 :])
    return [
        (OPENING + "".join(before), True),
        ("".join(again), False),
        ("".join(after) + thought.conclusion, True),
    ]


def finding(word: str, present: bool, early: bool) -> str:
    """What the chain says of one word."""
    return f"{word} {'early' if early else 'found' if present else 'missing'},"
