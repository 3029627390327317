"""The command `rank1-hf evaluate`. As in `cli.py`, what takes seconds to import waits until it is needed."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rank1_hf.commands import again, jobs, options
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.commands.options import fail, note
from rank1_hf.files.inputs import InputError
from rank1_hf.inputs.choices import must_be_one_of
from rank1_hf.viewing.printable import counted

if TYPE_CHECKING:
    from rank1_hf.evaluation.candidates import Inputs
    from rank1_hf.evaluation.metrics import Comparison
    from rank1_hf.evaluation.pending import Outcome
    from rank1_hf.evaluation.shards import Shard
    from rank1_hf.prompts.pair_text import Pair
    from rank1_hf.viewing.tables import Table


_OF_PROMPTS = ("markers", "max_length", "max_new_tokens", "min_thinking_tokens", "truncation")
"""The arguments of `Rank1` that make prompts."""


class RunFormat(StrEnum):
    """What the new run is written as."""

    TREC = "trec"
    JSON = "json"


@takes_model_options()
def evaluate(
    context: typer.Context,
    chosen: ModelOptions,
    corpus: Annotated[
        str,
        typer.Option(
            help="The collection: a BEIR folder (corpus.jsonl, queries.jsonl), a dataset of Hugging Face's datasets (a "
            "folder or a hub name), or ir_datasets: and an id. With --like it is that of the folder."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the journal and the results. Run again to resume.")
    ],
    like: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=again.take_options,
            help="Repeat the job recorded in this output folder of evaluate; options on the command line override it. "
            "Differences are listed. An input file that is missing or has changed is an error.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The candidates: a TREC run, a JSON object {query id: {document id: score}}, MTEB's predictions, or "
            "JSONL, CSV or TSV with query_id, docid and score; gzipped or not. Without it: the collection's own, if it "
            "has any."
        ),
    ] = None,
    qrels: Annotated[Path | None, typer.Option(help=f"{options.QRELS_HELP} Without it: the collection's own.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Which split of the collection's own qrels to use; default: test, or the only one there is. Also "
            "selects the split in MTEB's prediction files."
        ),
    ] = None,
    subset: options.SubsetOption = None,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Rerank and measure only the first N queries of the run, to try something out."
        ),
    ] = None,
    only_judged_queries: Annotated[
        bool,
        typer.Option(
            "--only-judged-queries",
            help="Leave queries that have no relevance judgments (qrels) out of the run. Without it they are reranked, "
            "and enter no measure.",
        ),
    ] = False,
    top_k: Annotated[
        int,
        typer.Option(
            "--top-k",
            "-k",
            min=1,
            help="Rerank the first K candidates of each query; the rest keep their order below them.",
        ),
    ] = 100,
    ignore_identical_ids: Annotated[
        bool | None,
        typer.Option(
            help="Leave out candidates that have their query's own id. Without it: where --task or --corpus is an "
            "ArguAna or a Quora, whose queries are in the corpus."
        ),
    ] = None,
    measure: options.MeasureOption = None,
    only_run_queries: options.OnlyRunQueriesOption = False,
    run_format: Annotated[
        RunFormat, typer.Option(help="json: write run.json, {query id: {document id: score}}, beside run.trec.")
    ] = RunFormat.TREC,
    tag: Annotated[
        str | None, typer.Option(help="The last column of run.trec, a word that names the run. Default: rank1-hf.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Use this MTEB task's dataset prompt, as in SciFact or BrightRetrieval/biology."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Where --task looks: a JSON or YAML file that maps task names to templates.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Judge part K of N, as in 3/16, of about as many tokens as each other part. A job array's index will "
            "do for K, whether it counts from 1 (1/16 to 16/16) or from 0 (0/16 to 15/16): 0/16 is 16/16. Give each "
            "shard an --output of its own; rank1-hf merge puts them together.",
        ),
    ] = None,
    trace: Annotated[
        bool | None,
        typer.Option(
            "--trace/--no-trace",
            help="Keep the belief curve of each judgment: p(true) if the chain were closed behind each sentence, and "
            "the entropy of the tokens in between. Makes the job take about 1.33 times as long. A curve has at most 64 "
            "points, which is 7 kB a pair in each file. A job that was begun without it cannot resume with it. --cache "
            "is not used.",
        ),
    ] = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Rerank a run over a collection, and measure both.

    Every judgment is in OUTPUT/journal.jsonl as soon as it is finished, and the tokens of unfinished chains are in
    chains.jsonl. A job that was stopped, by Ctrl-C or by a power failure, resumes when the same command is run again.
    When all is judged, OUTPUT gets run.trec, judgments.jsonl (and .parquet with pyarrow), metrics.json, per_query.tsv,
    and errors.jsonl if anything could not be read or judged.
    With --shard, `rank1-hf merge` writes these once all shards are finished.
    environment.json says how it was made: --like repeats the job.
    """
    if options.n_processes() > 1:
        fail(
            "evaluate works in one process: give each GPU a --shard, its --device and a folder of its own",
            options.BAD_INPUT,
        )
    try:
        from rank1_hf.evaluation.candidates import queries_are_documents
        from rank1_hf.evaluation.job import run_job
        from rank1_hf.evaluation.metrics import MEASURES, check_measures
        from rank1_hf.evaluation.shards import Shard
        from rank1_hf.files.trec import TAG, check_tag
    except ImportError as error:
        fail(str(error), options.BAD_INPUT)
    measures = measure or MEASURES
    with jobs.ends_the_command(output, quiet):
        check_measures(measures)
        tag = TAG if tag is None else check_tag(tag)
        part = None if shard is None else Shard.parse(shard)
        dataset_prompt = _dataset_prompt(chosen, task, prompts)
        arguments = chosen.arguments(dataset_prompt)
        chosen.check()
        inputs = _read_inputs(corpus, run, qrels, split, subset, top_k)
        inputs = inputs.only_judged_queries() if only_judged_queries else inputs
        inputs = inputs if queries is None else inputs.first_queries(queries)
        if queries_are_documents(corpus, task) if ignore_identical_ids is None else ignore_identical_ids:
            inputs, n_left_out = inputs.without_identical_ids()
            note(f"left out: {counted(n_left_out, 'candidate')} with their query's own id", quiet)
        if trace and chosen.cache is not None:
            note("--cache keeps no belief curves; with --trace every pair is judged anew", quiet)
        identity = jobs.identity(chosen)
        decisive = {"model": identity, **jobs.decisive(chosen, dataset_prompt)}
        provenance = jobs.provenance(context, identity, chosen.device, like, quiet)
        outcome = run_job(
            inputs,
            output,
            decisive,
            jobs.loading(chosen, arguments, output, quiet),
            shard=part,
            costs=lambda pairs: _costs(pairs, chosen, arguments),
            measures=measures,
            run_json=run_format is RunFormat.JSON,
            trace=bool(trace),
            tag=tag,
            only_run_queries=only_run_queries,
            show_progress=False if quiet else None,
            provenance=provenance,
        )
    print_outcome(outcome, output, as_json, quiet, part)


