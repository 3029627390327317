"""A stand-in for Rank1 whose judgments depend on nothing but the pair, and a small job around it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rank1_hf.evaluation.candidates import Inputs
from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.files.sources import open_source
from rank1_hf.files.trec import read_run
from rank1_hf.prompts.pair_text import Passage, Query, passage_text, query_text
from rank1_hf.results.judgment import Judgment, sigmoid
from tests.viewing.made import chain_text, traced

SETTINGS = {"model": "stub", "max_new_tokens": 256}
N_ROWS = 8


def log_odds_of(query: str, passage: str) -> float:
    """From -8 to 8 in steps of a half: so there are ties."""
    return hashlib.sha256(f"{query}\n{passage}".encode()).digest()[0] % 33 / 2 - 8


class Stub:
    """Judges a few pairs at a time and gives them back in another order than they came in."""

    def __init__(self, seconds: float = 0, before_each: Callable[[int], None] = lambda n: None) -> None:
        self.seen: list[tuple[str, str]] = []
        self._seconds, self._before_each = seconds, before_each

    def judge(self, pairs: Iterable[tuple[Query, Passage]], **options: Any) -> Iterator[Judgment]:
        numbered = enumerate(pairs)
        while rows := list(islice(numbered, N_ROWS)):
            for index, (query, passage) in reversed(rows):
                self._before_each(len(self.seen))
                time.sleep(self._seconds)
                self.seen.append((query_text(query), passage_text(passage)))
                yield self.judgment(index, *self.seen[-1])

    def judgment(self, index: int, query: str, passage: str) -> Judgment:
        log_odds = log_odds_of(query, passage)
        chain = f"\nIt says: {passage}\n"
        return Judgment(index, sigmoid(log_odds), log_odds, log_odds > 0, chain, 30, 5, "closed", False)


class Traced(Stub):
    """Leaves the trace that it is asked for; of one pair in seven it fails."""

    asked: Any = None

    def judge(self, pairs: Any, **options: Any) -> Iterator[Judgment]:
        self.asked = options["trace"]
        return super().judge(pairs, **options)

    def judgment(self, index: int, query: str, passage: str) -> Judgment:
        if passage.startswith("T7 "):
            return Judgment.failed(index, "too long")
        seed = int(passage[1:3])  # equal pairs have equal traces, wherever they stand
        return traced(seed, log_odds_of(query, passage), chain_text(seed, 40)).at(index)


def write_collection(folder: Path, n_queries: int = 6, n_documents: int = 40, depth: int = 20) -> Path:
    """A BEIR folder with a run.trec and a qrels.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = [{"_id": f"d{i}", "title": f"T{i}", "text": f"text {i} 翼"} for i in range(n_documents)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(n_queries)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, qrels = [], ["query-id\tcorpus-id\tscore\n"]
    for q in range(n_queries):
        for rank in range(depth):
            document = (7 * q + 3 * rank) % n_documents
            run.append(f"q{q} Q0 d{document} {rank + 1} {depth - rank} bm25\n")
            qrels.append(f"q{q}\td{document}\t{document % 3}\n")
    (folder / "run.trec").write_text("".join(run))
    (folder / "qrels.tsv").write_text("".join(qrels))
    return folder


def inputs(collection: Path, top_k: int = 15) -> Inputs:
    source = open_source(str(collection))
    problems: list[Any] = []
    queries = source.queries(problems.append)
    return Inputs(source, queries, read_run(collection / "run.trec"), source.qrels(), top_k, problems)


def run(collection: Path, output: Path, stub: Stub | None = None, top_k: int = 15, **settings: Any) -> Outcome:
    found = inputs(collection, top_k)
    return run_job(found, output, SETTINGS | settings, lambda: stub or Stub(), show_progress=False)


def run_slowly(collection: Path, output: Path) -> None:
    """In a process of its own, which can be killed on the way."""
    run(collection, output, Stub(seconds=0.0005))


def results(output: Path) -> dict[str, bytes]:
    """The files of a job, without the journal, whose order is that of finishing, and without how it was made."""
    others = ("journal.jsonl", "environment.json", ".lock")
    names = [file.name for file in output.iterdir() if file.name not in others]
    return {name: (output / name).read_bytes() for name in sorted(names)}


def killed_when(process: Any, condition: Callable[[], bool]) -> bool:
    """Start a process and kill it once something holds, or it has ended; gives whether it was still alive."""
    process.start()
    while process.is_alive() and not condition():
        time.sleep(0.001)
    was_alive: bool = process.is_alive()
    process.kill()
    process.join()
    return was_alive
