"""Judgments that `rank1-hf evaluate` wrote (judgments.jsonl, journal.jsonl), read again to be looked at."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rank1_hf.files.sources import Source
from rank1_hf.inputs.textfiles import InputError, read_jsonl
from rank1_hf.prompts.prompt import Passage, Query
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import Judgments

Places = dict[tuple[str, str], int]
"""(query id, document id) -> the index of that pair."""

_FIELDS = [field.name for field in fields(Judgment) if field.name not in ("index", "trace", "cached")]


def read_judgments(path: Path, places: Places) -> Judgments:
    """The judgments of a file.

    Args:
        path: a judgments.jsonl or a journal.jsonl, gzipped or not.
        places: gives each pair its index, so that two files of the same pairs agree; pairs that it lacks are added.

    Raises:
        InputError: the file cannot be read, or a line of it is no judgment.
    """
    found: dict[int, Judgment] = {}
    is_journal = False
    for where, record in read_jsonl(path):
        if isinstance(record, dict) and record.keys() == {"journal", "settings"}:
            is_journal = True
            continue
        try:
            key = str(record["query"]), str(record["document"])
            values = {name: record[name] for name in _FIELDS}
            for name in ("score", "log_odds"):
                values[name] = math.nan if values[name] is None else float(values[name])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where}: no judgment; give a judgments.jsonl or journal.jsonl of evaluate") from None
        judgment = Judgment(index=places.setdefault(key, len(places)), **values)
        earlier = found.setdefault(judgment.index, judgment)
        if is_journal:  # where a pair that failed is tried again
            found[judgment.index] = judgment
        elif repr(earlier) != repr(judgment):  # NaN is not equal to itself
            raise InputError(f"{where}: another judgment of query {key[0]} and document {key[1]}, which has one before")
    return Judgments(list(found.values()))


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


def _ignore(problem: InputError) -> Any:  # noqa: ANN401
    """What cannot be read is shown by its id."""
