"""Where a collection comes from: a BEIR folder, a `datasets` dataset, or `ir_datasets`.

All are read front to back: documents come one at a time, and what is wrong with one of them costs no other.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rank1_hf.files import beir
from rank1_hf.files.entries import Entry, gather, row_entries
from rank1_hf.files.inputs import Document
from rank1_hf.files.records import documents_of, queries_of
from rank1_hf.files.trec import QRELS, Qrels, Run, best_first, read_qrels
from rank1_hf.inputs import fields
from rank1_hf.inputs.choices import did_you_mean, must_be_one_of
from rank1_hf.inputs.textfiles import InputError, Skip
from rank1_hf.models.hub import with_home
from rank1_hf.prompts.pair_text import Query

logger = logging.getLogger(__name__)

IR_DATASETS = "ir_datasets:"
"""What stands before an id of ir_datasets."""

_SHOWN = 20  # parts in an error
_OF_SPLITS = ("default", "qrels", "top_ranked")  # the parts that differ from split to split

Read = Callable[[], Iterable[Any]]


class Source(Protocol):
    """A collection that can be read. Every method raises `InputError` where its part cannot be read at all."""

    def queries(self, skip: Skip) -> dict[str, Query]:
        """The queries by their ids; what is wrong with one goes to `skip`."""

    def documents(self, skip: Skip) -> Iterator[Document]:
        """The documents, one at a time; what is wrong with one goes to `skip`."""

    def qrels(self) -> Qrels | None:
        """The relevance judgments (qrels), if it has any."""

    def run(self) -> Run | None:
        """The candidates to rerank, best first, if it has any."""


def open_source(name: str, split: str | None = None, subset: str | None = None, *, of_run: bool = False) -> Source:
    """Find out what a name means.

    Args:
        name: a folder with a `corpus.jsonl`, gzipped or not; `ir_datasets:` and an id; or a dataset of `datasets`, on
            disk or by its hub name. In a path ~ is the home folder.
        split: of the qrels, where there are several. None: "test", or the only one.
        subset: of a dataset of `datasets` that has several, one for each language for example.
        of_run: whether split and subset may be those of the run alone; else a collection that has none is refused.

    Raises:
        InputError: it is nothing that can be read, or has no such subset or split.
    """
    name = str(with_home(name))
    is_folder = beir.find_file(Path(name), "corpus.jsonl") is not None
    if subset is not None and not of_run and (is_folder or name.startswith(IR_DATASETS)):
        raise InputError(f"{name} has no subsets: --subset is for datasets of Hugging Face's datasets and runs of MTEB")
    if name.startswith(IR_DATASETS):
        return IrDataset(name.removeprefix(IR_DATASETS), None if of_run else split)
    if is_folder:
        if split is not None and not of_run:  # said now, or never where other judgments are used
            beir.qrels_file(Path(name), split)
        return BeirFolder(Path(name), split if beir.splits(Path(name)) or not of_run else None)
    if Path(name).is_file():
        raise InputError(f"{name} is a file; give the folder that has a corpus.jsonl and a queries.jsonl")
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise InputError(
            f"there is no folder {name}; give a collection's folder, a hub name, or {IR_DATASETS} and an id"
        )
    return HubDataset(name, split, subset, of_run=of_run)


class BeirFolder:
    """A folder with `corpus.jsonl`, `queries.jsonl` and perhaps `qrels/{split}.tsv` or `qrels.tsv`."""

    def __init__(self, folder: Path, split: str | None = None) -> None:
        self._folder, self._split = folder, split

    def queries(self, skip: Skip) -> dict[str, Query]:
        """See `Source`."""
        return beir.read_queries(self._folder, skip)

    def documents(self, skip: Skip) -> Iterator[Document]:
        """See `Source`."""
        return beir.stream_documents(self._folder, skip)

    def qrels(self) -> Qrels | None:
        """See `Source`."""
        file = beir.qrels_file(self._folder, self._split)
        return None if file is None else read_qrels(file)

    def run(self) -> Run | None:
        """None: a BEIR folder has no candidates."""
        return None


class HubDataset:
    """A dataset of `datasets` in the layout that BEIR and MTEB use on the hub: the configs "corpus" and "queries", and
    perhaps "default" or "qrels", "instruction", and "top_ranked", the candidates. With a subset these are
    "fas-corpus" or "corpus-fas", ...

    On disk it may be a copy of the hub's repository, whose README.md names the configs, or a folder that has a folder
    for each: what `save_to_disk` wrote, or Parquet or JSON files.
    """

    def __init__(self, name: str, split: str | None = None, subset: str | None = None, *, of_run: bool = False) -> None:
        try:
            import datasets
        except ImportError as error:
            raise InputError(
                f"{name} is no folder with a corpus.jsonl{beir.instead(Path(name), 'corpus.jsonl')}; for a dataset of "
                "the hub: pip install datasets"
            ) from error
        self._datasets = datasets
        self._name, self._split, self._subset, self._of_run = name, split, subset, of_run
        with _explained(name if Path(name).exists() else f"{name}, which is no folder here, from the hub"):
            self._parts = self._find_parts()
        self._check_subset()
        if not Path(name).exists():
            logger.info(
                "%s is streamed from the hub, by each job anew; hf download %s --repo-type dataset --local-dir FOLDER "
                "fetches it once, and --corpus FOLDER reads that",
                *(name, name),
            )
        if (
            split is not None and not of_run
        ):  # said now, not behind a million queries, or never where other judgments are used
            for content in filter(self._has, _OF_SPLITS):
                self._part(content)

    def queries(self, skip: Skip) -> dict[str, Query]:
        """See `Source`."""
        instructions: dict[str, str] = {}
        if self._has("instruction"):
            for where, row in self._rows("instruction"):
                query, instruction = _cells(row, where, fields.QUERY_ID, fields.INSTRUCTION)
                instructions[fields.id_of(query, where)] = fields.optional_text(instruction, "instruction", where)
        return queries_of(self._rows("queries"), skip, instructions)

    def documents(self, skip: Skip) -> Iterator[Document]:
        """See `Source`."""
        return documents_of(self._rows("corpus"), skip)

    def qrels(self) -> Qrels | None:
        """See `Source`."""
        content = next((content for content in ("default", "qrels") if self._has(content)), None)
        return None if content is None else gather(row_entries(self._rows(content), QRELS), QRELS.check)

    def run(self) -> Run | None:
        """See `Source`. The dataset says an order and no scores, so the scores only say the order."""
        if not self._has("top_ranked"):
            return None
        return gather(_ranked(self._rows("top_ranked")), fields.score_of)

    def _find_parts(self) -> dict[str, Callable[[], Any]]:
        """What the dataset has: the name of each config or folder, and what loads it."""
        folder = Path(self._name)
        configs: dict[str, Callable[[], Any]] = {}
        if not folder.exists() or (folder / "README.md").is_file():
            for name in self._datasets.get_dataset_config_names(self._name):
                configs[name] = partial(self._datasets.load_dataset, self._name, name, streaming=True)
        if not folder.exists() or configs.keys() - {"default"}:  # which alone stands for a folder without configs
            return configs
        return {part.name: partial(self._load_folder, part) for part in folder.iterdir() if part.is_dir()}

    def _check_subset(self) -> None:
        if self._has("corpus"):
            return
        subsets = sorted({*_others(self._parts, "{}-corpus"), *_others(self._parts, "corpus-{}")})
        if subsets:
            raise InputError(f"{self._name}: {must_be_one_of('--subset', self._subset, subsets)}")
        if "corpus" not in self._parts:
            raise InputError(
                f"{self._name} is no collection: it has neither a corpus.jsonl nor a {self._lacking('corpus')}"
                + beir.instead(Path(self._name), "corpus.jsonl")
            )
        if not self._of_run:
            raise InputError(f"{self._name} has no subsets, and so no {self._subset!r}; leave out --subset")
        self._subset = None

    def _named(self, content: str) -> set[str]:
        """What the part with this content may be called."""
        return {content} if self._subset is None else {f"{self._subset}-{content}", f"{content}-{self._subset}"}

    def _has(self, content: str) -> bool:
        return bool(self._named(content) & self._parts.keys())

    def _lacking(self, content: str) -> str:
        found = ", ".join(sorted(self._parts)[:_SHOWN]) or "none"
        return f"config or folder named {' or '.join(sorted(self._named(content)))} (it has: {found})"

    def _rows(self, content: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a part, each after where it stands."""
        part = self._part(content)
        with _explained(self._name):
            for number, row in enumerate(part, start=1):
                yield f"{self._name}, {content}, row {number}", row

    def _part(self, content: str) -> Iterable[dict[str, Any]]:
        """The part with this content, of its split; what was saved without one is of "test"."""
        name = next(iter(self._named(content) & self._parts.keys()), None)
        if name is None:
            raise InputError(f"{self._name} has no {self._lacking(content)}")
        with _explained(self._name):
            loaded = self._parts[name]()
        splits = loaded if isinstance(loaded, dict) else {"test": loaded}
        rows: Iterable[dict[str, Any]] = splits[self._split_of(content, name, splits)]
        return rows

    def _split_of(self, content: str, name: str, splits: Mapping[str, object]) -> str:
        """The split of a part: the one that was asked for, or the one that is called like the part, or the only one;
        of qrels and candidates not any other than was asked for.
        """
        found = next((split for split in (self._split or "test", content) if split in splits), None)
        if found is None and len(splits) == 1 and (self._split is None or self._of_run or content not in _OF_SPLITS):
            (found,) = splits
        if found is None:
            raise InputError(f"{self._name}, {name}: {must_be_one_of('--split', self._split, splits)}")
        return found

    def _load_folder(self, folder: Path) -> Any:  # noqa: ANN401
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            return self._datasets.load_from_disk(folder)
        return self._datasets.load_dataset(str(folder), streaming=True)


