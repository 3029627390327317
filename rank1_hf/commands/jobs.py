"""What the commands share whose jobs can be resumed: what decides their judgments, how they were made, how they end."""

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from rank1_hf.commands import again, options
from rank1_hf.commands.model_options import ModelOptions
from rank1_hf.commands.options import fail, note
from rank1_hf.files.inputs import InputError

if TYPE_CHECKING:
    from rank1_hf.evaluation.pending import Outcome
    from rank1_hf.evaluation.provenance import Provenance
    from rank1_hf.reranker import Rank1


def decisive(chosen: ModelOptions, dataset_prompt: str | None = None) -> dict[str, Any]:
    """What decides a judgment, as JSON has it; a dtype of None is the checkpoint's own.

    Of the decoding: in reproducible mode steps are as wide as the batch, whatever is in it. The other decoding options
    are not compared: in 16 bits `kernels`, `fuse` and `speculate` may round otherwise.
    """
    found, decoding = chosen.decisive(dataset_prompt), chosen.engine()
    if "markers" in found:
        found["markers"] = asdict(found["markers"])
    width = decoding.batch_size if decoding.reproducible else None
    if found["dtype"] is None:
        found["dtype"] = _substituted_dtype(chosen)
    return {**found, "reproducible": decoding.reproducible, "batch_size": width}


def _substituted_dtype(chosen: ModelOptions) -> str | None:
    """The dtype of the weights here, where a device takes another than the checkpoint's own.

    A job that began in one of them does not go on in the other, and shards of both are not merged.
    """
    from rank1_hf.models.identity import substituted_dtype

    is_spread = chosen.device_map is not None or chosen.max_memory is not None
    found = substituted_dtype(chosen.model, device=chosen.device, is_spread=is_spread, **chosen.source())
    return None if found is None else str(found).removeprefix("torch.")


def identity(chosen: ModelOptions) -> str:
    """Which weights these are, or the end of the command."""
    from rank1_hf.models.identity import checkpoint_identity
    from rank1_hf.models.loading import CheckpointError

    try:
        return checkpoint_identity(chosen.model, **chosen.source())
    except CheckpointError as error:
        fail(str(error), options.BAD_MODEL)


def provenance(
    context: typer.Context, weights: str, device: str | None, like: Path | None = None, quiet: bool = False
) -> "Provenance":
    """What is known of the job; what differs from the job to repeat is said."""
    from rank1_hf.evaluation.provenance import Provenance
    from rank1_hf.models.devices import resolve_device

    found = Provenance(
        again.command_line(context),
        again.options_in_force(context),
        weights,
        resolve_device(device),
        like=None if like is None else again.environment(like),
        given=again.given_options(context),
    )
    for difference in found.differences():
        note(f"{like}: {difference}", quiet)
    return found


@contextmanager
def ends_the_command(output: Path, quiet: bool) -> Iterator[None]:
    """A block in which a job is prepared and run, whose errors and signals are the command's end."""
    from rank1_hf.evaluation.journal import JournalError

    if output.is_file():
        fail(f"--output {output} is a file; give a folder, or the name of a new one", options.BAD_INPUT)
    if quiet:
        warnings.simplefilter("ignore")
    try:
        yield
    except (InputError, JournalError) as error:
        fail(str(error), options.BAD_INPUT)
    except OSError as error:
        fail(f"cannot write to {output}: {error}", options.NOT_WRITTEN)
    except KeyboardInterrupt as interrupt:
        _stop_while_reading(interrupt, quiet)


def loading(chosen: ModelOptions, arguments: dict[str, Any], output: Path, quiet: bool) -> Callable[[], "Rank1"]:
    """What loads the model once something is left to judge, and says so where the folder has a journal already."""
    goes_on = (output / "journal.jsonl").exists()

    def load() -> "Rank1":
        if goes_on:
            note(f"going on with the job in {output}", quiet)
        return chosen.load(quiet, **arguments)

    return load


def counts(outcome: "Outcome") -> dict[str, int]:
    """How many pairs came to what, as JSON has it."""
    return {"n_pairs": outcome.n_pairs, "n_scored": outcome.n_scored, "n_failed": outcome.n_failed}


def stop(outcome: "Outcome", quiet: bool) -> NoReturn:
    """End the command, whose job was stopped."""
    bad = f", {outcome.n_failed} cannot be judged" if outcome.n_failed else ""  # which no line of progress counts
    kept = (
        f"{outcome.n_scored} of {outcome.n_pairs} pairs are judged and kept{bad}; run the same command again to resume"
    )
    if isinstance(outcome.stopped, signal.Signals):
        _stop(outcome.stopped, kept, quiet)
    fail(f"{outcome.stopped}; {kept}", options.NOT_WRITTEN)


def _stop_while_reading(interrupt: KeyboardInterrupt, quiet: bool) -> NoReturn:
    """End the command, which was stopped before anything was judged."""
    from rank1_hf.evaluation.pending import stopped_by

    kept = "the inputs were being read; what was judged before is kept; run the same command again to resume"
    _stop(stopped_by(interrupt), kept, quiet)


def _stop(stopped: signal.Signals, summary: str, quiet: bool) -> NoReturn:
    terminated = stopped is signal.SIGTERM
    note(f"{'terminated' if terminated else 'interrupted'}: {summary}", quiet)
    raise typer.Exit(options.TERMINATED if terminated else options.INTERRUPTED)
