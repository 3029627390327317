"""Checkpoint -> (model, tokenizer): where it comes from, its dtype and its device.

Nothing from a checkpoint is executed: remote code is off, and weights come from safetensors. Pickles are read
only where that is asked for, and then as tensors and nothing else.
"""

import contextlib
import copy
import importlib.util
import io
import json
import logging
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from rich.filesize import decimal
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, has_file
from transformers.utils import logging as transformers_logging

from rank1_hf.models.cards import has_bfloat16
from rank1_hf.models.devices import check_devices, memory_limits, possible_devices, resolve_device, resolve_dtype
from rank1_hf.models.dtypes import compute_in_float16, overflown_weight, usable_dtype, warn_of_dtype
from rank1_hf.models.hub import CheckpointError as CheckpointError  # one of this module's names, too
from rank1_hf.models.hub import bytes_to_download, check_available, is_hub_name, is_there, with_home
from rank1_hf.models.placement import keep_layer_hooks, offloaded_bytes
from rank1_hf.models.quantization import Quantization, quantization_config, stored_quantization

logger = logging.getLogger(__name__)

EMBEDDED_MODEL = Path(__file__).parents[1] / "assets" / "rank1-tiny"
"""The checkpoint that ships with the package: a demonstration and test model."""

_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
_WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")  # the second only where pickles are allowed
_TO_GPU, _FROM_DISK = 25e9, 3e9  # bytes a second, about: PCIe 4.0 x16, an NVMe disk


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known of a checkpoint before its weights are read, so that errors come at once.

    Attributes:
        path: a hub name or a folder.
        source: where in it the files are, and how the hub is asked for them: the arguments of `from_pretrained`.
        config: its config; a causal LM's.
        tokenizer: its tokenizer.
        pickles: whether weights may also come from `.bin` files.
    """

    path: str | Path
    source: Mapping[str, Any] = field(repr=False)  # the token is in it
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    pickles: bool = False


def open_checkpoint(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    allow_pickles: bool = False,
) -> Checkpoint:
    """Read a checkpoint's config and tokenizer from the hub, a local folder, or (None) the package.

    Args:
        name: a hub name, a folder (~ is the home folder), or None.
        revision: a branch, tag or commit of the hub repository.
        subfolder: where in the repository or folder the checkpoint is.
        token: the hub's access token, for private repositories; None: the one you logged in with, if any. White space
            around it, as files have it, is left out.
        allow_pickles: take weights from `.bin` files where there are no safetensors. What else than tensors is in them
            is refused by PyTorch (`weights_only`), so no code of theirs is run even then.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete, wants code of its own to run, has no safetensors, or is
            not a causal LM that rank1_hf can decode.
        ValueError: the token is none.
    """
    path = EMBEDDED_MODEL if name is None else with_home(name)
    source: dict[str, Any] = {"revision": revision, "subfolder": subfolder or "", "token": _checked_token(token)}
    _check_folder(path, subfolder or "", allow_pickles)
    if check_available(path, subfolder=subfolder):
        source["local_files_only"] = True
    with _only_errors():
        with _explained(path, "config"):
            _check_code(path, source)
            config = AutoConfig.from_pretrained(path, **source, trust_remote_code=False)
        _check_architecture(path, config)
        with _explained(path, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(path, **source, trust_remote_code=False)
    return Checkpoint(path, source, config, tokenizer, allow_pickles)


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    quantization: Quantization | None = None,
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[int | str, int | str] | None = None,
) -> PreTrainedModel:
    """Load a checkpoint's weights. The model is in eval mode, on its device or devices.

    Args:
        checkpoint: what `open_checkpoint` gave.
        dtype: "float32", "float16", "bfloat16" or a torch dtype; None: the checkpoint's own, but float16 for a bfloat16
            one on a GPU without bfloat16.
        device: None: CUDA, MPS or CPU, the first there is.
        quantization: quantize the weights as they are read; see `quantization_config`.
        device_map: how accelerate spreads the layers over devices: "auto", "balanced", "sequential", or a device for
            each module ("cpu" and "disk" among them, slow). None: all on `device`, or "auto" with `max_memory`.
        max_memory: the most that may be used of each device for weights, as in {0: "10GiB", "cpu": "30GiB"}; see
            `rank1_hf.models.devices.n_bytes` for how a size may be written.

    Raises:
        CheckpointError: the weights cannot be read, or are AWQ weights and gptqmodel is not installed.
        ValueError: dtype, device, quantization, device_map or max_memory is not usable here.
    """
    asked, target = resolve_dtype(dtype), resolve_device(device)
    if device is not None and (device_map is not None or max_memory is not None):
        raise ValueError("give either device or device_map and max_memory, not both")
    limits = memory_limits(max_memory)
    check_devices([*(device_map.values() if isinstance(device_map, Mapping) else []), *(limits or {})])
    placement = device_map or ("auto" if limits else {"": target})
    quantized = quantization_config(quantization, checkpoint.config, target)
    devices = possible_devices(target, is_spread=bool(device_map or max_memory))
    torch_dtype = usable_dtype(asked, checkpoint.path, checkpoint.source, checkpoint.config, devices)
    warn_of_dtype(asked, torch_dtype, checkpoint.path, devices)
    is_awq = stored_quantization(checkpoint.config) == "awq"
    if is_awq and importlib.util.find_spec("gptqmodel") is None:
        raise CheckpointError(f"{checkpoint.path} has AWQ weights, which need gptqmodel: pip install 'rank1-hf[awq]'")
    quiet = _silence() if is_awq else contextlib.nullcontext()
    with _only_errors(shows_bars=_says_download(checkpoint)), quiet, _explained(checkpoint.path, "weights"):
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                checkpoint.path,
                config=checkpoint.config,
                dtype=torch_dtype or "auto",
                device_map=copy.copy(placement),  # copies, since libraries write into what they are given
                max_memory=limits,
                quantization_config=copy.deepcopy(quantized),
                **checkpoint.source,
                use_safetensors=None if checkpoint.pickles else True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except OSError:
            _check_hub_weights(checkpoint)  # which may know the reason
            raise
    if report["missing_keys"]:  # Transformers fills them with random numbers and goes on
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(
            f"the weights of {checkpoint.path} lack {len(report['missing_keys'])} tensors that its config asks for "
            f"({missing}, ...); download or save the checkpoint again"
        )
    loaded: PreTrainedModel = model.eval()
    if torch_dtype == torch.float16:
        if (name := overflown_weight(loaded)) is not None:
            raise CheckpointError(f"{name} of {checkpoint.path} has values that float16 has not: give dtype='float32'")
        if not has_bfloat16(target):
            compute_in_float16(loaded)
    _log_offloading(checkpoint.path, offloaded_bytes(loaded))
    keep_layer_hooks(loaded)
    return loaded


def context_length(config: PretrainedConfig) -> int | None:
    """The most tokens the model's positions allow, where its config says.

    With "longrope" (Phi-3, Phi-4-mini) it is the length of pretraining: as soon as one row of a batch is longer,
    Transformers rotates all of them by other frequencies (`longrope_frequency_update`).
    """
    length = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        length = rope.get("original_max_position_embeddings") or length
    return int(length) if length else None


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Every id that ends the model's text: the tokenizer's, and the generation config's, which may name several."""
    ids: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for value in (tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def _checked_token(token: object) -> str | bool | None:
    """A token that can be sent in a header. What is wrong with another is said here, and without it: the libraries that
    would say it otherwise put all of it into their message.

    Raises:
        ValueError: it is none.
    """
    if token is None or isinstance(token, bool):
        return token
    stripped = token.strip() if isinstance(token, str) else "\n"
    if stripped.isascii() and stripped.isprintable() and " " not in stripped:
        return stripped or None
    raise ValueError(
        "the token is not one of the hub's (its text is not shown here): give the word hf_... itself, a string; True "
        "for the one you logged in with; or None"
    )


def _check_architecture(path: str | Path, config: PretrainedConfig) -> None:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(
            f"{path} is a {config.model_type!r} model ({', '.join(config.architectures or ['no architecture'])}), "
            "not a causal language model; rank1_hf needs one that writes its reasoning, such as jhu-clsp/rank1-7b"
        )
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not model_class._supports_attention_backend:
        raise CheckpointError(
            f"{path} is a {config.model_type!r} model, whose class {model_class.__name__} does not use Transformers' "
            "attention interface, which rank1_hf decodes through; use a model that does (Qwen2, Llama, Mistral, ...)"
        )


def _check_code(path: str | Path, source: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that asks for code of its own, instead of going on with what Transformers has under its name.

    Raises:
        CheckpointError: it does; the message says where.
    """
    config, _ = PretrainedConfig.get_config_dict(path, **source)
    tokenizer = get_tokenizer_config(path, **source)
    wanted = [file for file, content in (("config", config), ("tokenizer_config", tokenizer)) if "auto_map" in content]
    reason = f"auto_map in {' and '.join(f'{file}.json' for file in wanted)}" if wanted else None
    named = tokenizer.get("tokenizer_class")
    if named and not any(tokenizer_class_from_name(str(name)) for name in (named, f"{named}Fast")):
        reason = f"tokenizer_config.json names the class {named!r}, which Transformers does not have"
    if reason is not None:
        raise CheckpointError(
            f"{path} asks for code of its own ({reason}), which rank1_hf never runs; if you trust it, load model and "
            "tokenizer yourself and hand them over: Rank1(model, tokenizer=tokenizer)"
        )


def _check_hub_weights(checkpoint: Checkpoint) -> None:
    if checkpoint.pickles or Path(checkpoint.path).is_dir():
        return
    source = dict(checkpoint.source)
    inside = Path(source.pop("subfolder"))
    if not any(has_file(checkpoint.path, str(inside / name), **source) for name in _WEIGHTS):
        raise CheckpointError(
            f"{checkpoint.path} has no safetensors weights ({' or '.join(_WEIGHTS)}), neither on the hub nor in the "
            "cache; pickles (.bin) can run code when they are loaded: allow_pickles=True reads the tensors in them and "
            "nothing else"
        )


def _check_folder(path: str | Path, subfolder: str, allow_pickles: bool) -> None:
    """Name what a local folder lacks, which is clearer than what from_pretrained says of it."""
    if is_hub_name(path):
        return
    folder = Path(path, subfolder)
    if not is_there(folder):
        raise CheckpointError(f"there is no folder {folder}; give an existing folder or a hub name (owner/name)")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the checkpoint's folder")
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it is not a checkpoint folder")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config} is not valid JSON: {error}") from error
    pickles = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
    if not any(folder.glob("*.safetensors")) and not (allow_pickles and pickles):
        found = f" (found {pickles}, a pickle, which can run code when it is loaded)" if pickles else ""
        allow = ", or give allow_pickles=True, which reads the tensors in it and nothing else" if pickles else ""
        raise CheckpointError(
            f"{folder} has no safetensors weights{found}; save it again with model.save_pretrained(folder){allow}"
        )
    _check_index(folder / "model.safetensors.index.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.json); save it there with tokenizer.save_pretrained(folder)"
        )


def _check_index(index: Path) -> None:
    """A sharded checkpoint's index may name files of its own folder only, and all of them must be there."""
    if not index.is_file():
        return
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}") from error
    for file in sorted(map(str, files)):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {file!r}, which is not a safetensors file of its own folder")
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index.parent} lacks {file}, which its index names; download the checkpoint again")


