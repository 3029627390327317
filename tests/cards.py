"""Cards that are not here: what their drivers say of them, so that bitsandbytes decides as it would on them."""

from types import ModuleType, SimpleNamespace

import pytest
import torch

DRIVERS = {  # name, multiprocessors, compute capability
    "T4": ("Tesla T4", 40, 7, 5),
    "L4": ("NVIDIA L4", 58, 8, 9),
    "A10": ("NVIDIA A10", 72, 8, 6),
    "RTX3060": ("NVIDIA GeForce RTX 3060", 28, 8, 6),
    "RTX3090": ("NVIDIA GeForce RTX 3090", 82, 8, 6),
    "RTX4060Ti": ("NVIDIA GeForce RTX 4060 Ti", 34, 8, 9),
    "RTX4070": ("NVIDIA GeForce RTX 4070", 46, 8, 9),
    "RTX4080": ("NVIDIA GeForce RTX 4080", 76, 8, 9),
    "RTX4090": ("NVIDIA GeForce RTX 4090", 128, 8, 9),
    "RTX5090": ("NVIDIA GeForce RTX 5090", 170, 12, 0),
    "A100": ("NVIDIA A100-SXM4-80GB", 108, 8, 0),
    "H100": ("NVIDIA H100 80GB HBM3", 132, 9, 0),
    "H200": ("NVIDIA H200", 132, 9, 0),
}
CUDA = torch.device("cuda", 0)


def put_in(card: str, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Let this machine seem to have a card, for PyTorch and for bitsandbytes. Gives the 16-bit dtype for it."""
    ops = bitsandbytes_cuda(monkeypatch)  # which looks for cards as it is imported: before there seems to be one
    name, processors, major, minor = DRIVERS[card]
    found = SimpleNamespace(name=name, multi_processor_count=processors, major=major, minor=minor, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
    ops._gpu_dispatch_props.cache_clear()
    ops._gemm_4bit_use_custom_cuda.cache_clear()
    return torch.bfloat16 if major >= 8 else torch.float16


def bitsandbytes_cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module in which bitsandbytes decides, which a build of PyTorch for CPUs lacks one name to import."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", None, raising=False)
    from bitsandbytes.backends.cuda import ops

    return ops
