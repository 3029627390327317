"""What is wrong with a model and the arguments about it, said before anything is loaded."""

import torch

from rank1_hf.loading import Checkpoint, CheckpointError, Quantization, stored_quantization
from rank1_hf.markers import ContractError
from rank1_hf.planning import PLANNED, why_too_large


def check_loaded(**given: object) -> None:
    """Refuse what says how a model is to be loaded, where it is loaded already.

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
