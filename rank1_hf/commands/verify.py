"""The command `rank1-hf verify`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rank1_hf.commands import options
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.commands.options import fail, note
from rank1_hf.commands.pages import environment_beside, environment_of_call, write_page
from rank1_hf.files.completions import NAMES, read_completions
from rank1_hf.files.inputs import InputError
from rank1_hf.models.spellings import dtype_name
from rank1_hf.results.completion import Completion

if TYPE_CHECKING:
    from rank1_hf.files.sources import Source
    from rank1_hf.viewing.verifications import Verifications

AGREE, DISAGREE = 0, 1
_DTYPES = ("float32", "float16", "bfloat16")

EXIT_CODES = (
    "Exit codes: 0 the records agree; 1 more of them than --threshold do not, or cannot be checked; 2 bad usage or "
    "input; 3 the model cannot be loaded or its tokenizer does not fit; 4 the page cannot be written; 130 interrupted "
    "(nothing is reported)."
)


@takes_model_options()
def verify(
    context: typer.Context,
    chosen: ModelOptions,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            dir_okay=False,
            help="JSONL, gzipped or not, or Parquet: what the official code, vLLM, an OpenAI-style server or evaluate "
            "has made, a record a pair.",
        ),
    ],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=FIELD",
            help=f"Where records have something under a name of their own: a field, or a path as in "
            f"completion=response.choices.0.text. NAME is one of {', '.join(NAMES)}.",
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="The collection, as for evaluate, of records that have ids instead of texts (judgments.jsonl)."
        ),
    ] = None,
    subset: options.SubsetOption = None,
    qrels: Annotated[
        Path | None, typer.Option(help=f"{options.QRELS_HELP} They give nDCG@10 of both rankings.")
    ] = None,
    dtype_of_records: Annotated[
        str | None,
        typer.Option(
            "--their-dtype", help="float32, float16 or bfloat16: what the records were made in. Default: as the model."
        ),
    ] = None,
    rounding: Annotated[
        float | None, typer.Option(min=0, help="Logits no farther apart count as equal. Default: by the dtypes.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The share of records that may disagree without exit code 1.")
    ] = 0.0,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with both sides of each record.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print an object a line for each record, and the summary as the last one.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Show all records that disagree, not the first 20.")] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Check scores and chains that another engine has made.

    Would this model have generated the same? Nothing is decoded.

    Each chain is fed to the model behind its prompt, and the report says how the scores compare, where greedy decoding
    would have gone elsewhere, whether by more than rounding, and what is wrong with a prompt, a chain or a score.
    """
    options.check_files(file, qrels)
    problems: list[InputError] = []
    try:
        dtype_of_records = dtype_name(dtype_of_records)
        if dtype_of_records not in (None, *_DTYPES):
            raise InputError(f"--their-dtype must be one of {', '.join(_DTYPES)}, not {dtype_of_records!r}")
        names = options.mapped(mapping, NAMES)
        arguments = chosen.arguments()
        chosen.check()
        completions = list(read_completions(file, names, problems.append))
        if (source := options.open_corpus(corpus, subset)) is not None:
            completions = _with_texts(completions, source)
        judged = None if qrels is None else _qrels(qrels)
    except InputError as error:
        fail(str(error), options.BAD_INPUT)
    for problem in problems:
        note(str(problem), quiet)
    if not completions:
        fail(f"{file} has no record that could be checked", options.BAD_INPUT)
    reranker = chosen.load(quiet, **arguments)
    try:
        found = reranker.verify(
            completions,
            dtype=dtype_of_records,
            rounding=rounding,
            show_progress_bar=False if quiet else None,
        )
    except ValueError as error:
        fail(str(error), options.BAD_INPUT)
    except KeyboardInterrupt:  # records are read in passes over all of them, so none is finished before the last
        note("interrupted: nothing is reported; a part of the file takes less time", quiet)
        raise typer.Exit(options.INTERRUPTED) from None
    if options.speaks():
        _show(found, judged, as_json=as_json, most=None if show_all else 20, quiet=quiet)
        if html is not None:
            _write(found, html, file, judged, environment_of_call(context, reranker), quiet)
    n_wrong = len(found) - found.summary.n_agree + len(problems)
    raise typer.Exit(DISAGREE if n_wrong > threshold * (len(found) + len(problems)) else AGREE)


def _with_texts(completions: list[Completion], source: "Source") -> list[Completion]:
    """The queries and passages that records have by their ids, from a collection."""

    def ignore(problem: InputError) -> None:
        """What cannot be read is missing, and the record says so."""

    queries = source.queries(ignore)
    wanted = {completion.document_id for completion in completions}
    documents = {each.id: each.passage for each in source.documents(ignore) if each.id in wanted}
    return [
        replace(
            each,
            query=queries.get(each.query_id or "") if each.query is None else each.query,
            passage=documents.get(each.document_id or "") if each.passage is None else each.passage,
        )
        for each in completions
    ]


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    from rank1_hf.files.trec import read_qrels

    try:
        import rank1_hf.evaluation.metrics  # noqa: F401 (said now if what measures is missing)
    except ImportError as error:
        raise InputError(str(error)) from error
    return read_qrels(path)


def _show(
    found: "Verifications", qrels: dict[str, dict[str, int]] | None, *, as_json: bool, most: int | None, quiet: bool
) -> None:
    measured = {} if qrels is None else _ndcg(found, qrels, quiet)
    if as_json:
        for each in found:
            options.print_json(each.to_dict())
        options.print_json({"summary": found.summary.to_dict() | measured})
        return
    console = options.plain_console()
    console.print(found.render(most=most))
    if measured:
        console.print(f"nDCG@10: theirs {measured['ndcg_theirs']:.4f}, the model's {measured['ndcg_ours']:.4f}")


def _ndcg(found: "Verifications", qrels: dict[str, dict[str, int]], quiet: bool) -> dict[str, Any]:
    from rank1_hf.evaluation.metrics import coverage, ndcg, of_run

    theirs, ours = found.rankings()
    judged = of_run(qrels, theirs)
    if not judged:
        note("none of the queries in the qrels is in the records; nDCG is not measured")
        return {}
    for sentence in coverage(qrels, theirs, "the records", only_run_queries=True):
        note(sentence, quiet)
    return {"ndcg_theirs": ndcg(judged, theirs), "ndcg_ours": ndcg(judged, ours)}


def _write(
    found: "Verifications",
    html: Path,
    file: Path,
    qrels: dict[str, dict[str, int]] | None,
    made: dict[str, Any],
    quiet: bool,
) -> None:
    from rank1_hf.evaluation.provenance import own_qrels
    from rank1_hf.viewing.provenance import without_folders

    environment = environment_beside(file, quiet)
    names = "this model", without_folders(str(file))
    grades = qrels or own_qrels(environment)
    write_page(
        html,
        lambda path: found.to_html(path, names=names, qrels=grades, environments=(made, environment)),
        quiet,
    )