def _dataset_prompt(chosen: ModelOptions, task: str | None, prompts: Path | None) -> str | None:
    """The dataset prompt of `--task`."""
    from rank1_hf.files.dataset_prompts import built_in_prompts, dataset_prompt, read_prompts

    if task is None:
        if prompts is not None:
            raise InputError("--prompts needs --task, which says whose template to use")
        return None
    if chosen.prompt_template is not None:
        raise InputError("give --prompt-template or --task, not both")
    known = read_prompts(prompts) if prompts else built_in_prompts()
    template = dataset_prompt(known, *task.split("/", 1))
    if template is None:
        raise InputError(
            f"{prompts or 'this package'} has no dataset prompt for {task}: {must_be_one_of('--task', task, known)}"
        )
    return template


def _read_inputs(
    corpus: str, run: Path | None, qrels: Path | None, split: str | None, subset: str | None, top_k: int
) -> "Inputs":
    from rank1_hf.evaluation.candidates import Inputs, check_order, refuse_qrels
    from rank1_hf.files.entries import has_subsets
    from rank1_hf.files.records import check_documents
    from rank1_hf.files.sources import open_source
    from rank1_hf.files.trec import read_qrels, read_run

    candidates = read_run(run, split, subset) if run else None
    grades = read_qrels(qrels) if qrels else None
    # They may be the run's alone: a folder has no subsets.
    of_run = (split is not None or subset is not None) and run is not None and has_subsets(run)
    source = open_source(corpus, split, subset, of_run=of_run)
    grades = source.qrels() if grades is None else grades
    if candidates is None:
        candidates = source.run()
        check_order(candidates or {}, top_k, corpus)
    elif grades is not None:
        refuse_qrels(candidates, grades, f"--run {run}")
    if not candidates:
        raise InputError(
            f"there is nothing to rerank: {run or corpus} has no candidates" + ("" if run else "; give --run")
        )
    problems: list[InputError] = []
    queries = source.queries(problems.append)
    if problems and not queries:
        raise problems[0]
    check_documents(source.documents)
    return Inputs(source, queries, candidates, grades, top_k, problems)


