"""The command `rank1-hf compare`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rank1_hf.commands import options
from rank1_hf.commands.log import log_on_stderr
from rank1_hf.commands.options import TableFormat, fail, note
from rank1_hf.commands.pages import write_page
from rank1_hf.files.inputs import InputError

if TYPE_CHECKING:
    from rank1_hf.evaluation.agreement import Tokenize
    from rank1_hf.evaluation.comparison import ComparisonReport


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="An output folder of evaluate, a run, or judgments (judgments.jsonl, or others' records)."
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same of what it is compared with.")],
    qrels: Annotated[
        Path | None,
        typer.Option(help=f"{options.QRELS_HELP} Two folders of evaluate have their measures already."),
    ] = None,
    measure: options.MeasureOption = None,
    only_run_queries: options.OnlyRunQueriesOption = False,
    names: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="What the two are called, as in --names bf16 4bit.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A checkpoint, hub name or folder: say at which of its tokens chains diverge, too."),
    ] = None,
    form: Annotated[
        TableFormat,
        typer.Option(
            "--format",
            help="LaTeX needs the package booktabs. JSON has every query and every chain, CSV the measures alone, with "
            "all digits.",
        ),
    ] = TableFormat.TEXT,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one HTML page, too, with the judgments beside each other.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="The collection, as for evaluate: for the texts behind the ids in the page, and for the ids behind "
            "the texts of others' records."
        ),
    ] = None,
    subset: options.SubsetOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Compare two results, with tests of significance.

    Measures with paired tests, decisions, rankings, and where chains diverge.

    For each measure: both means, the p-values of a two-sided paired t-test and of a two-sided paired permutation test
    (whose random sign flips have the fixed seed 0), each also corrected after Holm for the number of measures, and how
    many queries B wins, ties and loses.
    """
    options.check_files(a, b, qrels)
    try:
        from rank1_hf.evaluation.compare import compare as compare_sides

        if only_run_queries and qrels is None:
            raise InputError("--only-run-queries needs --qrels: what two folders have measured is as it is")
        source = options.open_corpus(corpus, subset)
        tokenize = None if tokenizer is None else _tokenize(tokenizer)
        with log_on_stderr(quiet):
            report = compare_sides(
                a,
                b,
                qrels=qrels,
                measures=measure or None,
                names=names or ("A", "B"),
                corpus=source,
                tokenize=tokenize,
                only_run_queries=only_run_queries,
            )
    except (ImportError, InputError) as error:
        fail(str(error), options.BAD_INPUT)
    for sentence in report.notes:
        note(sentence, quiet)
    _print(report, form)
    if html is None:
        return
    try:
        write_page(html, lambda path: report.to_html(path, source), quiet)
    except InputError as error:
        fail(str(error), options.BAD_INPUT)


def _print(report: "ComparisonReport", form: TableFormat) -> None:
    if form is TableFormat.JSON:
        options.print_json(report.to_dict())
    elif form is TableFormat.TEXT:
        console = options.plain_console()
        for table in report.all_tables():
            console.print(table.to_rich())
    else:
        forms = {
            TableFormat.MARKDOWN: report.to_markdown,
            TableFormat.LATEX: report.to_latex,
            TableFormat.CSV: report.to_csv,
        }
        typer.echo(forms[form]().encode("utf-8", "replace"), nl=form is not TableFormat.CSV)


def _tokenize(name: str) -> "Tokenize":
    from rank1_hf.models.loading import CheckpointError, open_checkpoint

    try:
        tokenizer = open_checkpoint(name).tokenizer
    except CheckpointError as error:
        fail(str(error), options.BAD_MODEL)

    def token_ids(chain: str) -> list[int]:
        found: list[int] = tokenizer(chain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return found

    return token_ids
