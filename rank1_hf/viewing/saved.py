"""Judgments from files: what `rank1-hf evaluate` wrote (judgments.jsonl or .parquet, journal.jsonl), and the records of
other programs.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rank1_hf.chains.beliefs import CurvePoint
from rank1_hf.files.completions import (
    OF_VERDICTS,
    completion_of,
    is_journal_head,
    read_records,
    tells_completion,
)
from rank1_hf.files.rows import is_parquet
from rank1_hf.files.sources import Source
from rank1_hf.inputs.textfiles import InputError, parse_json, read_lines
from rank1_hf.prompts.pair_text import Passage, Query
from rank1_hf.results.judgment import Judgment
from rank1_hf.results.verification import log_odds_of
from rank1_hf.viewing.judgments import Judgments

logger = logging.getLogger(__name__)

Places = dict[tuple[str, str], int]
"""(query id, document id) -> the index of that pair. Of others' records without ids, the texts stand for them."""

FILES = ("judgments.jsonl", "journal.jsonl")
"""What holds the judgments of a job that is finished, and of one that is not."""

_ADVICE = (
    "give a judgments.jsonl or journal.jsonl of evaluate, or records with a query, a document, a score and a chain"
)
_NOT_SAVED = ("index", "trace", "belief", "cached", "unfinished", "fingerprint")
_FIELDS = [field.name for field in fields(Judgment) if field.name not in _NOT_SAVED]


def read_judgments(path: Path, places: Places) -> Judgments:
    """The judgments of a file.

    Others' records may have any form that `files.completions` reads, with a query and a document (ids, or else texts),
    a score from 0 to 1, and a completion, which is a chain up to `</think>`.
    A record with an error is left out where it has no query or no document, as `rank1-hf judge` writes of a bad row.

    Args:
        path: JSONL, gzipped or not, or Parquet.
        places: gives each pair its index, so that two files of the same pairs agree; pairs that it lacks are added.

    Raises:
        InputError: the file cannot be read, or a line of it is no judgment.
    """
    found: dict[int, Judgment] = {}
    is_journal, n_left_out = False, 0
    for where, record in read_records(path):
        if is_journal_head(record):
            is_journal = True
            continue
        if not isinstance(record, dict):
            raise InputError(f"{where}: no judgment; {_ADVICE}")
        is_ours = record.keys() >= {"query", "document", *_FIELDS} and None not in (record["query"], record["document"])
        judged = (_ours if is_ours else _others)(record, where, places)
        if judged is None:
            n_left_out += 1
            continue
        key, judgment = judged
        earlier = found.setdefault(judgment.index, judgment)
        if is_journal or earlier.error is not None:  # a pair that failed is tried again
            found[judgment.index] = judgment
        elif judgment.error is None and repr(earlier) != repr(judgment):  # NaN is not equal to itself
            raise InputError(f"{where}: another judgment of query {key[0]} and document {key[1]}, which has one before")
    if n_left_out:
        logger.info("%s: records left out that have an error and no query or no document: %d", path, n_left_out)
    return Judgments(list(found.values()))


def judgments_file(path: Path) -> Path:
    """The file of judgments that a path means: an output folder of `evaluate` has one, or the journal of a job that was
    stopped.

    Raises:
        InputError: it is a folder that has neither.
    """
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path} is no output folder of evaluate: it has neither a {FILES[0]} nor a {FILES[1]}")


def holds_judgments(path: Path) -> bool:
    """Whether a file has judgments with their chains, and not scores alone.

    Raises:
        InputError: it cannot be read.
    """
    if is_parquet(path):
        return True
    first = next((line for line in read_lines(path) if line.strip()), "")
    try:
        record = parse_json(first, str(path))
    except InputError:
        return False
    return is_journal_head(record) or tells_completion(record)


def ids_of(places: Places) -> dict[int, tuple[str, str]]:
    """The ids of each pair's query and document, by its index."""
    return {index: ids for ids, index in places.items()}


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


def _ours(record: Mapping[str, Any], where: str, places: Places) -> tuple[tuple[str, str], Judgment]:
    try:
        key = str(record["query"]), str(record["document"])
        values = {name: record[name] for name in _FIELDS}
        for name in ("score", "log_odds"):
            values[name] = math.nan if values[name] is None else float(values[name])
        if record.get("belief") is not None:
            values["belief"] = tuple(map(CurvePoint.from_dict, record["belief"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{where}: no judgment; {_ADVICE}") from None
    return key, Judgment(index=places.setdefault(key, len(places)), **values)


def _others(record: Mapping[str, Any], where: str, places: Places) -> tuple[tuple[str, str], Judgment] | None:
    """A judgment from what another program says of a pair; its tokens are not known, and count as 0.

    None: it has an error, and nothing that says which pair it is of.
    """
    found = completion_of(record, where, wanted=OF_VERDICTS)
    query, document = _name(found.query_id, found.query), _name(found.document_id, found.passage)
    p, chain = found.score, found.chain
    if found.error is not None and (query is None or document is None):
        return None
    if query is None or document is None or p is None or (chain is None and not math.isnan(p)):
        raise InputError(f"{where}: no judgment; {_ADVICE}")
    index = places.setdefault((query, document), len(places))
    if math.isnan(p):
        return (query, document), Judgment.failed(index, found.error or "it has no score")
    if not 0 <= p <= 1:
        raise InputError(f"{where}: the score of a judgment is a probability, from 0 to 1, not {p!r}")
    log_odds = log_odds_of(p) if found.log_odds is None else found.log_odds
    ended = found.ended or "closed"
    return (query, document), Judgment(index, p, log_odds, log_odds > 0, chain or "", 0, 0, ended, False)


def _name(id_: str | None, text: object) -> str | None:
    """What a query or a document is called: its id, or else its text."""
    if id_ is not None:
        return id_
    bare = text.get("text") if isinstance(text, Mapping) else text
    return str(bare) if isinstance(bare, str | int) else None


def _ignore(problem: InputError) -> Any:  # noqa: ANN401
    """What cannot be read is shown by its id."""
