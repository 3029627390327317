"""The command line: rerank, info, plan, demo; evaluate, explain and serve are each in a `command.py` of their own.

What is read and said happens here, what is thought elsewhere. torch and transformers are imported inside the commands,
so that `--help` and errors in the input come at once. Text from documents and models is data: it reaches the terminal
without control characters and is never read as markup.
"""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rank1_hf.commands import options
from rank1_hf.commands.evaluate import evaluate
from rank1_hf.commands.explain import explain
from rank1_hf.commands.options import (
    BAD_INPUT,
    BAD_MODEL,
    EXIT_CODES,
    BatchOption,
    BudgetOption,
    DeviceOption,
    DocumentsArgument,
    DtypeOption,
    FileOption,
    FormatOption,
    InstructionOption,
    JsonOption,
    MarkerOption,
    ModelOption,
    QuantizationOption,
    QuietOption,
    ReproducibleOption,
    TemplateOption,
    fail,
    load,
    note,
    plain_console,
    speaks,
    template_text,
)
from rank1_hf.commands.serve import serve
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.prompts.markers import ContractError, Markers
from rank1_hf.prompts.prompt import PairError, PromptEncoder, query_text
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.printable import printable, start

N_SHOWN_QUERIES, N_SHOWN_PASSAGES = 2, 5  # of the demo; all are measured

