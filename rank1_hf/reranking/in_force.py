"""What is in force once a model is loaded, for the log and for `repr`."""

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.models.placement import layer_devices
from rank1_hf.models.quantization import quantization_of
from rank1_hf.prompts.pair_encoder import PairEncoder


def description(decoder: Decoder | PlainDecoder, encoder: PairEncoder) -> str:
    """Which model, in what precision, where, and with what limits."""
    config = decoder.model.config
    shown = {
        "dtype": str(decoder.model.dtype).removeprefix("torch."),
        "quantization": quantization_of(config),
        "device": str(decoder.model.device),
        "engine": "plain" if isinstance(decoder, PlainDecoder) else "paged",
        "max_new_tokens": encoder.max_new_tokens,
        "max_length": encoder.context,
    }
    named = (f"{name}={value!r}" for name, value in shown.items() if value is not None)
    return f"Rank1({', '.join([repr(_model_name(decoder.model)), *named])})"


def in_force(decoder: Decoder | PlainDecoder, encoder: PairEncoder) -> Iterator[str]:
    """Which model runs, where and in which precision; its limits; how much decodes together; and how: a line each."""
    model = decoder.model
    quantization = quantization_of(model.config)
    dtype = str(model.dtype).removeprefix("torch.") + (f" ({quantization} weights)" if quantization else "")
    devices = ", ".join(dict.fromkeys(map(str, layer_devices(model))))
    yield f"model {_model_name(model)}, dtype {dtype}, device {devices}"
    yield (
        f"context of {encoder.context:,} tokens, max_new_tokens={encoder.max_new_tokens}, "
        f"min_thinking_tokens={encoder.min_thinking_tokens}, rethink={decoder.rethinks}"
    )
    if isinstance(decoder, PlainDecoder):
        yield "engine plain: one pair at a time, with Transformers' own KV cache"
        return
    options = decoder.options
    yield (
        f"KV cache of at most {options.kv_cache_tokens:,} tokens in pages of {options.page_size}, "
        f"at most {options.batch_size} rows"
    )
    kernels = f"for {model.device.type}" if options.kernels else "none (PyTorch's own operations)"
    yield f"kernels {kernels}; decoding {options}"


def _model_name(model: PreTrainedModel) -> str:
    """A model's name on the hub, or its folder's."""
    path = Path(model.name_or_path)
    return path.name if path.exists() else str(model.name_or_path)
