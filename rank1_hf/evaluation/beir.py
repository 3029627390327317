"""A BEIR folder: `queries.jsonl`, `corpus.jsonl`, and the judgments in `qrels/{split}.tsv` or `qrels.tsv`."""

import csv
from dataclasses import dataclass
from pathlib import Path

from rank1_hf.inputs import Document, InputError, read_file, read_text

SAMPLE = Path(__file__).parents[1] / "assets" / "cranfield-sample"
"""The small sample of Cranfield that ships with the package."""

Qrels = dict[str, dict[str, int]]
"""query id -> document id -> grade."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A retrieval test collection.

    Attributes:
        queries: query id -> text.
        corpus: document id -> document.
        qrels: query id -> document id -> grade.
    """

    queries: dict[str, str]
    corpus: dict[str, Document]
    qrels: Qrels


def read_beir(folder: Path, split: str = "test") -> Collection:
    """Read a BEIR folder whole.

    Raises:
        InputError: a file is missing or malformed.
    """
    qrels = folder / "qrels" / f"{split}.tsv"
    return Collection(
        queries={query.id: query.text for query in read_file(folder / "queries.jsonl")},
        corpus={document.id: document for document in read_file(folder / "corpus.jsonl")},
        qrels=read_qrels(qrels if qrels.exists() else folder / "qrels.tsv"),
    )


def read_qrels(path: Path) -> Qrels:
    """Read judgments: tab-separated, with the header `query-id  corpus-id  score`.

    Raises:
        InputError: the file cannot be read, or a line of it.
    """
    rows = csv.DictReader(read_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    qrels: Qrels = {}
    for row in rows:
        try:
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, line {rows.line_num}: must be a query id, a document id and a whole number, divided by tabs, "
                "under the header query-id, corpus-id, score"
            ) from error
    return qrels
