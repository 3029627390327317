"""What a notebook shows of a result. `rank1_hf.viewing`, which is built upon them, registers it for each kind."""

from functools import singledispatch


@singledispatch
def notebook_view(result: object) -> str | None:
    """HTML, with every text escaped; None: the plain text."""
    return None
