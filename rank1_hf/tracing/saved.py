"""Judgments that `rank1-hf evaluate` wrote (judgments.jsonl), read again to be looked at."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rank1_hf.evaluation.sources import Source
from rank1_hf.inputs import InputError, read_jsonl
from rank1_hf.prompt import Passage, Query
from rank1_hf.results import Judgment, Judgments

Places = dict[tuple[str, str], int]
"""(query id, document id) -> the index of that pair."""

_FIELDS = [field.name for field in fields(Judgment) if field.name not in ("index", "trace")]


def read_judgments(path: Path, places: Places) -> Judgments:
    """The judgments of a file.

    Args:
        path: a judgments.jsonl.
        places: gives each pair its index, so that two files of the same pairs agree; pairs that it lacks are added.

    Raises:
        InputError: the file cannot be read, or a line of it is no judgment.
    """
    judgments = Judgments()
    for where, record in read_jsonl(path, _refuse):
        try:
            key = str(record["query"]), str(record["document"])
            values = {name: record[name] for name in _FIELDS}
        except (KeyError, TypeError):
            raise InputError(f"{where}: no judgment; give the judgments.jsonl that evaluate wrote") from None
        for name in ("score", "log_odds"):
            values[name] = math.nan if values[name] is None else float(values[name])
        judgments.append(Judgment(index=places.setdefault(key, len(places)), **values))
    return judgments


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


def _refuse(problem: InputError) -> None:
    raise problem


def _ignore(problem: InputError) -> Any:  # noqa: ANN401
    """What cannot be read is shown by its id."""
