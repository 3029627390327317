"""Which model a `Rank1` runs, and how it is loaded."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.packed import pack_linear_layers
from rank1_hf.decoding.warm_start import kernels_compiling
from rank1_hf.inputs.values import whole_number
from rank1_hf.models.batch_invariance import make_batch_invariant
from rank1_hf.models.devices import resolve_device, resolve_dtype
from rank1_hf.models.identity import weights_fingerprint
from rank1_hf.models.loading import Checkpoint, load_model, open_checkpoint
from rank1_hf.models.placement import is_split
from rank1_hf.models.quantization import Quantization, check_batch_invariance, quantization_config
from rank1_hf.models.spellings import quantization_kind
from rank1_hf.reranking.checks import check_layers, check_loaded, check_memory, check_vocabulary
from rank1_hf.reranking.processes import Processes, warn_of_idle_processes


class ModelSource:
    """A checkpoint, opened but without its weights, or a model that was handed over.

    Args:
        model, tokenizer, dtype, device, quantization, device_map, max_memory, num_gpus, revision, subfolder, token,
            allow_pickles: as in `Rank1`.
        reproducible: whether a token's numbers must not depend on the other tokens of a step.

    Attributes:
        checkpoint: its config and tokenizer.
        processes: those that share the pairs of a call; None: there is this one.

    Raises:
        CheckpointError, ContractError, ValueError: as in `Rank1`.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel | None,
        *,
        tokenizer: PreTrainedTokenizerFast | None,
        dtype: str | torch.dtype | None,
        device: str | torch.device | None,
        quantization: Quantization | None,
        device_map: str | dict[str, Any] | None,
        max_memory: dict[int | str, int | str] | None,
        num_gpus: int,
        revision: str | None,
        subfolder: str | None,
        token: str | bool | None,
        allow_pickles: bool,
        reproducible: bool,
    ) -> None:
        quantization = quantization_kind(quantization)
        num_gpus = whole_number("num_gpus", num_gpus, least=1)
        if num_gpus > 1 and (device_map is not None or max_memory is not None):
            raise ValueError(
                "num_gpus puts a whole model on each GPU, device_map and max_memory spread one over several; give one"
            )
        self._model = model if isinstance(model, PreTrainedModel) else None
        self._dtype, self._device, self._chosen = resolve_dtype(dtype), device, resolve_device(device)
        self._quantization, self._device_map, self._max_memory = quantization, device_map, max_memory
        if isinstance(model, PreTrainedModel):
            check_loaded(
                dtype=dtype,
                device=device,
                quantization=quantization,
                device_map=device_map,
                max_memory=max_memory,
                revision=revision,
                subfolder=subfolder,
                token=token,
                allow_pickles=allow_pickles or None,
            )
            if tokenizer is None:
                raise ValueError("a loaded model needs its tokenizer: Rank1(model, tokenizer=tokenizer)")
            self.checkpoint = Checkpoint("the loaded model", {}, model.config, tokenizer)
        else:
            if tokenizer is not None:
                raise ValueError("a checkpoint brings its own tokenizer; leave tokenizer out, or give a loaded model")
            self.checkpoint = open_checkpoint(
                model, revision=revision, subfolder=subfolder, token=token, allow_pickles=allow_pickles
            )
        self.processes = self._processes(num_gpus)
        self._quantized = quantization_config(quantization, self.checkpoint.config, self._chosen)
        if reproducible:
            check_batch_invariance(quantization or getattr(self.checkpoint.config, "quantization_config", None))
        check_vocabulary(self.checkpoint)

    def _processes(self, n: int) -> Processes | None:
        if n == 1:
            warn_of_idle_processes()
            return None
        if ":" in str(self._chosen):
            raise ValueError(f"num_gpus={n} gives each process a GPU of its own; use device={self._chosen.type!r}")
        processes = Processes(n, (self._chosen if self._model is None else self._model.device).type)
        self._device = self._chosen = processes.device
        return processes

    def fingerprint(self) -> str:
        """Which weights these are.

        Raises:
            CheckpointError: nothing says so.
        """
        return weights_fingerprint(self._model or self.checkpoint)

    def load(self, options: DecodingOptions) -> PreTrainedModel:
        """The model, with its weights. It takes longest, so whatever else may be wrong is checked before.

        Raises:
            CheckpointError: it cannot be loaded, does not fit, or has layers that the decode loop cannot run.
        """
        model = self._model
        if model is None:
            if self._chosen.type == "cuda" and self._device_map is None and self._max_memory is None:
                check_memory(self.checkpoint, self._dtype, self._quantization, self._chosen)
            check_layers(self.checkpoint.config)
            compiling = kernels_compiling(self._chosen, self.checkpoint.config, self._dtype, options.page_size)
            with compiling if options.kernels else nullcontext():
                model = load_model(
                    self.checkpoint,
                    dtype=self._dtype,
                    device=self._device,
                    quantization=self._quantized,
                    device_map=self._device_map,
                    max_memory=self._max_memory,
                )
            if options.pack and not is_split(model):
                pack_linear_layers(
                    model, kernels=options.kernels
                )  # only ours: a model that was handed over keeps its weights
        elif model._supports_attention_backend:  # the decoder says so, where it does not
            check_layers(model)
        if options.reproducible:
            make_batch_invariant(model)
        return model
