"""The texts of a pair as they stand in its prompt, checked: what is no text is refused before anything is decoded."""

from collections.abc import Mapping, Sequence
from typing import Any

from rank1_hf.inputs.values import is_missing

Query = str | Mapping[str, Any]
"""A query: its text, or `{"text": ..., "instruction": ...}`; an instruction of None or NaN is none."""

Passage = str | Mapping[str, Any]
"""A passage: its text, or `{"title": ..., "text": ...}`; a title of None or NaN is none."""

Pair = tuple[Query, Passage] | Sequence[str]
"""(query, passage)."""


class PairError(ValueError):
    """One pair cannot be judged; the message says why and what to do. Other pairs are not affected."""


def query_text(query: Query) -> str:
    """The query as it stands in the prompt: the text, with the instruction behind it where there is another one.

    Raises:
        PairError: it is not text, or blank.
    """
    if isinstance(query, Mapping):
        text, instruction = _field(query, "text", "the query"), _field(query, "instruction", "the query")
        text += f" {instruction}" if instruction and instruction != text else ""
    else:
        text = checked_text(query, "the query")
    if not text.strip():
        raise PairError("the query is blank; give the words to search for")
    return text


def passage_text(passage: Passage) -> str:
    """The passage as it stands in the prompt: the text, with the title before it where there is one. May be empty.

    Raises:
        PairError: it is not text.
    """
    if not isinstance(passage, Mapping):
        return checked_text(passage, "the passage")
    text, title = _field(passage, "text", "the passage"), _field(passage, "title", "the passage")
    return f"{title} {text}" if title else text


def check_any_passage(passages: Sequence[Passage]) -> None:
    """Refuse passages of which none is usable text; no passages at all are fine.

    Raises:
        PairError: there is none; the message has the first one's reason.
    """
    reason = None
    for passage in passages:
        try:
            passage_text(passage)
        except PairError as error:
            reason = reason or error
        else:
            return
    if reason is not None:
        which = "the only document cannot" if len(passages) == 1 else f"none of the {len(passages)} documents can"
        raise PairError(f"{which} be judged: {reason}")


def _field(record: Mapping[str, Any], name: str, owner: str) -> str:
    if name != "text" and is_missing(record.get(name)):
        return ""
    if name not in record:
        raise PairError(f"{owner} has no {name!r}; it has {', '.join(map(str, record)) or 'nothing'}")
    return checked_text(record[name], f"{owner}'s {name!r}")


def checked_text(value: object, name: str) -> str:
    """A caller's text. Raises PairError, which calls it by this name, where it is none or cannot be encoded."""
    if isinstance(value, bytes | bytearray):
        raise PairError(f"{name} is bytes, not text; decode it first, for example with .decode('utf-8')")
    if not isinstance(value, str):
        raise PairError(f"{name} must be a string, not {type(value).__name__}{_where_its_text_is(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PairError(
            f"{name} is not valid Unicode: a lone surrogate ({value[error.start]!r}) at character {error.start}; "
            "clean it with text.encode('utf-8', 'replace').decode()"
        ) from None
    return value


def _where_its_text_is(value: object) -> str:
    """The end of a sentence on a document of LangChain, LlamaIndex, Haystack or the like: which field to give."""
    for name in ("page_content", "text", "content"):
        if isinstance(getattr(value, name, None), str):
            return f"; give its text, which is in its {name!r}"
    return ""
