"""The command `rank1-hf plan`. As in `cli.py`, what takes seconds to import waits until it is needed."""

import shlex
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rank1_hf.commands import options
from rank1_hf.commands.options import BAD_INPUT, BAD_MODEL, fail, plain_console, print_json
from rank1_hf.models.spellings import quantization_kind
from rank1_hf.viewing.printable import counted, printable

if TYPE_CHECKING:
    from rank1_hf.models.cards import Gpu, Speed
    from rank1_hf.models.recommendation import Way

_WIDTH = 80
_OWNER = "jhu-clsp/"
_COLUMNS = (
    "weights: how they are stored, and what they take. reserve: what steps take besides, with the CUDA context and the "
    "10% that is left to others. KiB/token: of the KV cache. pairs: that decode together. pairs/min: at most. best: "
    "the largest model, in the least quantized way, with room for 32 pairs (else with most room), even if others are "
    "faster."
)


def plan(
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Its name (3060, 'RTX 4070 Ti', 'A100 40GB') or its memory (24GiB); list shows the names. "
            "Without it: the GPU of this machine."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Argument(help="A rank1 (rank1-7b), a hub name or a folder. Without it: the whole family.")
    ] = None,
    quantization: Annotated[str | None, typer.Option(help="8bit or 4bit. Without it: all three are shown.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="The length of a typical prompt.")] = 400,
    chain_tokens: Annotated[int, typer.Option(min=1, help="The length of a typical chain.")] = 300,
    as_json: options.JsonOption = False,
) -> None:
    """Say what fits on a GPU, and how fast it is at best.

    Nothing is loaded. For each model and quantization: whether it fits, how many pairs decode together, pairs a minute.

    The last lines say the best that fits (the largest model that leaves room for 32 pairs) and the fastest, each with
    a command to try it. The speed is a bound that no program reaches: the GPU's full memory bandwidth and full tensor
    throughput.
    """
    from rank1_hf.models import cards, planning, recommendation
    from rank1_hf.models.family import MEMBERS
    from rank1_hf.models.loading import CheckpointError, open_checkpoint

    if gpu is not None and gpu.lower() == "list":
        typer.echo(textwrap.fill(cards.known_gpus(), _WIDTH, break_long_words=False))
        return
    kind = quantization_kind(quantization)
    try:
        device = cards.parse_gpu(gpu) if gpu is not None else cards.gpu_here()
        planning.check_quantization(kind)
        names = [model] if model else list(MEMBERS)
        configs = {name: planning.family_config(name) or open_checkpoint(name).config for name in names}
        loadable = [(name, each) for name in names for each in planning.ways_to_load(configs[name])]
    except CheckpointError as error:
        fail(str(error), BAD_MODEL)
    except ValueError as error:
        fail(str(error), BAD_INPUT)
    if kind:
        loadable = [(name, each) for name, each in loadable if each == kind]
    if not loadable:
        fail(f"{model} is quantized already; leave --quantization out", BAD_INPUT)
    planned = device if device.speed else cards.typical(device)
    sizes = {name: planning.Size.of(config) for name, config in configs.items()}
    ways = [
        recommendation.Way.of(
            name,
            configs[name],
            planned,
            each,
            size=sizes[name],
            prompt_tokens=prompt_tokens,
            chain_tokens=chain_tokens,
        )
        for name, each in loadable
    ]
    candidates = ways if model else recommendation.candidates(ways)
    best, fastest = recommendation.best_that_fits(candidates), recommendation.fastest_that_fits(candidates)
    if as_json:
        for way in ways:
            about = {"model": way.model, "quantization": way.quantization, "fits": way.plan.fits}
            print_json({**about, **asdict(way.plan), "best": way is best, "fastest": way is fastest})
        return
    _print_plans(device, ways)
    assert planned.speed is not None  # its own, or a typical card's
    assumed = _assumptions(device, planned.speed, prompt_tokens, chain_tokens)
    typer.echo(textwrap.fill(_COLUMNS, _WIDTH) + "\n" + assumed)
    if best is None or fastest is None:
        typer.echo("\nnone of them fits" if len(ways) > 1 else "\nit does not fit")
        return
    typer.echo()
    for what, way in {"best": best, "fastest": fastest}.items():
        typer.echo(_answer(what, way, of_the_family=not model))


def _answer(what: str, way: "Way", *, of_the_family: bool) -> str:
    """Two lines: what it is, and what to type."""
    name = _short(way.model) if of_the_family else way.model
    kind = way.quantization or "16bit"
    together = f"{counted(way.plan.rows, 'pair')} together"
    speed = f"at most {way.plan.pairs_per_minute:,.0f} a minute"
    command = f"{options.program()} demo -m {shlex.quote(_full(way.model))}" + (
        f" --quantization {way.quantization}" if way.quantization in ("8bit", "4bit") else ""
    )
    return printable(f"{what}: {name}, {kind}: {together}, {speed}") + "\n    " + printable(command)


def _assumptions(device: "Gpu", speed: "Speed", prompt_tokens: int, chain_tokens: int) -> str:
    from rank1_hf.models.cards import GIB, other_sizes

    figures = f"{speed.bandwidth / 1e9:,.0f} GB/s and {speed.operations / 1e12:,.0f} TFLOPS"
    sentences = [
        f"Assumed: prompts of {prompt_tokens} tokens, chains of {chain_tokens}; nothing else on the GPU, 90% of its "
        f"{device.memory / GIB:g} GiB in use;",
        f"its full speed, {figures} in 16 bits by NVIDIA's data sheet."
        if device.speed
        else f"the full speed of a typical card of this size, {figures} in 16 bits, since the size alone tells none: "
        "name the card.",
    ]
    if others := other_sizes(device):
        names = " and ".join(each.name for each in others)
        sentences.append(f"This is the card with {device.memory // GIB} GiB; there is {names} too.")
    return textwrap.fill(" ".join(sentences), _WIDTH)


def _print_plans(gpu: "Gpu", ways: "list[Way]") -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=f"On {gpu.name}", title_justify="left")
    table.add_column("model", no_wrap=True, overflow="fold")
    table.add_column("weights", no_wrap=True)
    for heading in ("GiB", "reserve GiB", "KiB/token", "pairs", "pairs/min"):
        table.add_column(heading, justify="right")
    for way in ways:
        found, speed = way.plan, way.plan.pairs_per_minute
        table.add_row(
            printable(_short(way.model)),
            way.quantization or "16bit",
            f"{found.weights / 2**30:.1f}",
            f"{found.reserve / 2**30:.1f}",
            f"{found.kv_per_token / 2**10:.0f}",
            str(found.rows) if found.fits else "none",
            "" if speed is None else f"{speed:,.0f}",
        )
    plain_console().print(table)


def _short(model: str) -> str:
    return model.removeprefix(_OWNER)


def _full(model: str) -> str:
    """The name on the hub of a model of the family, which `plan` knows without its owner, too."""
    from rank1_hf.models.family import full_name

    return full_name(model) or model
