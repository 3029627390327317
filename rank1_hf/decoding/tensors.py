"""From Python's lists to a device, without waiting for it."""

import torch
from torch import Tensor


def tensor_on(device: torch.device, values: list[int] | list[list[int]]) -> Tensor:
    """Values on a device, int64. A GPU takes them from pinned memory when it has time; the host does not wait."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=torch.long, device=device)
    return torch.tensor(values, dtype=torch.long, pin_memory=True).to(device, non_blocking=True)
