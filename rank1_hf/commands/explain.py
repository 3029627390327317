"""The command `rank1-hf explain`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from rank1_hf.commands import judging, options
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.commands.options import fail, note
from rank1_hf.commands.pages import environment_beside, environment_of_call, write_page
from rank1_hf.files.inputs import InputError
from rank1_hf.prompts.pair_text import PairError, query_text

if TYPE_CHECKING:
    from rank1_hf.results.judgment import Judgment
    from rank1_hf.viewing.report import PageOptions


class Shade(StrEnum):
    """What the tokens are shaded by in the terminal."""

    ENTROPY = "entropy"
    MARGIN = "margin"


@takes_model_options()
def explain(
    context: typer.Context,
    chosen: ModelOptions,
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="The query.")] = None,
    documents: options.DocumentsArgument = None,
    file: options.FileOption = None,
    file_format: options.FormatOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one HTML page instead of showing the chains here.")
    ] = None,
    judgments: Annotated[
        Path | None,
        typer.Option(
            help="Show what evaluate found (its folder, or a file of the model's judgments) instead of judging. Needs "
            "--html."
        ),
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="A second folder or file of the same pairs, to stand beside the first.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="The collection of --judgments, as for evaluate, for the texts behind the ids.")
    ] = None,
    subset: options.SubsetOption = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            help=f"{options.QRELS_HELP} The page shows their grades beside --judgments. Without it: those that "
            "evaluate had, where their file is still there."
        ),
    ] = None,
    shade: Annotated[Shade, typer.Option(help="What the tokens are shaded by in the terminal.")] = Shade.ENTROPY,
    trace: Annotated[
        bool,
        typer.Option(help="Record each token, the belief along the chain, and at the verdict layers and attention."),
    ] = True,
    quiet: options.QuietOption = False,
) -> None:
    """Show what the model thought, and how sure it was.

    It is shown here, or with --html as a page.

    The page needs no network. It can be searched and sorted, and shows two runs side by side:
    rank1-hf explain --judgments bf16 --other 4bit --html report.html
    """
    if judgments is not None:
        _show_saved(query, judgments, other, (corpus, subset), qrels, html, quiet)
        return
    try:
        if query is None:
            raise InputError("there is no query: give it as the first argument, or --judgments")
        if any(given is not None for given in (other, corpus, subset, qrels)):
            raise InputError("--other, --corpus, --subset and --qrels go with --judgments")
        asked, arguments = query_text(query), chosen.arguments()
        passages = list(judging.read_passages(documents or [], file, file_format))
    except (InputError, PairError) as error:
        fail(str(error), options.BAD_INPUT)
    if not passages:
        note("there are no passages to judge", quiet)
        return
    reranker = chosen.load(quiet, **arguments)
    pairs = [(asked, passage.passage) for passage in passages]
    from rank1_hf.tracing import TraceOptions

    everything = TraceOptions(belief="sentences", lens=True, attention=True)
    try:
        outcome = judging.judge(reranker, pairs, quiet, trace=everything if trace else False)
    except ValueError as error:
        fail(f"{error}; with --no-trace chains and scores are shown all the same", options.BAD_INPUT)
    if html is not None:
        _write(outcome.judgments, html, quiet, pairs=pairs, environments=[environment_of_call(context, reranker)])
    else:
        from rank1_hf.viewing.terminal import render

        shown = render(outcome.judgments, pairs, by="margin" if shade is Shade.MARGIN else "entropy")
        options.plain_console().print(shown)
    judging.finish(outcome, quiet)


def _show_saved(
    query: str | None,
    judgments: Path,
    other: Path | None,
    collection: tuple[str | None, str | None],
    qrels: Path | None,
    html: Path | None,
    quiet: bool,
) -> None:
    if query is not None:
        fail("give a query and passages, or --judgments, not both", options.BAD_INPUT)
    if html is None:
        fail("--judgments needs --html, which says where to write the page", options.BAD_INPUT)
    options.check_files(judgments, other, qrels)
    from rank1_hf.evaluation.provenance import own_qrels
    from rank1_hf.files.trec import read_qrels
    from rank1_hf.viewing.provenance import without_folders
    from rank1_hf.viewing.saved import Places, ids_of, judgments_file, pairs_of, read_judgments

    places: Places = {}
    try:
        grades = None if qrels is None else read_qrels(qrels)
        files = judgments_file(judgments), None if other is None else judgments_file(other)
        first = read_judgments(files[0], places)
        second = None if files[1] is None else read_judgments(files[1], places)
        pairs = pairs_of(places, options.open_corpus(*collection))
    except InputError as error:
        fail(str(error), options.BAD_INPUT)
    environments = [environment_beside(file, quiet) for file in files]
    names = ["" if file is None else without_folders(str(file.parent)) for file in files]
    _write(
        first,
        html,
        quiet,
        pairs=pairs,
        ids=ids_of(places),
        qrels=grades or own_qrels(environments[0]),
        other=second,
        names=(names[0], names[1]),
        environments=environments,
    )


def _write(judgments: "Sequence[Judgment]", html: Path, quiet: bool, **page: "Unpack[PageOptions]") -> None:
    from rank1_hf.viewing.report import write_html

    if options.speaks():
        write_page(html, lambda path: write_html(judgments, path, **page), quiet)
