"""What the commands share: options, exit codes, what is said on stderr, and loading the model that the options name."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from rank1_hf.inputs import read_text
from rank1_hf.prompt import ContractError

if TYPE_CHECKING:
    from rank1_hf.reranker import Rank1

ALL_JUDGED, SOME_FAILED, BAD_INPUT, BAD_MODEL, NOT_WRITTEN, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143

EXIT_CODES = (
    "Exit codes: 0 every passage was judged; 1 some passages could not be judged (the others are shown); 2 bad "
    "usage or input; 3 the model cannot be loaded or its tokenizer does not fit; 130 interrupted (what was finished is "
    "shown)."
)

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A hub name or a checkpoint folder. Without it: a small demonstration model."),
]
BudgetOption = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="The most tokens thought about one passage.")
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="How many passages are thought about together. Default: what is fast."),
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16. Without it: the checkpoint's own.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cuda, cuda:1, mps, cpu, ... Without it: the fastest there is.")]
QuantizationOption = Annotated[
    str | None, typer.Option(help="8bit or 4bit: quantize the weights with bitsandbytes as they are read.")
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--prompt-template",
        help="A dataset prompt with FILL_QUERY_HERE, which stands in the query's place; or @FILE, which holds one.",
    ),
]
ReproducibleOption = Annotated[
    bool,
    typer.Option("--reproducible", help="The same bits for a passage whatever the others are; somewhat slower."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes on stderr.")]


# Escape sequences, and the marks that turn the direction of whatever is written after them; lone surrogates, which
# cannot be written at all. Line feeds and tabs stay.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text as a terminal may have it: no escape sequences, nothing that turns the direction of what follows."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Printable text without line breaks."""
    return printable(" ".join(text.split()))


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


def note(message: str, quiet: bool = False) -> None:
    """Say something on stderr."""
    if not quiet and speaks():
        typer.echo(f"rank1-hf: {message}", err=True)


def plain_console() -> Console:
    """A console that prints text as it is."""
    return Console(markup=False, highlight=False, emoji=False)


def template_text(option: str | None) -> str | None:
    """The template that `--prompt-template` names.

    Raises:
        InputError: its file cannot be read.
    """
    if option is None or not option.startswith("@"):
        return option
    return read_text(Path(option[1:])).rstrip("\r\n")


def load(model: str | None, quiet: bool = False, **options: Any) -> "Rank1":  # noqa: ANN401
    """Load a model, or end the command with what is wrong with it."""
    import torch

    from rank1_hf.loading import CheckpointError
    from rank1_hf.reranker import Rank1

    if model is None:
        note("rank1-tiny, which ships with the package, is a demonstration model, not a reranker to use", quiet)
    try:
        return Rank1(model, num_gpus=n_processes(), **options)
    except (CheckpointError, ContractError) as error:
        fail(str(error), BAD_MODEL)
    except torch.OutOfMemoryError:
        fail(f"the device has not enough memory for {model}; try --dtype bfloat16 or --device cpu", BAD_MODEL)
    except ValueError as error:
        fail(str(error), BAD_INPUT)