class IrDataset:
    """A dataset of ir_datasets, by its id."""

    def __init__(self, id_: str, split: str | None = None) -> None:
        try:
            import ir_datasets
        except ImportError as error:
            raise InputError(f"{IR_DATASETS}{id_} needs ir_datasets: pip install ir_datasets") from error
        self._name = IR_DATASETS + id_
        with _explained(self._name):
            try:
                self._dataset: Any = ir_datasets.load(id_)
            except KeyError:
                meant = did_you_mean(id_, ir_datasets.registry)
                raise InputError(
                    f"ir_datasets has no dataset {id_!r}; https://ir-datasets.com lists them{meant}"
                ) from None
        if not (self._dataset.has_docs() and self._dataset.has_queries()):
            lacking = "queries" if self._dataset.has_docs() else "documents"
            parts = [other for other in ir_datasets.registry if other.startswith(f"{id_}/")]
            choice = f"; {must_be_one_of('the id', None, parts)}" if parts else ""
            raise InputError(f"{self._name} has no {lacking} of its own{choice}")
        if split is not None:
            others = [f"{id_}/{split}", f"{id_.rpartition('/')[0]}/{split}"]
            there = "".join(f", as {IR_DATASETS}{other}" for other in others if other in ir_datasets.registry)
            raise InputError(f"{self._name} takes no --split: there a split has an id of its own{there}")

    def queries(self, skip: Skip) -> dict[str, Query]:
        """See `Source`."""
        return queries_of(self._records(self._dataset.queries_iter, "query", _query), skip)

    def documents(self, skip: Skip) -> Iterator[Document]:
        """See `Source`."""
        return documents_of(self._records(self._dataset.docs_iter, "document", _document), skip)

    def qrels(self) -> Qrels | None:
        """See `Source`."""
        if not self._dataset.has_qrels():
            return None
        return gather(self._entries(self._dataset.qrels_iter, "qrel", lambda qrel: qrel.relevance), fields.grade_of)

    def run(self) -> Run | None:
        """See `Source`."""
        if not self._dataset.has_scoreddocs():
            return None
        entries = self._entries(self._dataset.scoreddocs_iter, "candidate", lambda scored: scored.score)
        return {query: best_first(scores) for query, scores in gather(entries, fields.score_of).items()}

    def _records(self, read: Read, kind: str, record: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
        with _explained(self._name):
            for number, found in enumerate(read(), start=1):
                yield f"{self._name}, {kind} {number}", record(found)

    def _entries(self, read: Read, kind: str, value: Callable[[Any], object]) -> Iterator[Entry]:
        records = self._records(read, kind, lambda found: (found.query_id, found.doc_id, value(found)))
        return (Entry(where, *record) for where, record in records)


def _query(query: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"_id": query.query_id, "text": _text(query)}


def _document(document: Any) -> dict[str, Any]:  # noqa: ANN401
    if {"title", "text"} <= set(document._fields):
        return {"_id": document.doc_id, "title": document.title, "text": document.text}
    return {"_id": document.doc_id, "text": _text(document)}


def _others(names: Iterable[str], form: str) -> list[str]:
    """What stands in names for {} of a form."""
    before, _, behind = form.partition("{}")
    return [
        name[len(before) : len(name) - len(behind)]
        for name in names
        if name.startswith(before) and name.endswith(behind) and len(name) > len(form) - 2
    ]


def _cells(row: Mapping[str, Any], where: str, *columns: tuple[str, ...]) -> list[Any]:
    return [row[fields.require(row, names, where)] for names in columns]


def _ranked(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Entry]:
    """The candidates of rows that list each query's, best first."""
    for where, row in rows:
        query, documents = _cells(row, where, fields.QUERY_ID, fields.CANDIDATES)
        if not isinstance(documents, list):
            raise InputError(f"{where}: the candidates must be a list of document ids, not {documents!r:.50}")
        for rank, document in enumerate(documents, start=1):
            yield Entry(where, query, document, -float(rank))


def _text(record: Any) -> str:  # noqa: ANN401
    """What a record of ir_datasets says: its default text, or, where it has none (BRIGHT's queries), its text."""
    text: str = record.default_text() if hasattr(record, "default_text") else record.text
    return text


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever a library raises over a collection into one kind of error that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot load {name}: {error.__cause__ or error}") from error
