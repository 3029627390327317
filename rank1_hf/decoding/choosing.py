"""Which token a chain gets: the model's likeliest, or what a logits processor of Transformers makes of its logits."""

import math

import torch

from rank1_hf.chain import SteeringError
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.watcher import Reading


def chosen(row: Row, likeliest: int, reading: Reading | None) -> int:
    """The row's next token, where the model's likeliest is known already.

    Raises:
        SteeringError: the row's logits processor fails, or leaves no token.
    """
    processor = row.request.processor
    if processor is None:
        return likeliest
    assert reading is not None
    assert reading.logits is not None  # `Row.needs` asked for them
    context = torch.tensor([row.chain.tokens], device=reading.logits.device)
    try:
        logit, token = processor(context, reading.logits[None].clone())[0].max(dim=-1)
    except Exception as error:
        raise SteeringError(f"the logits processor failed: {type(error).__name__}: {error}") from error
    if not math.isfinite(logit):
        raise SteeringError("the logits processor leaves no token that the chain could take")
    return int(token)
