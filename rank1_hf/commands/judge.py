"""The command `rank1-hf judge`. As in `cli.py`, what takes seconds to import waits until it is needed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rank1_hf.commands import jobs, options
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.commands.options import fail, note
from rank1_hf.files.pairs import NAMES, PairFile
from rank1_hf.viewing.printable import counted

if TYPE_CHECKING:
    from rank1_hf.evaluation.pending import Outcome


@takes_model_options()
def judge(
    context: typer.Context,
    chosen: ModelOptions,
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            dir_okay=False,
            help="JSONL, CSV or TSV, gzipped or not, or Parquet, with a query and a passage a row. A title is put "
            "before its passage, an instruction behind its query; all other columns are kept as they are.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the journal and the results. Run again to resume.")
    ],
    mapping: options.MapOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Judge a file of pairs.

    Every judgment is in OUTPUT/journal.jsonl as soon as it is finished, and the tokens of unfinished chains are in
    chains.jsonl. A job that was stopped, by Ctrl-C, a kill or a power failure, resumes when the same command is run
    again; a finished job is left as it is. OUTPUT then has
    judgments.jsonl (and .parquet with pyarrow): each row of FILE in its order, with its line, score, log_odds, label,
    chain, n_prompt_tokens, n_chain_tokens, ended, truncated and error. A column of FILE with one of these names gets
    input_ before its own. A row that cannot be read or judged is there with its error, and affects no other.
    environment.json says how it was made. What is printed is where the judgments are, or with --json how many.
    """
    if options.n_processes() > 1:
        fail(
            "judge works in one process: give each GPU a part of the file, its --device and a folder", options.BAD_INPUT
        )
    options.check_files(pairs)
    try:
        from rank1_hf.evaluation.batch import run_batch
    except ImportError as error:
        fail(str(error), options.BAD_INPUT)
    with jobs.ends_the_command(output, quiet):
        file = PairFile(pairs, options.mapped(mapping, NAMES))
        arguments = chosen.arguments()
        chosen.check()
        identity = jobs.identity(chosen)
        provenance = jobs.provenance(context, identity, chosen.device)
        outcome = run_batch(
            file,
            output,
            {"model": identity, **jobs.decisive(chosen)},
            jobs.loading(chosen, arguments, output, quiet),
            show_progress=False if quiet else None,
            provenance=provenance,
        )
    _print_outcome(outcome, output, as_json, quiet)


def _print_outcome(outcome: "Outcome", output: Path, as_json: bool, quiet: bool) -> NoReturn:
    if outcome.stopped is not None:
        jobs.stop(outcome, quiet)
    typer.echo(json.dumps(jobs.counts(outcome)) if as_json else output / "judgments.jsonl")
    done = "the job was finished before: " if outcome.was_finished else ""
    note(f"{done}{outcome.n_scored} of {outcome.n_pairs} pairs have a score", quiet)
    if outcome.n_failed:
        note(f"{counted(outcome.n_failed, 'row')} could not be read or judged; their errors say why", quiet)
    raise typer.Exit(options.SOME_FAILED if outcome.n_failed else options.ALL_JUDGED)
