"""Queries from records, wherever these come from: lines of a BEIR folder, rows of a dataset, tuples of ir_datasets."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rank1_hf.files.inputs import Document, document_of
from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import InputError, Skip
from rank1_hf.prompts.prompt import Query

Records = Iterable[tuple[str, Any]]
"""What a record is, as JSON has it, after where it stands."""


def documents_of(records: Records, skip: Skip) -> Iterator[Document]:
    """The documents of records, one at a time; what is wrong with one goes to `skip`."""
    for where, value in records:
        try:
            yield _with_id(document_of(value, where))
        except InputError as error:
            skip(error)


def queries_of(records: Records, skip: Skip, instructions: Mapping[str, str] | None = None) -> dict[str, Query]:
    """The queries of records by their ids; what is wrong with one goes to `skip`.

    Args:
        records: a query may have an "instruction" beside its "text".
        skip: see above.
        instructions: those that stand elsewhere, by the queries' ids.

    Raises:
        InputError: two queries that differ have one id.
    """
    queries: dict[str, Query] = {}
    for where, value in records:
        try:
            query = _with_id(document_of(value, where, fields.QUERY_TEXT, fields.QUERY_RECORD_ID))
            name = fields.find(value, fields.INSTRUCTION)
            instruction = fields.optional_text(value.get(name), "instruction", where)
        except InputError as error:
            skip(error)
            continue
        instruction = (instructions or {}).get(query.id) or instruction
        found: Query = {"text": query.text, "instruction": instruction} if instruction else query.text
        if queries.setdefault(query.id, found) != found:
            raise InputError(f"{where}: query {query.id} for the second time, with another text or instruction")
    return queries


def _with_id(record: Document) -> Document:
    if not record.id:
        raise InputError(f'{record.where}: there is no id; give it as "_id"')
    return record