def _says_download(checkpoint: Checkpoint) -> bool:
    """Log how much is about to be downloaded, if anything. Whether the hub's own bars then belong on the terminal."""
    commit = getattr(checkpoint.config, "_commit_hash", None)
    patterns = _WEIGHT_FILES[: 1 + checkpoint.pickles]
    n_bytes = bytes_to_download(checkpoint.path, checkpoint.source, commit, patterns)
    if n_bytes:
        logger.info("downloading the weights of %s, %s, to %s", checkpoint.path, decimal(n_bytes), HF_HUB_CACHE)
    return n_bytes > 0 and sys.stderr.isatty()


def _log_offloading(path: str | Path, n_bytes: Mapping[str, int]) -> None:
    if any(n_bytes.values()):
        logger.warning(
            "of the weights of %s %.2f GiB lie in main memory and %.2f GiB on the disk, and every step moves them to "
            "where they are multiplied: about %.1f s a step at %.0f GB/s over PCIe and %.0f GB/s from the disk",
            *(path, n_bytes["cpu"] / 2**30, n_bytes["disk"] / 2**30),
            *(n_bytes["cpu"] / _TO_GPU + n_bytes["disk"] / _FROM_DISK, _TO_GPU / 1e9, _FROM_DISK / 1e9),
        )


