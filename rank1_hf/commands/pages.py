"""What the commands that write an HTML page share: the environments in its head, and the writing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from rank1_hf.commands import again, options
from rank1_hf.commands.options import fail, note
from rank1_hf.files.inputs import InputError


def environment_of_call(context: typer.Context, reranker: object) -> dict[str, Any]:
    """How what a command has judged itself was made, as `environment.json` would say it."""
    from rank1_hf.evaluation import provenance

    return provenance.of_call(again.command_line(context), again.options_in_force(context), reranker)


def environment_beside(file: Path | None, quiet: bool) -> dict[str, Any] | None:
    """What `environment.json` beside a file of judgments says; None where there is none that can be read."""
    from rank1_hf.evaluation import provenance

    try:
        return None if file is None else provenance.read(file.parent)
    except InputError as error:
        note(f"{error}; the page does not say how {file} was made", quiet)
        return None


def write_page(html: Path, write: Callable[[Path], None], quiet: bool) -> None:
    """Write a page, or end the command where that cannot be."""
    try:
        write(html)
    except OSError as error:
        fail(f"cannot write {html}: {error.strerror or error}", options.NOT_WRITTEN)
    note(f"the page is in {html}", quiet)
