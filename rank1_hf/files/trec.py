"""Runs and qrels. TREC has a line `query Q0 document rank score tag` for each retrieved document, and `query 0 document
grade` for each judged one; BEIR has `query-id corpus-id score` under a header. See `entries` for the other forms.

Columns are divided by tabs or spaces. Where they are divided by tabs alone, ids may contain spaces.
"""

from pathlib import Path

from rank1_hf.files.entries import Content, read_values
from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import InputError

Run = dict[str, dict[str, float]]
"""query id -> document id -> score; higher is better."""

Qrels = dict[str, dict[str, int]]
"""query id -> document id -> grade."""

TAG = "rank1-hf"
"""What a run's last column says where nothing else is asked for."""

_RUN = Content(
    "a run",
    "query Q0 document rank score tag",
    {6: (0, 2, 4)},
    fields.SCORE,
    fields.score_of,
    dict.fromkeys((3, 4), ", as relevance judgments (qrels) have"),
)
QRELS = Content(
    "relevance judgments (qrels)",
    "a query id, a document id and a whole number (BEIR), or a query id, an iteration, a document id and a whole "
    "number (TREC)",
    {3: (0, 1, 2), 4: (0, 2, 3)},
    fields.GRADE,
    fields.grade_of,
    {6: ", as a run has"},
)


def read_run(path: Path, split: str | None = None, subset: str | None = None) -> Run:
    """Read a run, each query's documents best first, those of equal score in the file's order.

    Args:
        path: the file, in any form that `entries` knows.
        split, subset: of a file of MTEB's predictions that has several. No split: "test", or the only one.

    Raises:
        InputError: the file cannot be read, or a line of it; or two lines give a document different scores.
    """
    return {query: best_first(scores) for query, scores in read_values(path, _RUN, split, subset).items()}


def write_run(path: Path, run: Run, tag: str = TAG) -> None:
    """Write a run, each query's documents best first.

    Raises:
        InputError: an id or a score is none that could be read back; nothing is written.
    """
    checked = {
        fields.id_of(query, "the run"): {
            fields.id_of(document, query): fields.score_of(score, f"{query}, {document}")
            for document, score in scores.items()
        }
        for query, scores in run.items()
    }
    with path.open("w", encoding="utf-8") as file:
        for query, scores in checked.items():
            for rank, (document, score) in enumerate(best_first(scores).items(), start=1):
                file.write(run_line(query, document, rank, repr(score), tag))


def run_line(query: str, document: str, rank: int, score: str, tag: str = TAG) -> str:
    """A line of a run, divided by tabs where an id contains a space."""
    divider = "\t" if " " in query + document + tag else " "
    return divider.join((query, "Q0", document, str(rank), score, tag)) + "\n"


def check_tag(tag: str) -> str:
    """A run's tag, the last column of each of its lines, as it was given.

    Raises:
        InputError: it is empty, or has white space or something that cannot be printed in it.
    """
    if not tag or not tag.isprintable() or " " in tag:
        raise InputError(f"a run's tag is one word without white space, as in bm25-rank1-7b, not {tag!r}")
    return tag


def read_qrels(path: Path) -> Qrels:
    """Read qrels, in TREC's four columns, BEIR's three, with or without its header, or as `entries` has them.

    Raises:
        InputError: the file cannot be read, or a line of it; or two lines give a document different grades.
    """
    return read_values(path, QRELS)


def best_first(scores: dict[str, float]) -> dict[str, float]:
    """One query's documents by their scores; equal ones stay in the order that they have."""
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