@contextlib.contextmanager
def _explained(path: str | Path, part: str) -> Iterator[None]:
    """Turn whatever the libraries raise over a bad checkpoint into one kind of error that names the checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"cannot load the {part} of {path}: {error}") from error
    except pickle.UnpicklingError as error:  # its message explains how to run the pickle's code
        raise CheckpointError(f"cannot load the {part} of {path}: a pickle there holds more than tensors") from error
    except Exception as error:  # tokenizers and safetensors raise bare Exceptions and classes of their own
        if type(error).__module__.split(".")[0] in {"builtins", "safetensors", "tokenizers", "huggingface_hub"}:
            raise CheckpointError(f"cannot load the {part} of {path}: {error}") from error
        raise


@contextlib.contextmanager
def _only_errors(*, shows_bars: bool = False) -> Iterator[None]:
    """Keep the progress bars and advice of Transformers and accelerate from the user while a checkpoint loads.

    Args:
        shows_bars: leave those of huggingface_hub as they are; Transformers switches them off with its own.
    """
    accelerate = logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)
    verbosity = transformers_logging.get_verbosity()
    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if hub_bars and shows_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        accelerate.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        (enable_progress_bars if hub_bars else disable_progress_bars)()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep gptqmodel's banner and reports, on both streams and in logs, from the user; what goes wrong it raises."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
