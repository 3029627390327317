"""The texts of what was judged, as they stand in the prompt."""

from collections.abc import Callable, Sequence
from typing import Any

from rank1_hf.prompt import Pair, PairError, passage_text, query_text


def pair_texts(pairs: Sequence[Pair] | None, index: int) -> tuple[str | None, str | None]:
    """A pair's query and passage; None for what is not known or is no text, which its judgment says too."""
    try:
        query, passage = pairs[index] if pairs is not None else (None, None)
    except (IndexError, TypeError, ValueError):
        return None, None
    return _text_or_none(query_text, query), _text_or_none(passage_text, passage)


def _text_or_none(read: Callable[[Any], str], value: object) -> str | None:
    try:
        return read(value)
    except PairError:
        return None