app = typer.Typer(
    help="Rerank passages with rank1 reasoning models on plain Hugging Face Transformers.",
    epilog=EXIT_CODES,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to stop
    if not speaks():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    app(prog_name="rank1-hf")


# ---- rerank ----------------------------------------------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
def rerank(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is searched for.")],
    documents: DocumentsArgument = None,
    file: FileOption = None,
    file_format: FormatOption = None,
    model: ModelOption = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="Show only the best so many.")] = None,
    max_new_tokens: BudgetOption = None,
    batch_size: BatchOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    quantization: QuantizationOption = None,
    prompt_template: TemplateOption = None,
    instruction: InstructionOption = None,
    marker: MarkerOption = None,
    reproducible: ReproducibleOption = False,
    show_chain: Annotated[
        bool, typer.Option("--show-chain", help="Show all that was thought, not only a start.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank passages by their relevance to a query.

    With --json, an object a line, best first: rank, index (the place in the input), id, title, text, score, log_odds,
    label, chain, n_prompt_tokens, n_chain_tokens, ended, truncated, error. A passage without a score comes last, with
    its error and no rank.
    """
    try:
        asked = query_text({"text": query, "instruction": instruction})
        template, markers = template_text(prompt_template), options.markers(marker)
        passages = list(options.read_passages(documents or [], file, file_format))
    except (InputError, PairError) as error:
        fail(str(error), BAD_INPUT)
    if not passages:
        note("there are no passages to rank", quiet)
        return
    reranker = load(
        model,
        quiet,
        dtype=dtype,
        device=device,
        quantization=quantization,
        max_new_tokens=max_new_tokens,
        prompt_template=template,
        markers=markers,
        reproducible=reproducible,
    )
    outcome = options.judge(reranker, [(asked, passage.passage) for passage in passages], batch_size, quiet)
    ranking = Ranking.of(outcome.judgments, top_k)
    if as_json:
        _print_json(ranking, passages)
    else:
        _print_ranking(ranking, passages, whole_chain=show_chain)
    options.finish(outcome, quiet)


# ---- printing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranking:
    """Judgments with a score, best first, and those without one."""

    best: list[Judgment]
    failed: list[Judgment]

    @classmethod
    def of(cls, judgments: Sequence[Judgment], top_k: int | None = None) -> "Ranking":
        """Sort judgments; of those with a score the best `top_k` are kept."""
        ordered = sorted(judgments, key=ranking_key)
        failed = [judgment for judgment in ordered if judgment.error is not None]
        return cls(ordered[: len(ordered) - len(failed)][:top_k], failed)


def _print_ranking(ranking: Ranking, documents: Sequence[Document], *, whole_chain: bool = False) -> None:
    console = plain_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, numeric in (("rank", True), ("score", True), ("tokens", True), ("chain", False), ("passage", False)):
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for rank, judgment in enumerate(ranking.best, start=1):
        chain = printable(judgment.chain.strip()) if whole_chain else start(judgment.chain, 120)
        passage = start(_title_and_text(documents[judgment.index]), 100)
        table.add_row(str(rank), f"{judgment.score:.4f}", str(judgment.n_chain_tokens), chain, passage)
    if ranking.best:
        console.print(table)
    for judgment in ranking.failed:
        passage = start(_title_and_text(documents[judgment.index]), 40)
        reason = printable(judgment.error or "")
        console.print(f"not judged: passage {judgment.index + 1} ({passage}): {reason}", soft_wrap=True)


def _title_and_text(document: Document) -> str:
    return f"{document.title} {document.text}"


def _print_json(ranking: Ranking, documents: Sequence[Document]) -> None:
    for rank, judgment in [*enumerate(ranking.best, start=1), *((None, judgment) for judgment in ranking.failed)]:
        document = documents[judgment.index]
        given = {"id": document.id or None, "title": document.title or None, "text": document.text}
        _print_json_line({"rank": rank, **judgment.to_dict(), **given})


def _print_json_line(value: dict[str, Any]) -> None:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    typer.echo(line.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes \udXXX, which is JSON's own escape


# ---- info ------------------------------------------------------------------------------------------------------------


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(help="A hub name or a folder. Without it: the model that ships.")
    ] = None,
    marker: MarkerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a checkpoint is and whether its tokenizer meets the prompt contract, without loading its weights.

    Exits with 3 where it does not, or is no checkpoint.
    """
    from rank1_hf.models.loading import EMBEDDED_MODEL, CheckpointError, open_checkpoint

    name = model or EMBEDDED_MODEL
    try:
        markers = options.markers(marker)
        checkpoint = open_checkpoint(name)
        facts = {"model": str(name), **_architecture(checkpoint.config)}
    except CheckpointError as error:
        fail(str(error), BAD_MODEL)
    except InputError as error:
        fail(str(error), BAD_INPUT)
    contract = _contract(checkpoint.tokenizer, markers)
    if as_json:
        _print_json_line({**facts, **contract})
    else:
        _print_facts({**facts, **contract})
    if contract["contract_error"] is not None:
        fail(f"the tokenizer of {name} does not meet the prompt contract: {contract['contract_error']}", BAD_MODEL)


def _architecture(config: Any) -> dict[str, Any]:  # noqa: ANN401
    import torch

    from rank1_hf.models.loading import CheckpointError, context_length
    from rank1_hf.models.memory import kv_bytes_per_token
    from rank1_hf.models.planning import Size
    from rank1_hf.models.quantization import stored_quantization

    n_parameters = Size.of(config).total
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        raise CheckpointError(f"{config.model_type!r} models have no attention heads; rank1_hf needs attention")
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    dtype = config.dtype or torch.float32  # what Transformers takes where the config does not say
    return {
        "architecture": config.model_type,
        "parameters": n_parameters,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "attention_heads": heads,
        "kv_heads": kv_heads,
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": stored_quantization(config),
        "context": context_length(config),
        "kv_bytes_per_token": kv_bytes_per_token(config, dtype),
    }


def _contract(tokenizer: Any, markers: Markers) -> dict[str, Any]:  # noqa: ANN401
    try:
        encoder = PromptEncoder(tokenizer, markers=markers)
    except ContractError as error:
        return {"contract_error": str(error)}
    return {
        "think_ids": encoder.think_ids,
        "close_ids": encoder.close_ids,
        "true_id": encoder.true_id,
        "false_id": encoder.false_id,
        "bos_ids": encoder.bos_ids,
        "contract_error": None,
    }


def _print_facts(facts: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), printable(_said(value)))
    plain_console().print(table)


def _said(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)


# ---- plan ------------------------------------------------------------------------------------------------------------


@app.command()
def plan(
    gpu: Annotated[
        str | None, typer.Option(help="Its memory (24GiB) or its name (RTX4090). Without it: the GPU of this machine.")
    ] = None,
    model: Annotated[
        str | None, typer.Argument(help="A rank1 (rank1-7b), a hub name or a folder. Without it: the whole family.")
    ] = None,
    quantization: Annotated[str | None, typer.Option(help="8bit or 4bit. Without it: all three are shown.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="The length of a typical prompt.")] = 400,
    chain_tokens: Annotated[int, typer.Option(min=1, help="The length of a typical chain.")] = 300,
    as_json: JsonOption = False,
) -> None:
    """Say what fits on a GPU, how many pairs decode together there, and how fast that is at best, without loading it.

    The speed is a bound that no program reaches: the GPU's full memory bandwidth and full tensor throughput.
    """
    from rank1_hf.models import cards, planning
    from rank1_hf.models.family import AWQ_FAMILY, FAMILY, RELATIVES
    from rank1_hf.models.loading import CheckpointError, open_checkpoint

    try:
        device = cards.parse_gpu(gpu) if gpu else cards.gpu_here()
        planning.check_quantization(quantization)
        names = [model] if model else [*FAMILY, *AWQ_FAMILY, *RELATIVES]
        configs = {name: planning.family_config(name) or open_checkpoint(name).config for name in names}
        ways = [(name, kind) for name in names for kind in planning.ways_to_load(configs[name])]
    except CheckpointError as error:
        fail(str(error), BAD_MODEL)
    except ValueError as error:
        fail(str(error), BAD_INPUT)
    if quantization:
        ways = [(name, kind) for name, kind in ways if kind == quantization]
    if not ways:
        fail(f"{model} is quantized already; leave --quantization out", BAD_INPUT)
    rows = []
    sizes = {name: planning.Size.of(config) for name, config in configs.items()}
    for name, kind in ways:
        found = planning.plan(
            configs[name],
            device,
            size=sizes[name],
            quantization=kind,
            prompt_tokens=prompt_tokens,
            chain_tokens=chain_tokens,
        )
        rows.append({"model": name, "quantization": kind, "fits": found.fits, **asdict(found)})
    largest = planning.largest_that_fits(device, prompt_tokens=prompt_tokens, chain_tokens=chain_tokens)
    if as_json:
        for row in rows:
            _print_json_line({**row, "largest_that_fits": largest})
    else:
        _print_plans(device.name, rows)
        typer.echo(f"the largest rank1 that fits: {'none' if largest is None else _named(*largest)}")
        if device.speed is None:
            typer.echo(f"for a bound on the speed name the GPU: {cards.known_gpus()}")


def _named(model: str, quantization: str | None) -> str:
    return f"{model} {f'with quantization={quantization!r}' if quantization else 'as it is'}"


def _print_plans(gpu: str, rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=f"On {gpu}", title_justify="left")
    table.add_column("model", no_wrap=True, overflow="fold")
    for heading in ("weights", "GiB", "reserve GiB", "KV KiB a token", "pairs together", "a minute, at most"):
        table.add_column(heading, justify="right")
    for row in rows:
        speed = row["pairs_per_minute"]
        table.add_row(
            printable(row["model"]).removeprefix("jhu-clsp/"),
            row["quantization"] or "16bit",
            f"{row['weights'] / 2**30:.1f}",
            f"{row['reserve'] / 2**30:.1f}",
            f"{row['kv_per_token'] / 2**10:.0f}",
            str(row["rows"]) if row["fits"] else "none",
            "" if speed is None else f"{speed:,.0f}",
        )
    plain_console().print(table)


# ---- demo ------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    n_queries: Annotated[int | None, typer.Option("--queries", min=1, help="Only the first so many queries.")] = None,
    model: ModelOption = None,
    max_new_tokens: BudgetOption = 256,
    batch_size: BatchOption = None,
) -> None:
    """Rerank the sample of Cranfield that ships with the package, and measure it against BM25's order."""
    try:
        from rank1_hf.evaluation.metrics import ndcg
    except ImportError as error:
        fail(str(error), BAD_INPUT)
    from rank1_hf.files.beir import SAMPLE, read_beir
    from rank1_hf.files.trec import read_run

    collection = read_beir(SAMPLE)
    before = dict(islice(read_run(SAMPLE / "bm25.trec").items(), n_queries))
    candidates = [(query, document) for query, scores in before.items() for document in scores]
    documents = [collection.corpus[document] for _, document in candidates]
    pairs = [(collection.queries[query], collection.corpus[document].passage) for query, document in candidates]
    outcome = options.judge(load(model, max_new_tokens=max_new_tokens), pairs, batch_size)

    console = plain_console()
    judged: dict[str, list[Judgment]] = {query: [] for query in before}
    for judgment in outcome.judgments:
        judged[candidates[judgment.index][0]].append(judgment)
    for query in islice(judged, N_SHOWN_QUERIES):
        console.print(f"\nQuery: {collection.queries[query]}")
        _print_ranking(Ranking.of(judged[query], N_SHOWN_PASSAGES), documents)
    if not outcome.interrupted:
        after = {query: _scores_by_rank(judgments, documents) for query, judgments in judged.items()}
        qrels = {query: collection.qrels[query] for query in before}
        console.print(f"\nnDCG@10 (queries: {len(qrels)}, passages: {len(pairs)})")
        console.print(f"  BM25      {ndcg(qrels, before):.4f}\n  reranked  {ndcg(qrels, after):.4f}")
    options.finish(outcome)


def _scores_by_rank(judgments: list[Judgment], documents: Sequence[Document]) -> dict[str, float]:
    """Scores that say the order and nothing else, so that a metric breaks ties as the ranking does."""
    ordered = sorted(judgments, key=ranking_key)
    return {documents[judgment.index].id: -float(rank) for rank, judgment in enumerate(ordered)}


# ---- commands with a file of their own -------------------------------------------------------------------------------

app.command(epilog=f"{EXIT_CODES} evaluate: 4 the output cannot be written; 143 terminated.")(evaluate)
app.command(epilog=f"{EXIT_CODES} explain: 4 the page cannot be written.")(explain)
app.command(epilog="Exit codes: 0 stopped; 2 bad usage, or the address is taken; 3 the model cannot be loaded.")(serve)
