"""The command `rank1-hf measure`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rank1_hf.commands import options
from rank1_hf.commands.options import TableFormat, fail, note
from rank1_hf.files.inputs import InputError

if TYPE_CHECKING:
    from rank1_hf.files.trec import Run
    from rank1_hf.viewing.tables import Table


def measure(
    run: Annotated[
        list[Path],
        typer.Option(
            help="A run, in any form that evaluate takes, or an output folder of evaluate; several times for several."
        ),
    ],
    qrels: Annotated[Path, typer.Option(help=options.QRELS_HELP)],
    measure: options.MeasureOption = None,
    only_run_queries: options.OnlyRunQueriesOption = False,
    per_query: Annotated[bool, typer.Option("--per-query", help="Show each query's values, too.")] = False,
    split: Annotated[str | None, typer.Option(help="The split of MTEB's predictions, where there are several.")] = None,
    subset: Annotated[
        str | None, typer.Option(help="The subset of MTEB's predictions, where there are several.")
    ] = None,
    form: Annotated[
        TableFormat,
        typer.Option(
            "--format",
            help="LaTeX needs the package booktabs; json is --json. CSV is one table with all digits: of each query "
            "with --per-query, else of the runs.",
        ),
    ] = TableFormat.TEXT,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Measure finished runs, without a model.

    The collection is not needed either.

    Documents of equal score stand as they do in the run, as in `evaluate`.
    """
    options.check_files(*run, qrels)
    try:
        from rank1_hf.evaluation.measured import measure_runs
        from rank1_hf.evaluation.metrics import MEASURES, check_measures
        from rank1_hf.files.trec import read_qrels

        check_measures(measure or MEASURES)
        grades = read_qrels(qrels)
        runs = [(str(path), _read(path, split, subset)) for path in run]
        found = measure_runs(runs, grades, measure or MEASURES, only_run_queries=only_run_queries)
    except (ImportError, InputError) as error:
        fail(str(error), options.BAD_INPUT)
    for sentence in found.notes:
        note(sentence, quiet)
    if as_json or form is TableFormat.JSON:
        options.print_json(found.to_dict(per_query=per_query))
    elif form is TableFormat.CSV:
        typer.echo(found.to_csv(per_query=per_query).encode("utf-8", "replace"), nl=False)
    else:
        _print(found.tables(per_query=per_query), form)


def _print(tables: "Sequence[Table]", form: TableFormat) -> None:
    if form is TableFormat.TEXT:
        console = options.plain_console()
        for table in tables:
            console.print(table.to_rich())
    else:
        texts = (table.to_markdown() if form is TableFormat.MARKDOWN else table.to_latex() for table in tables)
        typer.echo("\n".join(texts).encode("utf-8", "replace"))


def _read(path: Path, split: str | None, subset: str | None) -> "Run":
    from rank1_hf.files.entries import has_subsets
    from rank1_hf.files.trec import read_run

    given = next((name for name, value in (("split", split), ("subset", subset)) if value is not None), None)
    if given is not None and (path.is_dir() or not has_subsets(path)):
        raise InputError(f"{path} has no {given}s: --{given} is for MTEB's predictions")
    found = read_run(path / "run.trec" if path.is_dir() else path, split, subset)
    if not found:
        raise InputError(f"{path} is empty")
    return found
