"""What the model card states: a finished checkpoint on held-out pairs and on the Cranfield sample."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from rank1_hf.files.beir import SAMPLE
from training.language import HELD_OUT_PHRASES, Language, english_words, held_out, real_sentences, unseen
from training.pairs import Pair, PairMaker
from training.rule import think
from training.tokenizer import whole_words

if TYPE_CHECKING:
    from rank1_hf import Rank1


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
        words += [said in judgment.chain for said in think(pair.query, pair.passage).findings]
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
