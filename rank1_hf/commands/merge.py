"""The command `rank1-hf merge`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from pathlib import Path
from typing import Annotated

import typer

from rank1_hf.commands import options
from rank1_hf.commands.evaluate import print_outcome
from rank1_hf.commands.options import fail, note
from rank1_hf.files.inputs import InputError


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="OUT...", help="The output folders of all shards, in any order.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the whole job.")],
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Put the shards of a job together.

    What comes out are the files of a job that was never divided.

    They must be of one job (the same inputs, options and weights), all there and finished; what is missing is named.
    Neither the collection nor the model is needed. With --reproducible shards, every file is byte for byte that of a
    job without --shard, except for environment.json, which says how the shards were made, and journal.jsonl, whose
    lines stand in the order of finishing. `evaluate` can go on in OUTPUT, with a larger --top-k for example.
    """
    try:
        from rank1_hf.evaluation.journal import JournalError
        from rank1_hf.evaluation.merging import MergeError
        from rank1_hf.evaluation.merging import merge as merge_shards
    except ImportError as error:
        fail(str(error), options.BAD_INPUT)
    try:
        outcome = merge_shards(folders, output)
    except (InputError, JournalError, MergeError) as error:
        fail(str(error), options.BAD_INPUT)
    except OSError as error:
        fail(f"cannot merge into {output}: {error}", options.NOT_WRITTEN)
    for sentence in outcome.coverage:
        note(sentence, quiet)
    print_outcome(outcome, output, as_json, quiet)
