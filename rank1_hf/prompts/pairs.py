"""The pairs a caller gives: what counts as one, and the order in which they are decoded."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np

from rank1_hf.inputs.values import is_missing
from rank1_hf.prompts.pair_text import Pair, PairError, Passage, Query, passage_text, query_text
from rank1_hf.prompts.tables import PASSAGE, QUERY, Table, is_table, pairs_of

Pairs: TypeAlias = Iterable[Pair] | Pair | Table
"""Pairs to judge: many, one alone, or a table of them."""


def is_pair(pairs: object) -> bool:
    """Whether this is one pair alone, as in predict(("query", "passage")), and not two rows of a table."""
    if not isinstance(pairs, tuple | list | np.ndarray) or len(pairs) != 2:
        return False
    return isinstance(pairs[0], str | Mapping) and not any(map(_is_row, pairs))


def as_pairs(pairs: Any) -> Iterable[Pair]:  # noqa: ANN401
    """A collection of pairs, also where one alone is given, or a table.

    Raises:
        TypeError: it is none of these, or a collection of strings.
        ValueError: a table lacks its columns.
    """
    if is_pair(pairs):
        return [pairs]
    if is_table(pairs):
        return pairs_of(pairs)
    if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        raise TypeError(f"pairs must be a list of (query, passage), not {type(pairs).__name__}")
    if isinstance(pairs, Collection) and len(pairs) and all(isinstance(each, str | bytes) for each in pairs):
        raise TypeError(
            "pairs must be a list of (query, passage), and these are strings only; rank(query, passages) takes one "
            "query and its passages"
        )
    return pairs


def unpack(pair: Any) -> tuple[Query, Passage]:  # noqa: ANN401
    """The two parts of a pair, or of a row of a table that is read as a stream.

    Raises:
        PairError: it is none.
    """
    if _is_row(pair):
        return pair[QUERY], pair[PASSAGE]
    try:
        if isinstance(pair, str | bytes | Mapping | Set):
            raise TypeError
        query, passage = pair
    except (TypeError, ValueError):
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise PairError(f"a pair must be (query, passage), not a {type(pair).__name__}{size}") from None
    return query, passage


def with_instruction(pair: Any, instruction: str) -> Any:  # noqa: ANN401
    """The pair, its query with an instruction where it has none of its own. What is no pair stays as it is."""
    try:
        query, passage = unpack(pair)
        query_text(query)
    except PairError:
        return pair
    asked = query if isinstance(query, Mapping) else {"text": query}
    has_own = not is_missing(asked.get("instruction"))
    return pair if has_own else ({**asked, "instruction": instruction}, passage)


def in_decoding_order(pairs: Sequence[Pair]) -> Iterator[tuple[int, Pair]]:
    """Pairs with their places, those of one query together and equal ones next to each other.

    Pairs of one query share a part of the prompt, which is computed once as long as they come together.
    """
    first_of_query: dict[str, int] = {}
    first_of_pair: dict[tuple[int, int], int] = {}
    keys: list[tuple[int, int, int]] = []
    for index, pair in enumerate(pairs):
        try:
            query, passage = unpack(pair)
            query_first = first_of_query.setdefault(query_text(query), index)
            pair_first = first_of_pair.setdefault((query_first, hash(passage_text(passage))), index)
        except PairError:
            query_first = pair_first = index
        keys.append((query_first, pair_first, index))
    return ((index, pairs[index]) for _, _, index in sorted(keys))


def _is_row(pair: object) -> bool:
    """Whether this is a row of a table of pairs."""
    return isinstance(pair, Mapping) and {QUERY, PASSAGE} <= pair.keys()
