"""TREC files: runs, a line `query Q0 document rank score tag` for each retrieved document, and qrels, a line `query 0
document grade` for each judged one, or, as in BEIR, `query-id corpus-id score` under a header.

Columns are divided by tabs or spaces. Where they are divided by tabs alone, ids may contain spaces.
"""

import math
import re
from pathlib import Path

from rank1_hf.inputs import InputError, read_lines

Run = dict[str, dict[str, float]]
"""query id -> document id -> score; higher is better."""

Qrels = dict[str, dict[str, int]]
"""query id -> document id -> grade."""

_QRELS_HEADER = ["query-id", "corpus-id", "score"]


def read_run(path: Path) -> Run:
    """Read a run, each query's documents best first, those of equal score in the file's order.

    Raises:
        InputError: the file cannot be read, or a line of it.
    """
    run: Run = {}
    ids: dict[str, str] = {}  # one string for each id, however often it occurs
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            query, _, document, _, given, _ = _columns(line, (6,))
            score = float(given)
            if math.isnan(score):
                raise ValueError
        except ValueError as error:
            raise InputError(f"{path}, line {number}: must be: query Q0 document rank score tag") from error
        scores = run.setdefault(query, {})
        if document in scores:
            raise InputError(f"{path}, line {number}: document {document} for the second time under query {query}")
        scores[ids.setdefault(document, document)] = score
    return {query: best_first(scores) for query, scores in run.items()}


def write_run(path: Path, run: Run, tag: str = "rank1-hf") -> None:
    """Write a run, each query's documents best first."""
    with path.open("w", encoding="utf-8") as file:
        for query, scores in run.items():
            for rank, (document, score) in enumerate(best_first(scores).items(), start=1):
                file.write(run_line(query, document, rank, repr(score), tag))


def run_line(query: str, document: str, rank: int, score: str, tag: str = "rank1-hf") -> str:
    """A line of a run, divided by tabs where an id contains a space."""
    divider = "\t" if " " in query + document + tag else " "
    return divider.join((query, "Q0", document, str(rank), score, tag)) + "\n"


def read_qrels(path: Path) -> Qrels:
    """Read judgments, in TREC's four columns or BEIR's three, with or without its header.

    Raises:
        InputError: the file cannot be read, or a line of it.
    """
    qrels: Qrels = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or (number == 1 and _columns(line, (3,)) == _QRELS_HEADER):
            continue
        try:
            columns = _columns(line, (3, 4))
            query, document, grade = columns if len(columns) == 3 else (columns[0], *columns[2:])
            qrels.setdefault(query, {})[document] = int(grade)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: must be a query id, a document id and a whole number (BEIR), or a query id, "
                "an iteration, a document id and a whole number (TREC)"
            ) from error
    return qrels


def best_first(scores: dict[str, float]) -> dict[str, float]:
    """One query's documents by their scores; equal ones stay in the order that they have."""
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _columns(line: str, counts: tuple[int, ...]) -> list[str]:
    """The columns of a line: what tabs alone divide, if these are as many as they can be, or tabs and spaces."""
    by_tabs = line.rstrip("\r\n").split("\t")
    return by_tabs if len(by_tabs) in counts else re.split(r"[ \t]+", line.strip(" \t\r\n"))