def _costs(pairs: "Iterable[Pair]", chosen: ModelOptions, arguments: Mapping[str, Any]) -> list[int]:
    """About how many tokens each pair takes. `arguments` are those of `Rank1`."""
    from rank1_hf.models.loading import open_checkpoint
    from rank1_hf.prompts.markers import ContractError
    from rank1_hf.prompts.pair_encoder import PairEncoder
    from rank1_hf.prompts.shares import pair_costs

    try:
        checkpoint = open_checkpoint(chosen.model, **chosen.source())
        shared = {name: arguments[name] for name in _OF_PROMPTS if name in arguments}
        encoder = PairEncoder.of(checkpoint, template=arguments["prompt_template"], **shared)
    except ContractError as error:
        fail(str(error), options.BAD_MODEL)
    except ValueError as error:
        fail(str(error), options.BAD_INPUT)
    return pair_costs(pairs, encoder)


def print_outcome(
    outcome: "Outcome", output: Path, as_json: bool, quiet: bool, shard: "Shard | None" = None
) -> NoReturn:
    """Say what came of the job, or of one shard of it, and exit."""
    if outcome.stopped is not None:
        jobs.stop(outcome, quiet)
    if as_json:
        typer.echo(json.dumps(_facts(outcome)))
    elif outcome.metrics:
        options.plain_console().print(_table(outcome.metrics).to_rich())
    elif shard is not None:
        typer.echo(f"shard {shard} is finished; rank1-hf merge takes its folder and those of the others")
    elif not outcome.unmeasured:
        note("nothing is measured: the collection has no relevance judgments (qrels); give --qrels", quiet)
    for sentence in outcome.unmeasured:
        note(sentence)
    again = ", measured again" if outcome.metrics else ""
    nothing = f" (nothing was left to judge{again})" if outcome.was_finished else ""
    note(f"{outcome.n_scored} of {outcome.n_pairs} pairs have a score{nothing}; the results are in {output}", quiet)
    if problems := list(_problems(outcome)):
        note(f"{', '.join(problems)}: {output / 'errors.jsonl'} says why", quiet)
    raise typer.Exit(options.SOME_FAILED if outcome.n_failed else options.ALL_JUDGED)


def _problems(outcome: "Outcome") -> Iterator[str]:
    """What could not be judged and what could not be read, in words."""
    if outcome.n_failed:
        yield f"{counted(outcome.n_failed, 'pair')} could not be judged"
    if n := outcome.n_problems:
        yield f"{n} {'query or document' if n == 1 else 'queries and documents'} could not be read"


def _facts(outcome: "Outcome") -> dict[str, Any]:
    return jobs.counts(outcome) | {
        "metrics": [asdict(row) for row in outcome.metrics],
        "unmeasured": list(outcome.unmeasured),
        "notes": list(outcome.coverage),
    }


def _table(metrics: "Sequence[Comparison]") -> "Table":
    from rank1_hf.evaluation.comparison import NO_T_TEST, p_value
    from rank1_hf.viewing.tables import Table

    rows = []
    for row in metrics:
        figures = f"{row.before:.4f}", f"{row.after:.4f}", f"{row.after - row.before:+.4f}"
        rows.append((row.measure, *figures, p_value(row.p_value), str(row.n)))
    remark = NO_T_TEST if any(row.p_value is None for row in metrics) else ""
    return Table("Measures", ("measure", "before", "after", "difference", "p", "queries"), rows, note=remark)
