"""Checks of a model and its arguments, before anything is loaded."""

import inspect

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from rank1_hf.models.loading import Checkpoint, CheckpointError
from rank1_hf.models.planning import PLANNED
from rank1_hf.models.quantization import Quantization, stored_quantization
from rank1_hf.models.recommendation import why_too_large
from rank1_hf.prompts.markers import ContractError


def check_loaded(**given: object) -> None:
    """Refuse arguments about loading where the model is loaded already.

    Args:
        given: the arguments, None where they were not given.

    Raises:
        ValueError: one was.
    """
    useless = [name for name, value in given.items() if value is not None]
    if useless:
        raise ValueError(
            f"a loaded model is used as it was loaded: leave out {', '.join(useless)}, or give a name or a folder"
        )


def check_vocabulary(checkpoint: Checkpoint) -> None:
    """Refuse a tokenizer whose ids the model has no embeddings for.

    Raises:
        ContractError: it has more tokens than there are embeddings.
    """
    n_tokens, n_rows = len(checkpoint.tokenizer), int(checkpoint.config.vocab_size)
    if n_tokens > n_rows:
        raise ContractError(
            f"the tokenizer has {n_tokens} tokens and the model has embeddings for {n_rows} only; "
            "use the tokenizer that belongs to the model, or resize its embeddings"
        )


def check_memory(
    checkpoint: Checkpoint, dtype: torch.dtype | None, quantization: Quantization | None, device: torch.device
) -> None:
    """Say at once that the weights do not fit on a GPU, instead of after minutes of loading them.

    Raises:
        CheckpointError: they do not; the message names what would.
    """
    kind = stored_quantization(checkpoint.config) if quantization is None else quantization
    if not isinstance(kind, str | None) or kind not in (None, *PLANNED):
        return  # how much these weights take is known to their quantizer only
    free, _ = torch.cuda.mem_get_info(device)
    reason = why_too_large(checkpoint.config, dtype or checkpoint.config.dtype or torch.float32, kind, free)
    if reason is not None:
        raise CheckpointError(f"{checkpoint.path} does not fit on {device}: {reason}")


def check_layers(model: PreTrainedModel | PretrainedConfig) -> None:
    """Refuse a model whose layers the decode loop would compute wrongly, or stumble over at its first step.

    Args:
        model: a loaded model, or the config of one; then it is built without its weights, in about a second.

    Raises:
        CheckpointError: it has such layers; the message says which.
    """
    if isinstance(model, PretrainedConfig):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model, trust_remote_code=False)
    reason = _why_not(model)
    if reason is not None:
        raise CheckpointError(
            f"{type(model).__name__} {reason}; "
            "use a model whose layers all attend plainly, like Qwen2, Qwen3, Llama or Mistral"
        )


def _why_not(model: PreTrainedModel) -> str | None:
    config = model.config
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others or model._is_stateful:
        kinds = f" ({', '.join(sorted(map(str, others)))})" if others else ""
        return f"has layers with a state of their own{kinds}, and only keys and values are kept from step to step"
    if getattr(config, "kv_lora_rank", None):
        return "has multi-head latent attention, whose keys and values are not of one size"
    if getattr(config, "attn_logit_softcapping", None):
        return "caps the scores of its attention, which is not supported"
    if any(name.endswith(("sinks", "sink")) for name, _ in model.named_parameters()):
        return "has attention sinks, which are not supported"
    layers = getattr(model.base_model, "layers", None)
    if not layers or not all(_hands_on(type(layer)) for layer in layers):
        return "does not hand on to its attention what a step needs"
    return None


def _hands_on(layer: type) -> bool:
    """Whether a kind of layer takes keyword arguments that it does not know itself."""
    parameters = inspect.signature(layer.forward).parameters.values()  # type: ignore[attr-defined]
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
