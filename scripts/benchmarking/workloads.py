"""What is judged: pairs as token ids, the same for every peer, each with the most tokens its chain may have."""

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rank1_hf.files.beir import Collection, read_beir
from rank1_hf.files.trec import Run, read_run
from rank1_hf.prompts.pair_text import Passage
from rank1_hf.prompts.prompt import Prompt, PromptEncoder

NAMES = ("natural", "ragged", "long-query", "interactive")

_DEPTH = 16  # passages of a query: a reranker is given several of each, and they share its prefix
_CHAIN_MEAN, _CHAIN_SIGMA = 250, 0.8


@dataclass(frozen=True, slots=True)
class Item:
    """One pair.

    Attributes:
        prompt: its token ids.
        limit: the most tokens its chain may have.
    """

    prompt: Prompt
    limit: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Pairs to judge.

    Attributes:
        name: one of `NAMES`.
        description: for the report.
        items: the pairs, those of one query together.
        closes: whether the model ends its chains itself. Otherwise `</think>` and EOS mean nothing to any peer, and
            every chain has exactly `limit` tokens.
    """

    name: str
    description: str
    items: Sequence[Item]
    closes: bool

    def first(self, n_items: int | None) -> "Workload":
        """The same workload with its first pairs only."""
        return replace(self, items=self.items[:n_items])


@dataclass(frozen=True, slots=True)
class Source:
    """What workloads are made from.

    Attributes:
        collection, run: real queries, and their candidates.
        encoder: of the model that is measured.
        context: the most tokens that prompt and chain may have together.
        closes: whether the model ends its chains itself.
        budget: the most tokens a chain may have where it does.
        length_scale: shortens the drawn lengths, for a quick look.
        seed: of everything that is drawn.
    """

    collection: Collection
    run: Run
    encoder: PromptEncoder
    context: int
    closes: bool
    budget: int
    length_scale: float = 1.0
    seed: int = 0

    def make(self, name: str, n_pairs: int) -> Workload:
        """A workload by its name."""
        makers: dict[str, Callable[[int], Workload]] = {
            "natural": self.natural,
            "ragged": self.ragged,
            "long-query": self.long_query,
            "interactive": self.interactive,
        }
        return makers[name](n_pairs)

    def natural(self, n_pairs: int) -> Workload:
        """Real pairs: the first candidates of the first queries."""
        pairs = list(itertools.islice(self._pairs(max(_DEPTH, -(-n_pairs // len(self.run)))), n_pairs))
        return self._workload("natural", f"{len(pairs)} Cranfield pairs, BM25 candidates", pairs, self.closes)

    def ragged(self, n_pairs: int) -> Workload:
        """Prompts and chains of very different lengths, drawn."""
        drawn = random.Random(self.seed)
        shortest, longest = round(150 * self.length_scale), round(600 * self.length_scale)
        queries = list(self.collection.queries.values())
        items = []
        for limit in self._chain_lengths(n_pairs, drawn):
            n_tokens = drawn.randint(shortest, longest)
            items.append(self._item(drawn.choice(queries), self._long_text(drawn, n_tokens), limit, n_tokens))
        return Workload("ragged", f"{n_pairs} pairs, chain lengths drawn for all peers alike", items, closes=False)

    def long_query(self, n_pairs: int) -> Workload:
        """One very long query, as in BRIGHT, and many passages."""
        drawn = random.Random(self.seed)
        n_query_tokens = min(round(1200 * self.length_scale), self.context // 2)
        query = self._cut(self._long_text(drawn, n_query_tokens), n_query_tokens)
        documents = itertools.islice(itertools.cycle(self.collection.corpus.values()), min(n_pairs, 100))
        pairs: list[tuple[str, Passage]] = [(query, document.passage) for document in documents]
        description = f"one query of {n_query_tokens} tokens, {len(pairs)} passages"
        return self._workload("long-query", description, pairs, self.closes)

    def interactive(self, n_pairs: int) -> Workload:
        """One query and a page of results, for a user who waits."""
        pairs = list(itertools.islice(self._pairs(10), min(n_pairs, 10)))
        return self._workload("interactive", f"one query, {len(pairs)} passages", pairs, self.closes)

    def of_lengths(self, n_pairs: int, n_prompt_tokens: int, n_chain_tokens: int) -> Workload:
        """Pairs that are all alike in length, to vary one length at a time."""
        drawn = random.Random(self.seed)
        query = next(iter(self.collection.queries.values()))
        passages = (self._long_text(drawn, n_prompt_tokens) for _ in range(n_pairs))
        items = [self._item(query, passage, n_chain_tokens, n_prompt_tokens) for passage in passages]
        return Workload("alike", f"prompts of {n_prompt_tokens}, chains of {n_chain_tokens}", items, closes=False)

    def _pairs(self, depth: int) -> "itertools.chain[tuple[str, Passage]]":
        """The candidates of each query, those of one query together, again from the start when all are through."""
        collection = self.collection
        once: list[tuple[str, Passage]] = [
            (collection.queries[query], collection.corpus[document].passage)
            for query, candidates in self.run.items()
            for document in itertools.islice(candidates, depth)
        ]
        return itertools.chain.from_iterable(itertools.repeat(once))

    def _workload(self, name: str, description: str, pairs: list[tuple[str, Passage]], closes: bool) -> Workload:
        drawn = random.Random(self.seed)
        limits = [self.budget] * len(pairs) if closes else self._chain_lengths(len(pairs), drawn)
        items = [self._item(query, passage, limit) for (query, passage), limit in zip(pairs, limits, strict=True)]
        return Workload(name, description, items, closes)

    def _item(self, query: str, passage: Passage, limit: int, max_prompt_tokens: int | None = None) -> Item:
        limit = min(limit, self.context // 3)
        most = self.context - limit - 16  # what a forced close adds
        if max_prompt_tokens is not None:
            least = len(self.encoder.encode(query, "").ids) + 1
            most = min(most, max(max_prompt_tokens, least))
        prompt = self.encoder.encode(query, passage, max_tokens=most)
        return Item(prompt, limit)

    def _chain_lengths(self, n_pairs: int, drawn: random.Random) -> list[int]:
        """Log-normal lengths, shifted so that their mean is as asked."""
        mu = math.log(_CHAIN_MEAN * self.length_scale) - _CHAIN_SIGMA**2 / 2
        return [max(1, round(drawn.lognormvariate(mu, _CHAIN_SIGMA))) for _ in range(n_pairs)]

    def _long_text(self, drawn: random.Random, n_tokens: int) -> str:
        """Text of more tokens than so many (a token is rarely longer than eight characters)."""
        documents = list(self.collection.corpus.values())
        text = ""
        while len(text) < 8 * n_tokens:
            text += drawn.choice(documents).text + "\n"
        return text

    def _cut(self, text: str, n_tokens: int) -> str:
        """The first tokens of a text: as a query it cannot be cut by the encoder."""
        words = text.split()
        count = len(self.encoder.encode(text, "").ids)
        return " ".join(words[: round(len(words) * n_tokens / count)])


def read_source(folder: Path, encoder: PromptEncoder, **options: bool | int | float) -> Source:
    """What workloads are made from, with the collection and the BM25 run of a folder."""
    return Source(read_beir(folder), read_run(folder / "bm25.trec"), encoder, **options)  # type: ignore[arg-type]


def to_json(workload: Workload) -> str:
    """A workload as one line, for a peer in another process."""
    items = [{"prompt": item.prompt.ids, "limit": item.limit} for item in workload.items]
    return json.dumps({"closes": workload.closes, "items": items})
