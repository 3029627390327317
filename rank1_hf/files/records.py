"""Queries from records, wherever these come from: lines of a BEIR folder, rows of a dataset, tuples of ir_datasets."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rank1_hf.files.inputs import Document, document_of
from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import InputError, Skip
from rank1_hf.prompts.pair_text import Query

_MOST_WRONG = 1000  # documents at a corpus's beginning

Records = Iterable[tuple[str, Any]]
"""What a record is, as JSON has it, after where it stands."""


def documents_of(records: Records, skip: Skip) -> Iterator[Document]:
    """The documents of records, one at a time; what is wrong with one goes to `skip`."""
    for where, value in records:
        try:
            yield _with_id(document_of(value, where))
        except InputError as error:
            skip(error)


def check_documents(documents: Callable[[Skip], Iterator[Document]]) -> None:
    """Refuse a corpus at once whose first documents have all the same thing wrong with them, such as another name for
    their text, instead of saying it of each.

    Args:
        documents: gives them, and what is wrong with one to a `Skip`.

    Raises:
        InputError: there are none, or none of the first can be read: what is wrong with the first of them.
    """
    problems: list[InputError] = []

    def skip(problem: InputError) -> None:
        problems.append(problem)
        if len(problems) == _MOST_WRONG:
            raise problems[0]

    if next(documents(skip), None) is None:
        raise problems[0] if problems else InputError("the collection has no documents")


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
