"""The command `rank1-hf plan`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from rank1_hf.commands import options
from rank1_hf.commands.options import BAD_INPUT, BAD_MODEL, fail, plain_console, print_json
from rank1_hf.viewing.printable import printable


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
    as_json: options.JsonOption = False,
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
            print_json({**row, "largest_that_fits": largest})
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
