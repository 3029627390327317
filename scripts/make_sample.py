"""Cut a small sample out of a BEIR folder that holds a BM25 run: a few queries, their candidates, their judgments.

    python scripts/make_sample.py CRANFIELD_FOLDER rank1_hf/assets/cranfield-sample

The rule: a query qualifies when its BM25 top 20 holds at least `RELEVANT` judged-relevant documents, at least
`IRRELEVANT` others, and no document without text. Of those, the queries with the least text to read (the query once
for each candidate, and the candidates) are taken, ties by identifier.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

from rank1_hf.files.beir import Collection, read_beir
from rank1_hf.files.trec import Run, read_run, write_run

QUERIES, DEPTH, RELEVANT, IRRELEVANT = 12, 20, 4, 8


def qualifies(collection: Collection, query: str, candidates: dict[str, float]) -> bool:
    """Whether reranking this query can be seen to help or to harm."""
    grades = collection.qrels.get(query, {})
    found = sum(grades.get(document, 0) > 0 for document in candidates)
    readable = all(collection.corpus[document].text.strip() for document in candidates)
    return readable and found >= RELEVANT and len(candidates) - found >= IRRELEVANT


def reading_length(collection: Collection, query: str, candidates: dict[str, float]) -> int:
    """Characters in all the pairs of a query."""
    documents = [collection.corpus[document] for document in candidates]
    return sum(len(collection.queries[query]) + len(document.title) + len(document.text) for document in documents)


def choose(collection: Collection, run: Run) -> Run:
    """The run of the sample, its queries in the collection's order."""
    tops = {query: dict(islice(scores.items(), DEPTH)) for query, scores in run.items()}
    eligible = [query for query, top in tops.items() if qualifies(collection, query, top)]
    chosen = sorted(eligible, key=lambda query: (reading_length(collection, query, tops[query]), query))[:QUERIES]
    return {query: tops[query] for query in collection.queries if query in chosen}


def write_sample(collection: Collection, run: Run, folder: Path) -> None:
    """Write the queries, their candidates, all their judgments and the top of their run."""
    folder.mkdir(parents=True, exist_ok=True)
    ranked = {document for top in run.values() for document in top}
    documents = [collection.corpus[name] for name in collection.corpus if name in ranked]
    write_jsonl(folder / "corpus.jsonl", [{"_id": d.id, "title": d.title, "text": d.text} for d in documents])
    write_jsonl(folder / "queries.jsonl", [{"_id": query, "text": collection.queries[query]} for query in run])
    judged = [f"{query}\t{name}\t{grade}\n" for query in run for name, grade in collection.qrels[query].items()]
    (folder / "qrels.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *judged]), encoding="utf-8")
    write_run(folder / "bm25.trec", run, tag="bm25s")


def write_jsonl(path: Path, objects: list[dict[str, str]]) -> None:
    """Write an object a line."""
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in objects), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with corpus.jsonl, queries.jsonl, qrels.tsv and bm25.trec")
    parser.add_argument("target", type=Path, help="folder to write")
    options = parser.parse_args()
    collection = read_beir(options.source)
    run = choose(collection, read_run(options.source / "bm25.trec"))
    write_sample(collection, run, options.target)
    size = sum(path.stat().st_size for path in options.target.iterdir())
    print(f"{len(run)} queries, {size / 1000:.0f} kB in {options.target}")


if __name__ == "__main__":
    main()
