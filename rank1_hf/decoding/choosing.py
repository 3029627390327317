"""Which token a chain takes: the model's likeliest, or what a logits processor of Transformers makes of its logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from rank1_hf.chains.rules import SteeringError


def chosen_by(processor: LogitsProcessor | LogitsProcessorList | None, context: Sequence[int], logits: Tensor) -> int:
    """The next token.

    Args:
        processor: called with the context, [1, tokens], and a copy of the logits, [1, vocabulary]; None: the likeliest
            token is taken.
        context: the token ids so far.
        logits: [vocabulary], float32.

    Raises:
        SteeringError: the processor fails, gives something else than logits, or leaves no token.
    """
    if processor is None:
        return int(logits.argmax())
    ids = torch.tensor([context], device=logits.device)
    try:
        processed = processor(ids, logits[None].clone())
    except Exception as error:
        raise SteeringError(f"the logits processor failed: {type(error).__name__}: {error}") from error
    if not isinstance(processed, Tensor) or processed.shape != (1, len(logits)) or processed.is_complex():
        found = f"{list(processed.shape)}" if isinstance(processed, Tensor) else f"a {type(processed).__name__}"
        raise SteeringError(f"the logits processor must give logits [1, {len(logits)}], not {found}")
    highest, token = processed[0].max(dim=-1)  # NaN where any of them is
    if highest == -math.inf:
        raise SteeringError("the logits processor leaves no token that the chain could take: all logits are -inf")
    if not math.isfinite(highest):
        raise SteeringError(f"the logits processor gives logits that are {float(highest)}")
    return int(token)
