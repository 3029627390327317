"""The command line: rerank and demo; each other command is in a file of its own.

What is read and said happens here, what is thought elsewhere. torch and transformers are imported inside the commands,
so that `--help` and errors in the input come at once. Text from documents and models is data: it reaches the terminal
without control characters and is never read as markup.
"""

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rank1_hf import __version__
from rank1_hf.commands import judging
from rank1_hf.commands.compare import compare
from rank1_hf.commands.demo import demo
from rank1_hf.commands.evaluate import evaluate
from rank1_hf.commands.explain import explain
from rank1_hf.commands.info import info
from rank1_hf.commands.judge import judge
from rank1_hf.commands.measure import measure
from rank1_hf.commands.merge import merge
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.commands.options import (
    BAD_INPUT,
    EXIT_CODES,
    DocumentsArgument,
    FileOption,
    FormatOption,
    JsonOption,
    QuietOption,
    fail,
    note,
    plain_console,
    print_json,
    speaks,
)
from rank1_hf.commands.plan import plan
from rank1_hf.commands.serve import serve
from rank1_hf.commands.verify import EXIT_CODES as VERIFY_EXIT_CODES
from rank1_hf.commands.verify import verify
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.prompts.pair_text import PairError, query_text
from rank1_hf.results.judgment import Judgment, ranking_key
from rank1_hf.viewing.printable import printable, start

app = typer.Typer(
    epilog=EXIT_CODES,
    rich_markup_mode=None,  # rich cuts long names of options on a narrow terminal
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rank1-hf {__version__}")
        raise typer.Exit


@app.callback()
def rank1_hf(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Rerank passages with rank1 reasoning models on plain Hugging Face Transformers."""


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to stop
    if not speaks():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    app(prog_name="rank1-hf")


# ---- rerank ----------------------------------------------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
@takes_model_options()
def rerank(
    chosen: ModelOptions,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The query.")],
    documents: DocumentsArgument = None,
    file: FileOption = None,
    file_format: FormatOption = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="Show only the K best.")] = None,
    show_chain: Annotated[
        bool, typer.Option("--show-chain", help="Show whole chains, not only how they begin.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank passages by their relevance to a query.

    With --json, an object a line, best first: rank, index (the place in the input), id, title, text, score, log_odds,
    label, chain, n_prompt_tokens, n_chain_tokens, ended, truncated, error, cached. A passage without a score comes
    last, with its error and no rank.
    """
    try:
        asked, arguments = query_text(query), chosen.arguments()
        passages = list(judging.read_passages(documents or [], file, file_format))
    except (InputError, PairError) as error:
        fail(str(error), BAD_INPUT)
    if not passages:
        note("there are no passages to rank", quiet)
        return
    reranker = chosen.load(quiet, **arguments)
    outcome = judging.judge(reranker, [(asked, passage.passage) for passage in passages], quiet)
    ranking = Ranking.of(outcome.judgments, top_k)
    if as_json:
        _print_json(ranking, passages)
    else:
        _print_ranking(ranking, passages, whole_chain=show_chain)
    judging.finish(outcome, quiet)


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
        print_json({"rank": rank, **judgment.to_dict(), **given})


# ---- commands with a file of their own -------------------------------------------------------------------------------

app.command()(demo)
app.command()(info)
app.command()(plan)
app.command(epilog=f"{EXIT_CODES} evaluate: 4 the output cannot be written; 143 terminated.")(evaluate)
app.command(epilog=f"{EXIT_CODES} judge: 4 the output cannot be written; 143 terminated.")(judge)
app.command(
    epilog="Exit codes: 0 merged; 1 some pairs have no score; 2 bad usage, or shards that do not belong together; 4 "
    "the output cannot be written; 130 interrupted."
)(merge)
app.command(
    epilog="Exit codes: 0 compared; 2 bad usage or input; 3 there is no such tokenizer; 4 the page cannot be written."
)(compare)
app.command(epilog="Exit codes: 0 measured; 2 bad usage or input.")(measure)
app.command(epilog=f"{EXIT_CODES} explain: 4 the page cannot be written.")(explain)
app.command(epilog=VERIFY_EXIT_CODES)(verify)
app.command(epilog="Exit codes: 0 stopped; 2 bad usage, or the address is taken; 3 the model cannot be loaded.")(serve)
