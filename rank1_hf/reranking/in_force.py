"""What is in force once a model is loaded, for the log."""

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.models.placement import layer_devices
from rank1_hf.models.quantization import stored_quantization


def model_name(model: PreTrainedModel) -> str:
    """A model's name on the hub, or its folder's."""
    path = Path(model.name_or_path)
    return path.name if path.exists() else str(model.name_or_path)


def in_force(decoder: Decoder | PlainDecoder) -> Iterator[str]:
    """Which model runs, where and in which precision; how much decodes together; and how: a line each."""
    model = decoder.model
    quantization = stored_quantization(model.config)
    dtype = str(model.dtype).removeprefix("torch.") + (f" ({quantization} weights)" if quantization else "")
    devices = ", ".join(dict.fromkeys(map(str, layer_devices(model))))
    yield f"model {model_name(model)}, dtype {dtype}, device {devices}"
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
