"""The command `rank1-hf info`. As in `cli.py`, what takes seconds to import waits until it is needed."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rank1_hf.commands import options
from rank1_hf.commands.options import BAD_INPUT, BAD_MODEL, fail, plain_console, print_json
from rank1_hf.prompts.markers import ContractError, Markers
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.viewing.printable import printable

if TYPE_CHECKING:
    import torch

    from rank1_hf.decoding.options import DecodingOptions
    from rank1_hf.models.loading import Checkpoint


def info(
    model: Annotated[
        str | None, typer.Argument(help="A hub name or a folder. Without it: the model that ships.")
    ] = None,
    revision: options.RevisionOption = None,
    subfolder: options.SubfolderOption = None,
    marker: options.MarkerOption = None,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    device: options.DeviceOption = None,
    batch_size: options.BatchOption = None,
    reproducible: options.ReproducibleOption = False,
    decoding: options.DecodingOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Say what a checkpoint is and how this machine would run it.

    That is: its shapes, whether its tokenizer meets the prompt contract, and the decoding options in force, with those
    that are given here.

    Weights are not loaded. Exits with 3 where the contract is not met, or what was named is no checkpoint.
    """
    from rank1_hf.models.devices import resolve_device, resolve_dtype
    from rank1_hf.models.loading import EMBEDDED_MODEL, CheckpointError, open_checkpoint
    from rank1_hf.models.quantization import quantization_config

    name = model or EMBEDDED_MODEL
    try:
        own = {} if batch_size is None else {"batch_size": batch_size}
        markers, engine_options = options.markers(marker), options.decoding(decoding, reproducible, own)
        checkpoint = open_checkpoint(name, revision=revision, subfolder=subfolder)
        target, asked = resolve_device(device), resolve_dtype(dtype)
        if (quantized := quantization_config(quantization, checkpoint.config, target)) is not None:
            checkpoint.config.quantization_config = quantized
        facts = {"model": str(name), **_architecture(checkpoint.config)}
        in_force = _in_force(checkpoint, engine_options, target, asked)
    except CheckpointError as error:
        fail(str(error), BAD_MODEL)
    except ValueError as error:
        fail(str(error), BAD_INPUT)
    contract = _contract(checkpoint.tokenizer, markers)
    if as_json:
        print_json({**facts, **contract, "decoding": asdict(in_force)})
    else:
        _print_facts({**facts, **contract})
        typer.echo("\ndecoding in force on this machine:\n" + str(in_force).replace(",", "\n"))
    if contract["contract_error"] is not None:
        fail(f"the tokenizer of {name} does not meet the prompt contract: {contract['contract_error']}", BAD_MODEL)


def _architecture(config: Any) -> dict[str, Any]:  # noqa: ANN401
    import torch

    from rank1_hf.models.loading import CheckpointError, context_length
    from rank1_hf.models.memory import kv_bytes_per_token, kv_heads
    from rank1_hf.models.planning import Size
    from rank1_hf.models.quantization import quantization_of

    n_parameters = Size.of(config).total
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        raise CheckpointError(f"{config.model_type!r} models have no attention heads; rank1_hf needs attention")
    dtype = config.dtype or torch.float32  # what Transformers takes where the config does not say
    return {
        "architecture": config.model_type,
        "parameters": n_parameters,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "attention_heads": heads,
        "kv_heads": kv_heads(config),
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": quantization_of(config),
        "context": context_length(config),
        "kv_bytes_per_token": kv_bytes_per_token(config, dtype),
    }


def _in_force(
    checkpoint: "Checkpoint", decoding: "DecodingOptions", device: "torch.device", asked: "torch.dtype | None"
) -> "DecodingOptions":
    """`Decoder.options` as they will be once the checkpoint is loaded on a device, in the dtype that was asked for if
    one was, from its shapes alone.

    A field is None where only loaded weights tell: on a GPU, the library of quantized layers is asked about each.

    Raises:
        CheckpointError: the decode loop cannot run its layers.
    """
    import torch
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    from transformers import AutoModelForCausalLM

    from rank1_hf.decoding.defaults import resolve
    from rank1_hf.models.dtypes import usable_dtype, warn_of_dtype
    from rank1_hf.models.memory import CPU_SHARE, kv_bytes_per_token
    from rank1_hf.models.planning import PLANNED, Size
    from rank1_hf.models.quantization import quantization_of
    from rank1_hf.reranking.checks import check_layers

    config = checkpoint.config
    usable = usable_dtype(asked, checkpoint.path, checkpoint.source, config, [device])
    warn_of_dtype(asked, usable, checkpoint.path, [device])
    dtype = usable or config.dtype or torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    check_layers(model)
    for module in (model.get_input_embeddings(), *model.base_model.layers):
        # As accelerate has a module whose weights are elsewhere until it computes.
        add_hook_to_module(module, AlignDevicesHook(device, offload=True, weights_map={}))
    found = resolve(decoding, model)
    quantization = quantization_of(config)
    if quantization is not None and device.type != "cpu":
        found = replace(found, batch_size=decoding.batch_size, step_overhead_tokens=decoding.step_overhead_tokens)
    if decoding.kv_cache_tokens is not None:
        return found
    if quantization not in (None, *PLANNED):
        return replace(found, kv_cache_tokens=None)
    assert found.kv_cache_tokens is not None
    weights = Size.of(config).n_bytes(dtype, quantization) * (1 if device.type == "cuda" else CPU_SHARE)
    left = found.kv_cache_tokens - int(weights / kv_bytes_per_token(config, dtype))
    return replace(found, kv_cache_tokens=max(left, 1))


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
        table.add_row(name.replace("_", " "), printable(_formatted(value)))
    plain_console().print(table)


def _formatted(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
