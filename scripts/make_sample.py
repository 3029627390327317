"""Cut a small sample out of a BEIR folder that holds a BM25 run: a few queries, their candidates, their judgments.

    python scripts/make_sample.py CRANFIELD_FOLDER rank1_hf/assets/cranfield-sample

The rule: a query qualifies when its BM25 top 20 holds at least `RELEVANT` judged-relevant documents, at least
`IRRELEVANT` others, and no document without text. Of those, the queries with the least text to read (the query once
for each candidate, and the candidates) are taken, ties by identifier.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

QUERIES, DEPTH, RELEVANT, IRRELEVANT = 12, 20, 4, 8


class Judgment(NamedTuple):
    """How relevant a document is to a query."""

    query: str
    document: str
    grade: int


class Collection(NamedTuple):
    """A BEIR folder and the top of its run."""

    documents: dict[str, dict[str, str]]
    queries: dict[str, dict[str, str]]
    judgments: dict[str, list[Judgment]]
    run: dict[str, list[tuple[str, str]]]  # for each query, (document, line of the run), best first


def read_jsonl(path: Path) -> dict[str, dict[str, str]]:
    """The objects of a file by their `_id`."""
    with path.open(encoding="utf-8") as lines:
        return {entry["_id"]: entry for entry in map(json.loads, lines)}


def read_collection(folder: Path) -> Collection:
    """Read a BEIR folder and the first `DEPTH` documents for each query of its run."""
    judgments: dict[str, list[Judgment]] = defaultdict(list)
    run: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            judgments[row["query-id"]].append(Judgment(row["query-id"], row["corpus-id"], int(row["score"])))
    for line in (folder / "bm25.trec").read_text(encoding="utf-8").splitlines():
        query, _, document, rank, *_ = line.split()
        if int(rank) <= DEPTH:
            run[query].append((document, line))
    return Collection(read_jsonl(folder / "corpus.jsonl"), read_jsonl(folder / "queries.jsonl"), judgments, run)


def qualifies(collection: Collection, query: str) -> bool:
    """Whether reranking this query can be seen to help or to harm."""
    candidates = [document for document, _ in collection.run[query]]
    relevant = {judgment.document for judgment in collection.judgments[query] if judgment.grade > 0}
    found = len(relevant.intersection(candidates))
    readable = all(collection.documents[document]["text"].strip() for document in candidates)
    return readable and found >= RELEVANT and len(candidates) - found >= IRRELEVANT


def reading_length(collection: Collection, query: str) -> int:
    """Characters in all the pairs of a query."""
    documents = [collection.documents[document] for document, _ in collection.run[query]]
    asked = len(collection.queries[query]["text"])
    return sum(asked + len(document["title"]) + len(document["text"]) for document in documents)


def choose(collection: Collection) -> list[str]:
    """The queries of the sample, in the collection's order."""
    eligible = [query for query in collection.queries if qualifies(collection, query)]
    chosen = sorted(eligible, key=lambda query: (reading_length(collection, query), query))[:QUERIES]
    return [query for query in collection.queries if query in chosen]


def write_sample(collection: Collection, queries: list[str], folder: Path) -> None:
    """Write the queries, their candidates, all their judgments and the top of their run."""
    folder.mkdir(parents=True, exist_ok=True)
    ranked = {document for query in queries for document, _ in collection.run[query]}
    documents = [entry for name, entry in collection.documents.items() if name in ranked]
    write_lines(folder / "corpus.jsonl", (json.dumps(entry, ensure_ascii=False) for entry in documents))
    write_lines(folder / "queries.jsonl", (json.dumps(collection.queries[query]) for query in queries))
    judged = ["\t".join(map(str, judgment)) for query in queries for judgment in collection.judgments[query]]
    write_lines(folder / "qrels.tsv", ["query-id\tcorpus-id\tscore", *judged])
    write_lines(folder / "bm25.trec", [line for query in queries for _, line in collection.run[query]])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with corpus.jsonl, queries.jsonl, qrels.tsv and bm25.trec")
    parser.add_argument("target", type=Path, help="folder to write")
    options = parser.parse_args()
    collection = read_collection(options.source)
    queries = choose(collection)
    write_sample(collection, queries, options.target)
    size = sum(path.stat().st_size for path in options.target.iterdir())
    print(f"{len(queries)} queries, {size / 1000:.0f} kB in {options.target}")


if __name__ == "__main__":
    main()
