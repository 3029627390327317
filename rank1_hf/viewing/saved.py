"""Judgments from files: what `rank1-hf evaluate` wrote (judgments.jsonl or .parquet, journal.jsonl), and the records of
other programs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rank1_hf.files.sources import Source
from rank1_hf.inputs import fields as names
from rank1_hf.inputs.textfiles import InputError, parse_json, read_jsonl, read_lines
from rank1_hf.inputs.values import is_missing
from rank1_hf.prompts.prompt import Passage, Query
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import Judgments

Places = dict[tuple[str, str], int]
"""(query id, document id) -> the index of that pair. Of others' records without ids, the texts stand for them."""

CHAIN = ("chain", "completion", "reasoning", "generation", "output", "response")
"""What others call a chain, or all that a model wrote."""

_QUERY = (*names.QUERY_ID, "query", "question")
_DOCUMENT = (*names.DOCUMENT_ID, "document", *names.TEXT)
_LOG_ODDS = ("log-odds",)
_CLOSE = "</think>"
_PARQUET = b"PAR1"
_ADVICE = (
    "give a judgments.jsonl or journal.jsonl of evaluate, or records with a query, a document, a score and a chain"
)
_FIELDS = [field.name for field in fields(Judgment) if field.name not in ("index", "trace", "cached")]


def read_judgments(path: Path, places: Places) -> Judgments:
    """The judgments of a file.

    Others' records have a query and a document (ids, or else texts), a score from 0 to 1, and a "chain" or a
    "completion", which is a chain up to `</think>`.

    Args:
        path: JSONL, gzipped or not, or Parquet.
        places: gives each pair its index, so that two files of the same pairs agree; pairs that it lacks are added.

    Raises:
        InputError: the file cannot be read, or a line of it is no judgment.
    """
    found: dict[int, Judgment] = {}
    is_journal = False
    for where, record in _records(path):
        if _is_header(record):
            is_journal = True
            continue
        if not isinstance(record, dict):
            raise InputError(f"{where}: no judgment; {_ADVICE}")
        read = _ours if record.keys() >= {"query", "document", *_FIELDS} else _others
        key, judgment = read(record, where, places)
        earlier = found.setdefault(judgment.index, judgment)
        if is_journal:  # where a pair that failed is tried again
            found[judgment.index] = judgment
        elif repr(earlier) != repr(judgment):  # NaN is not equal to itself
            raise InputError(f"{where}: another judgment of query {key[0]} and document {key[1]}, which has one before")
    return Judgments(list(found.values()))


def holds_judgments(path: Path) -> bool:
    """Whether a file has judgments with their chains, and not scores alone.

    Raises:
        InputError: it cannot be read.
    """
    if _is_parquet(path):
        return True
    first = next((line for line in read_lines(path) if line.strip()), "")
    try:
        record = parse_json(first, str(path))
    except InputError:
        return False
    return isinstance(record, dict) and (_is_header(record) or names.find(record, CHAIN) is not None)


def pairs_of(places: Places, source: Source | None = None) -> list[tuple[Query, Passage]]:
    """The pairs that have a place, as a collection has them; without one, and for what it lacks, their ids.

    Raises:
        InputError: the collection cannot be read.
    """
    queries: Mapping[str, Query] = {}
    documents: dict[str, Passage] = {}
    if source is not None:
        wanted = {document for _, document in places}
        queries = source.queries(_ignore)
        documents = {each.id: each.passage for each in source.documents(_ignore) if each.id in wanted}
    return [(queries.get(query, query), documents.get(document, document)) for query, document in places]


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    if not _is_parquet(path):
        yield from read_jsonl(path)
        return
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path} is a Parquet file, which needs pyarrow: pip install 'rank1-hf[tracing]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}, row {number}", row
    except (ArrowException, OSError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _is_header(record: object) -> bool:
    """Whether it is the first line of a journal."""
    return isinstance(record, dict) and record.keys() == {"journal", "settings"}


def _ours(record: Mapping[str, Any], where: str, places: Places) -> tuple[tuple[str, str], Judgment]:
    try:
        key = str(record["query"]), str(record["document"])
        values = {name: record[name] for name in _FIELDS}
        for name in ("score", "log_odds"):
            values[name] = math.nan if values[name] is None else float(values[name])
    except (TypeError, ValueError):
        raise InputError(f"{where}: no judgment; {_ADVICE}") from None
    return key, Judgment(index=places.setdefault(key, len(places)), **values)


def _others(record: Mapping[str, Any], where: str, places: Places) -> tuple[tuple[str, str], Judgment]:
    """A judgment from what another program says of a pair; its tokens are not known, and count as 0."""
    columns = [names.find(record, known) for known in (_QUERY, _DOCUMENT, names.SCORE, CHAIN)]
    if None in columns:
        raise InputError(f"{where}: no judgment; {_ADVICE}")
    query, document, score, text = (record[name] for name in columns if name is not None)
    if not (isinstance(query, str | int) and isinstance(document, str | int) and isinstance(text, str)):
        raise InputError(f"{where}: no judgment: query, document and chain must be text; {_ADVICE}")
    key = str(query), str(document)
    index = places.setdefault(key, len(places))
    if is_missing(score):
        return key, Judgment.failed(index, str(record.get("error") or "it has no score"))
    p = names.score_of(score, where)
    if not 0 <= p <= 1:
        raise InputError(f"{where}: the score of a judgment is a probability, from 0 to 1, not {score!r}")
    stated = record.get(names.find(record, _LOG_ODDS) or "")
    log_odds = _logit(p) if is_missing(stated) else names.score_of(stated, where)
    chain, close, _ = text.removeprefix("<think>").partition(_CLOSE)
    cut = not close and str(record.get("finish", record.get("finish_reason"))) == "length"
    return key, Judgment(index, p, log_odds, log_odds > 0, chain, 0, 0, "budget" if cut else "closed", False)


def _logit(p: float) -> float:
    return math.inf if p == 1 else -math.inf if p == 0 else math.log(p) - math.log1p(-p)


def _ignore(problem: InputError) -> Any:  # noqa: ANN401
    """What cannot be read is shown by its id."""
