"""What the commands share: options, exit codes, what is said on stderr, loading a model."""

import json
import os
import shlex
import shutil
import sysconfig
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from rank1_hf.decoding.options import FIELDS, DecodingOptions
from rank1_hf.files.inputs import InputError, read_text
from rank1_hf.prompts.markers import ContractError, Markers
from rank1_hf.prompts.prompt import check_template
from rank1_hf.viewing.printable import one_line

if TYPE_CHECKING:
    from rank1_hf.files.sources import Source
    from rank1_hf.reranker import Rank1
    from rank1_hf.reranking.score_cache import ScoreCache

ALL_JUDGED, SOME_FAILED, BAD_INPUT, BAD_MODEL, NOT_WRITTEN, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143

EXIT_CODES = (
    "Exit codes: 0 every passage was judged; 1 some passages could not be judged (the others are shown); 2 bad "
    "usage or input; 3 the model cannot be loaded or its tokenizer does not fit; 130 interrupted (what was finished is "
    "shown)."
)

DocumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="DOC", help="The passages. Without them and --file: stdin, a passage a line."),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        dir_okay=False,
        help="Read the passages from a .txt (a line each), a .jsonl (a string or an object with text, and optional "
        "title and id, a line), or a .csv or .tsv (columns text, and optional title and id, named in the first line); "
        "gzipped or not.",
    ),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="txt, jsonl, csv or tsv: what stdin or a file of another name holds.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A hub name or a checkpoint folder. Without it: a small demonstration model."),
]
RevisionOption = Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub repository.")]
SubfolderOption = Annotated[str | None, typer.Option(help="Where in the repository or folder the checkpoint is.")]
BudgetOption = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        help="The token budget: the most tokens a chain may have. Default: 8192, or half of a smaller context; in demo "
        "256.",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="The most pairs that decode together. Default: chosen for the device and the model. Short for --decoding "
        "batch_size=N; another number there is refused.",
    ),
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, float16 (fp16, half) or bfloat16 (bf16). Without it: the checkpoint's own.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cuda, cuda:1, mps, cpu, ... Without it: the fastest there is.")]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        help="8bit (int8) or 4bit (nf4): quantize the weights with bitsandbytes as they are read. The download is the "
        "whole checkpoint all the same."
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--prompt-template",
        help="A dataset prompt with FILL_QUERY_HERE, which stands in the query's place; or @FILE, which holds one.",
    ),
]
MarkerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--marker",
        help="NAME=TEXT for a model whose chain or answers are marked in its own way: think=, close=, wait=, true= or "
        "false=, spaces included, as in --marker 'true= yes' --marker 'false= no'.",
    ),
]
ReproducibleOption = Annotated[
    bool,
    typer.Option(
        "--reproducible",
        help="A passage gets the same score, bit for bit, whatever else is in the batch, for one batch size; somewhat "
        "slower. Short for --decoding reproducible=on.",
    ),
]
DecodingOption = Annotated[
    str | None,
    typer.Option(
        "--decoding",
        metavar="NAME=VALUE,...",
        help=f"How chains are decoded, as in speculate=off,batch_size=32: {', '.join(FIELDS)}. rank1-hf info, "
        "which takes this and the options of dtype, quantization and device, shows what is then in force.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="FILE",
        help="Keep judgments in this file, and take from it those whose prompt, weights and options are the same. "
        "Several processes of one machine may share it.",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN",
        help="Where rows have something under a name of their own: a column, or a path as in passage=doc.text. NAME is "
        "query, passage, title or instruction.",
    ),
]
MeasureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        "--measures",
        help="What to measure, as ir_measures or trec_eval names it; may be given several times. Without it nDCG@10, "
        "RR@10, AP, R@10 and R@100.",
    ),
]
OnlyRunQueriesOption = Annotated[
    bool,
    typer.Option(
        "--only-run-queries",
        help="Leave queries of the qrels that are not in the run out of the measures, as trec_eval does. Without it "
        "they count as 0, as with trec_eval -c.",
    ),
]
SubsetOption = Annotated[
    str | None,
    typer.Option(
        help="The subset of a dataset (in evaluate also of MTEB's predictions) where there are several: fas for "
        "mFollowIR."
    ),
]
QRELS_HELP = "Relevance judgments (qrels): TREC, BEIR, JSON, JSONL, CSV or TSV."
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes on stderr.")]


class TableFormat(StrEnum):
    """What tables are printed as."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"


def program() -> str:
    """What runs this program from a shell here: `rank1-hf`, or the path to it where PATH has none or another."""
    folder = sysconfig.get_path("scripts")
    own, found = shutil.which("rank1-hf", path=folder), shutil.which("rank1-hf")
    if own is None or (found is not None and Path(found).samefile(own)):
        return "rank1-hf"
    with suppress(ValueError):  # Windows: another drive
        own = min(own, f"{os.path.relpath(folder)}{os.sep}{Path(own).name}", key=len)
    return shlex.quote(own)


def n_processes() -> int:
    """How many processes `accelerate launch` has started; each has this very command line."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def speaks() -> bool:
    """Whether this is the one of them that says what all have found."""
    return n_processes() == 1 or os.environ.get("RANK") == "0"


