"""The passages that a command is given, judged; and how it ends."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from rank1_hf.commands.options import ALL_JUDGED, INTERRUPTED, SOME_FAILED, n_processes, note, speaks
from rank1_hf.files.inputs import Document, InputError, read_file, read_stream
from rank1_hf.prompts.pair_text import Passage
from rank1_hf.reranking.resuming import carried_by
from rank1_hf.results.judgment import Interrupted, Judgment

if TYPE_CHECKING:
    from rank1_hf.reranker import Rank1


def read_passages(arguments: list[str], file: Path | None, file_format: str | None) -> Iterator[Document]:
    """The passages that the arguments, `--file` or stdin give.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    if arguments and file:
        raise InputError("give the passages as arguments or with --file, not both")
    if arguments:
        return (Document(text) for text in arguments)
    if file:
        return read_file(file, file_format)
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("there are no passages: give them as arguments, with --file, or on stdin")
    if n_processes() > 1:
        raise InputError("several processes cannot read one stdin: give the passages as arguments or with --file")
    return read_stream(sys.stdin.buffer, file_format or "txt")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call: the judgments that were finished, of how many, and what ended it before its end, if anything
    did: Ctrl-C (`Interrupted`) or an error.
    """

    judgments: list[Judgment]
    n_pairs: int
    stopped_by: BaseException | None = None


def judge(
    reranker: "Rank1",
    pairs: Sequence[tuple[str, Passage]],
    quiet: bool = False,
    **more: Any,  # noqa: ANN401
) -> Outcome:
    """Judge pairs; after Ctrl-C or an error, what was finished. `more` goes to `Rank1.judge` as it is."""
    show = False if quiet else None
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        try:
            judgments = reranker.judge(pairs, show_progress_bar=show, **more)
        except (Interrupted, Exception) as error:
            finished = [judgment for judgment in carried_by(error) if not judgment.unfinished]
            if not finished and not isinstance(error, Interrupted):
                raise
            return Outcome(finished, len(pairs), error)
    return Outcome(judgments, len(pairs))


def finish(outcome: Outcome, quiet: bool = False) -> NoReturn:
    """End the command with the exit code, or the error, that says what came of it."""
    if not speaks():
        raise typer.Exit(ALL_JUDGED)  # the launcher ends all processes when one fails, also the one that still prints
    if outcome.stopped_by is not None:
        interrupted = isinstance(outcome.stopped_by, Interrupted)
        what = "interrupted" if interrupted else "an error ended the call"
        note(f"{what}: {len(outcome.judgments)} of {outcome.n_pairs} passages were judged", quiet)
        raise typer.Exit(INTERRUPTED) if interrupted else outcome.stopped_by
    n_failed = sum(judgment.error is not None for judgment in outcome.judgments)
    if n_failed:
        note(f"{n_failed} of {outcome.n_pairs} passages could not be judged", quiet)
        raise typer.Exit(SOME_FAILED)
    raise typer.Exit(ALL_JUDGED)
