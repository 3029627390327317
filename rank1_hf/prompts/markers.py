"""The strings that steer a chain, and what a tokenizer makes of them."""

from collections.abc import Iterable
from dataclasses import dataclass, fields


class ContractError(ValueError):
    """A tokenizer cannot express the prompt contract."""


@dataclass(frozen=True, slots=True)
class Markers:
    """The strings that steer a reasoning reranker. The defaults are rank1's.

    Attributes:
        think: ends the prompt and opens the chain.
        close: closes the chain.
        wait: what rethinking puts in the place of `close`.
        true, false: the two answers, as they follow `close`. The prompt asks for them, and each is read at its first
            token id.

    `think` and `close` may be added tokens of the tokenizer, and none may contain one besides: it would become plain
    characters, which no model writes in the place of that token.
    """

    think: str = "<think>"
    close: str = "</think>"
    wait: str = "\nWait"
    true: str = " true"
    false: str = " false"


def as_markers(given: object) -> Markers:
    """The markers that a caller gave; None: rank1's.

    Raises:
        TypeError: they are no `Markers`.
    """
    if given is not None and not isinstance(given, Markers):
        raise TypeError(f"markers must be Markers, as in Markers(true=' yes', false=' no'), not {given!r}")
    return given or Markers()


def check_markers(markers: Markers, added_tokens: Iterable[str]) -> None:
    """Refuse markers that are no text, an empty `close`, and those that contain an added token without being one.

    Args:
        markers: the markers.
        added_tokens: the tokenizer's added tokens, by their text. Those of white space alone may be in a marker.

    Raises:
        ContractError: one is such a marker; the message says what to write instead.
    """
    tokens = [token for token in added_tokens if token.strip()]
    for field in fields(markers):
        marker = getattr(markers, field.name)
        if not isinstance(marker, str) or not (marker or field.name != "close"):
            raise ContractError(
                f"the marker {field.name} must be text, not {marker!r}; leave it out for {field.default!r}"
            )
        may_be_one = field.name in ("think", "close")
        inside = [token for token in tokens if token in marker]
        if not inside or (may_be_one and marker in inside):
            continue
        # A chain opens behind the last token of a marker, and closes with the first.
        token = min(inside, key=marker.find) if field.name == "close" else max(inside, key=marker.rfind)
        instead = f"write Markers({field.name}={token!r})" if may_be_one else f"write it without {token!r}"
        raise ContractError(
            f"the marker {field.name}={marker!r} contains {token!r}, which this tokenizer has as one token: within a "
            f"longer marker it becomes plain characters, which the model neither knows nor writes; {instead}"
        )