def fail(message: str, code: int) -> NoReturn:
    """End the command with a sentence on stderr."""
    typer.echo(f"rank1-hf: {one_line(message)}", err=True)
    raise typer.Exit(code)


def check_files(*paths: Path | None) -> None:
    """End the command where a file that it is going to read is not there, before anything is imported for that."""
    for path in paths:
        if path is not None and not path.exists():
            fail(f"cannot read {path}: No such file or directory", BAD_INPUT)


def note(message: str, quiet: bool = False) -> None:
    """Say something on stderr."""
    if not quiet and speaks():
        typer.echo(f"rank1-hf: {message}", err=True)


def plain_console() -> Console:
    """A console that prints text as it is."""
    return Console(markup=False, highlight=False, emoji=False)


def print_json(value: dict[str, Any]) -> None:
    """One line of JSON on stdout."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    typer.echo(line.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes \udXXX, which is JSON's own escape


def template_text(option: str | None) -> str | None:
    """The template that `--prompt-template` names.

    Raises:
        InputError: its file cannot be read, or it has no place for the query.
    """
    if option is None:
        return None
    template = read_text(Path(option[1:])).rstrip("\r\n") if option.startswith("@") else option
    try:
        check_template(template)
    except ValueError as error:
        raise InputError(str(error)) from error
    return template


def markers(given: list[str] | None) -> Markers:
    """What `--marker` says.

    Raises:
        InputError: it names no marker.
    """
    known = [field.name for field in fields(Markers)]
    named = {}
    for one in given or []:
        name, _, text = one.partition("=")
        if name not in known or not text:
            raise InputError(f"--marker takes NAME=TEXT, where NAME is one of {', '.join(known)}, not {one!r}")
        named[name] = text
    return Markers(**named)


def mapped(given: list[str] | None, known: Collection[str]) -> dict[str, str]:
    """What `--map` says: the field or column of each name.

    Raises:
        InputError: one is no NAME=FIELD, or names nothing that is known.
    """
    found = {}
    for one in given or []:
        name, _, field = one.partition("=")
        if not field:
            raise InputError(f"--map takes NAME=FIELD, not {one!r}")
        if name not in known:
            raise InputError(f"there is no {name!r} to map a field to; there are {', '.join(known)}")
        found[name] = field
    return found


def decoding(given: str | None, reproducible: bool = False, own: Mapping[str, Any] | None = None) -> DecodingOptions:
    """What `--decoding` says, and the options that are fields of it too.

    Args:
        given: `--decoding`.
        reproducible: `--reproducible`.
        own: the values of others that were given, by the names of the fields.

    Raises:
        InputError: `--decoding` names no option, gives one a value that makes no sense, or contradicts another option.
    """
    own = {**(own or {}), **({"reproducible": "on"} if reproducible else {})}
    first = [f"{name}={value}" for name, value in own.items()]
    try:
        wanted, chosen = DecodingOptions.parse(",".join(first)), DecodingOptions.parse(",".join([*first, given or ""]))
    except ValueError as error:
        raise InputError(f"--decoding: {error}") from error
    for name in own:
        if getattr(chosen, name) != getattr(wanted, name):
            option = f"--{name}".replace("_", "-")
            in_text = next(part for part in str(chosen).split(",") if part.startswith(f"{name}="))
            raise InputError(f"{option} contradicts --decoding {in_text}; leave one of them out")
    return chosen


def score_cache(file: Path | None) -> "ScoreCache | None":
    """What `--cache` names.

    Raises:
        InputError: the file is no score cache, or cannot be used.
    """
    from rank1_hf.reranking.score_cache import CacheError, ScoreCache

    try:
        return None if file is None else ScoreCache(file)
    except CacheError as error:
        raise InputError(str(error)) from error


def open_corpus(corpus: str | None, subset: str | None) -> "Source | None":
    """The collection of `--corpus` and `--subset`; None: there is none.

    Raises:
        InputError: it cannot be read, or has no such subset.
    """
    from rank1_hf.files.sources import open_source

    if corpus is not None:
        return open_source(corpus, subset=subset)
    if subset is not None:
        raise InputError("--subset is one of the collection's: give --corpus, too")
    return None


def load(model: str | None, quiet: bool = False, **options: Any) -> "Rank1":  # noqa: ANN401
    """Load a model, or end the command with what is wrong with it."""
    import torch
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from rank1_hf.models.loading import CheckpointError
    from rank1_hf.reranker import Rank1

    if quiet or not speaks():
        disable_progress_bars()  # of downloads
    if model is None:
        note("rank1-tiny, which ships with the package, is a demonstration model, not a reranker to use", quiet)
    try:
        return Rank1(model, num_gpus=n_processes(), **options)
    except (CheckpointError, ContractError) as error:
        fail(str(error), BAD_MODEL)
    except torch.OutOfMemoryError:
        fail(
            f"the device has not enough memory for {model or 'rank1-tiny'}; try --quantization 4bit or a smaller model "
            "(rank1-hf plan lists what fits)",
            BAD_MODEL,
        )
    except ValueError as error:
        fail(str(error), BAD_INPUT)
