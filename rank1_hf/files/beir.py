"""A BEIR folder: `queries.jsonl`, `corpus.jsonl`, and the qrels in `qrels/{split}.tsv` or `qrels.tsv`; each may be
gzipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rank1_hf.files.inputs import Document
from rank1_hf.files.records import documents_of, queries_of
from rank1_hf.files.trec import Qrels, read_qrels
from rank1_hf.inputs.choices import must_be_one_of
from rank1_hf.inputs.textfiles import InputError, Skip, read_jsonl, refuse
from rank1_hf.prompts.pair_text import Query, query_text

_FIELDS = {"corpus.jsonl": '"_id", "title" and "text"', "queries.jsonl": '"_id" and "text"'}

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


def read_beir(folder: Path, split: str | None = None) -> Collection:
    """Read a small BEIR folder whole.

    Raises:
        InputError: a file is missing or malformed.
    """
    return Collection(
        queries={id_: query_text(query) for id_, query in read_queries(folder, refuse).items()},
        corpus={document.id: document for document in stream_documents(folder, refuse)},
        qrels=read_qrels(qrels_file(folder, split) or folder / "qrels.tsv"),
    )


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of these files that a folder has, as it is or gzipped."""
    files = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((file for file in files if file.is_file()), None)


def instead(folder: Path, name: str) -> str:
    """The end of a sentence: what a folder has instead of `corpus.jsonl` or `queries.jsonl`, such as `corpus.tsv`, and
    what to make of it; "" where it has nothing of the kind.
    """
    others = sorted(file.name for file in folder.glob(f"{Path(name).stem}.*") if file.is_file())
    if not others:
        return ""
    return f"; {others[0]} is not read: write {name} from it, JSON Lines with {_FIELDS[name]}"


def splits(folder: Path) -> list[str]:
    """The splits whose qrels a folder has, in `qrels/{split}.tsv`."""
    files = (*folder.glob("qrels/*.tsv"), *folder.glob("qrels/*.tsv.gz"))
    return sorted({file.name.removesuffix(".gz").removesuffix(".tsv") for file in files})


def qrels_file(folder: Path, split: str | None = None) -> Path | None:
    """Where a folder's qrels are; None: it has none.

    Args:
        folder: the folder.
        split: whose they are. None: "test", or a `qrels.tsv` of no split, or the only split.

    Raises:
        InputError: it has no such split.
    """
    known, wanted = splits(folder), split or "test"
    whole = find_file(folder, "qrels.tsv", "qrels")
    if split is None and whole is None and len(known) == 1:
        (wanted,) = known
    if wanted in known:
        return find_file(folder, f"qrels/{wanted}.tsv")
    if wanted == "test" and (whole is not None or not known):
        return whole
    if known:
        raise InputError(f"{folder / 'qrels'}: {must_be_one_of('--split', split, known)}")
    has = "no qrels" if whole is None else f"qrels of no split, in {whole.name}"
    raise InputError(f"{folder} has {has}, and so no split {split!r}; leave out --split")


def stream_documents(folder: Path, skip: Skip) -> Iterator[Document]:
    """The documents of a folder, one at a time; what is wrong with one goes to `skip`, and the others are read.

    Raises:
        InputError: there is no corpus.
    """
    return documents_of(read_jsonl(_file(folder, "corpus.jsonl"), skip), skip)


def read_queries(folder: Path, skip: Skip) -> dict[str, Query]:
    """The queries of a folder by their ids; a query may have an "instruction" beside its "text".

    Raises:
        InputError: there are no queries, or two that differ have one id.
    """
    return queries_of(read_jsonl(_file(folder, "queries.jsonl"), skip), skip)


def _file(folder: Path, name: str) -> Path:
    found = find_file(folder, name)
    if found is None:
        raise InputError(f"{folder} has no {name}{instead(folder, name)}")
    return found
