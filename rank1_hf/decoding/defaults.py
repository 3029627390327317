"""What the engine chooses where an option is left to it: by the device, the model, and the memory there is."""

from collections import Counter
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from rank1_hf.decoding.graphs import can_be_captured, has_graphs
from rank1_hf.decoding.kernels import kernels_for
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.models.memory import GPU_PREFILL_TOKENS, kv_budget
from rank1_hf.models.placement import device_of, layer_devices
from rank1_hf.models.products import step_sizes
from rank1_hf.models.quantization import stored_quantization

_CPU_PREFILL_TOKENS = 512  # which keep a CPU busy; a GPU needs thousands
_CPU_STEP = 128, 32  # rows, and the fixed cost of a step in tokens


def resolve(options: DecodingOptions, model: PreTrainedModel) -> DecodingOptions:
    """The options in force: no field is None, and what the device or the model cannot do is off."""
    device = device_of(model.get_input_embeddings())
    on_cpu, reproducible = device.type == "cpu", options.reproducible
    prefill_chunk = options.prefill_chunk or (_CPU_PREFILL_TOKENS if on_cpu else GPU_PREFILL_TOKENS)
    kernels = options.kernels and kernels_for(device, model.config, model.dtype) is not None
    graphs = options.graphs and kernels and not reproducible and has_graphs(device) and can_be_captured(model)
    rows, overhead = _CPU_STEP if on_cpu else step_sizes(model, device)
    return replace(
        options,
        # More rows make better use of the weights that a step reads; a reproducible step is always as wide as this.
        batch_size=options.batch_size or (32 if reproducible else rows),
        prefill_chunk=prefill_chunk,
        kv_cache_tokens=options.kv_cache_tokens
        or _kv_cache_tokens(model, prefill_chunk, options.gpu_memory_utilization, captures=graphs),
        speculate=options.speculate and (not reproducible or (on_cpu and kernels)),
        step_overhead_tokens=options.step_overhead_tokens or overhead,
        graphs=graphs,
        kernels=kernels,
        fuse=options.fuse and kernels,
        overlap=device.type == "cuda" if options.overlap is None else options.overlap,
    )


def _kv_cache_tokens(model: PreTrainedModel, prefill_chunk: int, utilization: float, *, captures: bool) -> int:
    """As many as there is memory for: on the fullest of the devices that the model's layers lie on."""
    layers: Counter[torch.device] = Counter(layer_devices(model))
    return min(
        kv_budget(
            model.config,
            model.dtype,
            device,
            prefill_tokens=prefill_chunk,
            utilization=utilization,
            share=n_layers / layers.total(),
            captures=captures,
            is_quantized=stored_quantization(model.config) is not None,
        )
        for device, n_layers in layers.items()
    )
