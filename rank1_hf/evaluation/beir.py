"""A BEIR folder: `queries.jsonl`, `corpus.jsonl`, and the judgments in `qrels/{split}.tsv` or `qrels.tsv`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rank1_hf.evaluation.trec import Qrels, read_qrels
from rank1_hf.inputs import Document, InputError, document_of, read_file, read_jsonl
from rank1_hf.prompt import Query

SAMPLE = Path(__file__).parents[1] / "assets" / "cranfield-sample"
"""The small sample of Cranfield that ships with the package."""


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
    """Read a small BEIR folder whole.

    Raises:
        InputError: a file is missing or malformed.
    """
    return Collection(
        queries={query.id: query.text for query in read_file(folder / "queries.jsonl")},
        corpus={document.id: document for document in read_file(folder / "corpus.jsonl")},
        qrels=read_qrels(qrels_file(folder, split)),
    )


def qrels_file(folder: Path, split: str) -> Path:
    """Where a folder's judgments are."""
    of_split = folder / "qrels" / f"{split}.tsv"
    return of_split if of_split.exists() else folder / "qrels.tsv"


def stream_documents(folder: Path, skip: Callable[[InputError], None]) -> Iterator[Document]:
    """The documents of a folder, one at a time; what is wrong with one goes to `skip`, and the others are read.

    Raises:
        InputError: there is no corpus.
    """
    for where, value in read_jsonl(folder / "corpus.jsonl", skip):
        try:
            document = document_of(value, where)
        except InputError as error:
            skip(error)
        else:
            yield document


def read_queries(folder: Path, skip: Callable[[InputError], None]) -> dict[str, Query]:
    """The queries of a folder by their ids; a query may have an "instruction" beside its "text".

    Raises:
        InputError: there are no queries.
    """
    queries: dict[str, Query] = {}
    for where, value in read_jsonl(folder / "queries.jsonl", skip):
        try:
            query = document_of(value, where)
        except InputError as error:
            skip(error)
            continue
        instruction = value.get("instruction") if isinstance(value, dict) else None
        queries[query.id] = {"text": query.text, "instruction": instruction} if instruction else query.text
    return queries
