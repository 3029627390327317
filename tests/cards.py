"""Cards that are not here: what their drivers say of them, so that bitsandbytes decides as it would on them."""

from types import ModuleType, SimpleNamespace

import pytest
import torch

DRIVERS = {  # name, multiprocessors, compute capability
    "V100": ("Tesla V100-SXM2-16GB", 80, 7, 0),
    "V100 32GB": ("Tesla V100-SXM2-32GB", 80, 7, 0),
    "V100S": ("Tesla V100S-PCIE-32GB", 80, 7, 0),
    "T4": ("Tesla T4", 40, 7, 5),
    "A2": ("NVIDIA A2", 10, 8, 6),
    "A10": ("NVIDIA A10", 72, 8, 6),
    "A10G": ("NVIDIA A10G", 80, 8, 6),
    "A16": ("NVIDIA A16", 10, 8, 6),
    "A30": ("NVIDIA A30", 56, 8, 0),
    "A40": ("NVIDIA A40", 84, 8, 6),
    "A100": ("NVIDIA A100-SXM4-80GB", 108, 8, 0),
    "A100 40GB": ("NVIDIA A100-SXM4-40GB", 108, 8, 0),
    "A800": ("NVIDIA A800-SXM4-80GB", 108, 8, 0),
    "L4": ("NVIDIA L4", 58, 8, 9),
    "L20": ("NVIDIA L20", 92, 8, 9),
    "L40": ("NVIDIA L40", 142, 8, 9),
    "L40S": ("NVIDIA L40S", 142, 8, 9),
    "H100": ("NVIDIA H100 80GB HBM3", 132, 9, 0),
    "H100PCIe": ("NVIDIA H100 PCIe", 114, 9, 0),
    "H100NVL": ("NVIDIA H100 NVL", 132, 9, 0),
    "H800": ("NVIDIA H800", 132, 9, 0),
    "H20": ("NVIDIA H20", 78, 9, 0),
    "H200": ("NVIDIA H200", 132, 9, 0),
    "H200NVL": ("NVIDIA H200 NVL", 132, 9, 0),
    "GH200": ("NVIDIA GH200 480GB", 132, 9, 0),
    "GH200 144GB": ("NVIDIA GH200 144G HBM3e", 132, 9, 0),
    "B200": ("NVIDIA B200", 148, 10, 0),
    "GB200": ("NVIDIA GB200", 152, 10, 0),
    "B300": ("NVIDIA B300 SXM6 AC", 148, 10, 3),
    "T400": ("NVIDIA T400 4GB", 6, 7, 5),
    "T600": ("NVIDIA T600", 10, 7, 5),
    "T1000": ("NVIDIA T1000 8GB", 14, 7, 5),
    "T1000 4GB": ("NVIDIA T1000", 14, 7, 5),
    "QuadroRTX4000": ("Quadro RTX 4000", 36, 7, 5),
    "QuadroRTX5000": ("Quadro RTX 5000", 48, 7, 5),
    "QuadroRTX6000": ("Quadro RTX 6000", 72, 7, 5),
    "QuadroRTX8000": ("Quadro RTX 8000", 72, 7, 5),
    "RTXA400": ("NVIDIA RTX A400", 6, 8, 6),
    "RTXA1000": ("NVIDIA RTX A1000", 18, 8, 6),
    "RTXA2000": ("NVIDIA RTX A2000 12GB", 26, 8, 6),
    "RTXA2000 6GB": ("NVIDIA RTX A2000", 26, 8, 6),
    "RTXA4000": ("NVIDIA RTX A4000", 48, 8, 6),
    "RTXA4500": ("NVIDIA RTX A4500", 56, 8, 6),
    "RTXA5000": ("NVIDIA RTX A5000", 64, 8, 6),
    "RTXA5500": ("NVIDIA RTX A5500", 80, 8, 6),
    "RTXA6000": ("NVIDIA RTX A6000", 84, 8, 6),
    "RTX2000Ada": ("NVIDIA RTX 2000 Ada Generation", 22, 8, 9),
    "RTX4000Ada": ("NVIDIA RTX 4000 Ada Generation", 48, 8, 9),
    "RTX4000SFFAda": ("NVIDIA RTX 4000 SFF Ada Generation", 48, 8, 9),
    "RTX4500Ada": ("NVIDIA RTX 4500 Ada Generation", 60, 8, 9),
    "RTX5000Ada": ("NVIDIA RTX 5000 Ada Generation", 100, 8, 9),
    "RTX5880Ada": ("NVIDIA RTX 5880 Ada Generation", 110, 8, 9),
    "RTX6000Ada": ("NVIDIA RTX 6000 Ada Generation", 142, 8, 9),
    "RTXPRO2000": ("NVIDIA RTX PRO 2000 Blackwell", 34, 12, 0),
    "RTXPRO4000": ("NVIDIA RTX PRO 4000 Blackwell", 70, 12, 0),
    "RTXPRO4500": ("NVIDIA RTX PRO 4500 Blackwell", 82, 12, 0),
    "RTXPRO5000": ("NVIDIA RTX PRO 5000 Blackwell", 110, 12, 0),
    "RTXPRO5000 72GB": ("NVIDIA RTX PRO 5000 72GB Blackwell", 110, 12, 0),
    "RTXPRO6000": ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 188, 12, 0),
    "RTXPRO6000MaxQ": ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 188, 12, 0),
    "RTXPRO6000Server": ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 188, 12, 0),
    "GTX1650": ("NVIDIA GeForce GTX 1650", 14, 7, 5),
    "GTX1650Super": ("NVIDIA GeForce GTX 1650 SUPER", 20, 7, 5),
    "GTX1660": ("NVIDIA GeForce GTX 1660", 22, 7, 5),
    "GTX1660Super": ("NVIDIA GeForce GTX 1660 SUPER", 22, 7, 5),
    "GTX1660Ti": ("NVIDIA GeForce GTX 1660 Ti", 24, 7, 5),
    "RTX2060": ("NVIDIA GeForce RTX 2060", 30, 7, 5),
    "RTX2060 12GB": ("NVIDIA GeForce RTX 2060", 34, 7, 5),
    "RTX2060Super": ("NVIDIA GeForce RTX 2060 SUPER", 34, 7, 5),
    "RTX2070": ("NVIDIA GeForce RTX 2070", 36, 7, 5),
    "RTX2070Super": ("NVIDIA GeForce RTX 2070 SUPER", 40, 7, 5),
    "RTX2080": ("NVIDIA GeForce RTX 2080", 46, 7, 5),
    "RTX2080Super": ("NVIDIA GeForce RTX 2080 SUPER", 48, 7, 5),
    "RTX2080Ti": ("NVIDIA GeForce RTX 2080 Ti", 68, 7, 5),
    "TitanRTX": ("NVIDIA TITAN RTX", 72, 7, 5),
    "RTX3050": ("NVIDIA GeForce RTX 3050", 20, 8, 6),
    "RTX3050 6GB": ("NVIDIA GeForce RTX 3050", 18, 8, 6),
    "RTX3060": ("NVIDIA GeForce RTX 3060", 28, 8, 6),
    "RTX3060 8GB": ("NVIDIA GeForce RTX 3060", 28, 8, 6),
    "RTX3060Ti": ("NVIDIA GeForce RTX 3060 Ti", 38, 8, 6),
    "RTX3070": ("NVIDIA GeForce RTX 3070", 46, 8, 6),
    "RTX3070Ti": ("NVIDIA GeForce RTX 3070 Ti", 48, 8, 6),
    "RTX3080": ("NVIDIA GeForce RTX 3080", 68, 8, 6),
    "RTX3080 12GB": ("NVIDIA GeForce RTX 3080", 70, 8, 6),
    "RTX3080Ti": ("NVIDIA GeForce RTX 3080 Ti", 80, 8, 6),
    "RTX3090": ("NVIDIA GeForce RTX 3090", 82, 8, 6),
    "RTX3090Ti": ("NVIDIA GeForce RTX 3090 Ti", 84, 8, 6),
    "RTX4060": ("NVIDIA GeForce RTX 4060", 24, 8, 9),
    "RTX4060Ti": ("NVIDIA GeForce RTX 4060 Ti", 34, 8, 9),
    "RTX4060Ti 8GB": ("NVIDIA GeForce RTX 4060 Ti", 34, 8, 9),
    "RTX4070": ("NVIDIA GeForce RTX 4070", 46, 8, 9),
    "RTX4070Super": ("NVIDIA GeForce RTX 4070 SUPER", 56, 8, 9),
    "RTX4070Ti": ("NVIDIA GeForce RTX 4070 Ti", 60, 8, 9),
    "RTX4070TiSuper": ("NVIDIA GeForce RTX 4070 Ti SUPER", 66, 8, 9),
    "RTX4080": ("NVIDIA GeForce RTX 4080", 76, 8, 9),
    "RTX4080Super": ("NVIDIA GeForce RTX 4080 SUPER", 80, 8, 9),
    "RTX4090": ("NVIDIA GeForce RTX 4090", 128, 8, 9),
    "RTX4090D": ("NVIDIA GeForce RTX 4090 D", 114, 8, 9),
    "RTX5050": ("NVIDIA GeForce RTX 5050", 20, 12, 0),
    "RTX5060": ("NVIDIA GeForce RTX 5060", 30, 12, 0),
    "RTX5060Ti": ("NVIDIA GeForce RTX 5060 Ti", 36, 12, 0),
    "RTX5060Ti 8GB": ("NVIDIA GeForce RTX 5060 Ti", 36, 12, 0),
    "RTX5070": ("NVIDIA GeForce RTX 5070", 48, 12, 0),
    "RTX5070Ti": ("NVIDIA GeForce RTX 5070 Ti", 70, 12, 0),
    "RTX5080": ("NVIDIA GeForce RTX 5080", 84, 12, 0),
    "RTX5090": ("NVIDIA GeForce RTX 5090", 170, 12, 0),
    "RTX5090D": ("NVIDIA GeForce RTX 5090 D", 170, 12, 0),
    "RTX2050Laptop": ("NVIDIA GeForce RTX 2050", 16, 8, 6),
    "RTX2060Laptop": ("NVIDIA GeForce RTX 2060", 30, 7, 5),  # Turing's laptops have the desktop cards' names
    "RTX2070Laptop": ("NVIDIA GeForce RTX 2070", 36, 7, 5),
    "RTX2070SuperLaptop": ("NVIDIA GeForce RTX 2070 SUPER", 40, 7, 5),
    "RTX2080Laptop": ("NVIDIA GeForce RTX 2080", 46, 7, 5),
    "RTX2080SuperLaptop": ("NVIDIA GeForce RTX 2080 SUPER", 48, 7, 5),
    "RTX3050Laptop": ("NVIDIA GeForce RTX 3050 Laptop GPU", 16, 8, 6),
    "RTX3050Laptop 6GB": ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", 20, 8, 6),
    "RTX3050TiLaptop": ("NVIDIA GeForce RTX 3050 Ti Laptop GPU", 20, 8, 6),
    "RTX3060Laptop": ("NVIDIA GeForce RTX 3060 Laptop GPU", 30, 8, 6),
    "RTX3070Laptop": ("NVIDIA GeForce RTX 3070 Laptop GPU", 40, 8, 6),
    "RTX3070TiLaptop": ("NVIDIA GeForce RTX 3070 Ti Laptop GPU", 46, 8, 6),
    "RTX3080Laptop": ("NVIDIA GeForce RTX 3080 Laptop GPU", 48, 8, 6),
    "RTX3080Laptop 16GB": ("NVIDIA GeForce RTX 3080 Laptop GPU", 48, 8, 6),
    "RTX3080TiLaptop": ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", 58, 8, 6),
    "RTX4050Laptop": ("NVIDIA GeForce RTX 4050 Laptop GPU", 20, 8, 9),
    "RTX4060Laptop": ("NVIDIA GeForce RTX 4060 Laptop GPU", 24, 8, 9),
    "RTX4070Laptop": ("NVIDIA GeForce RTX 4070 Laptop GPU", 36, 8, 9),
    "RTX4080Laptop": ("NVIDIA GeForce RTX 4080 Laptop GPU", 58, 8, 9),
    "RTX4090Laptop": ("NVIDIA GeForce RTX 4090 Laptop GPU", 76, 8, 9),
    "RTX5050Laptop": ("NVIDIA GeForce RTX 5050 Laptop GPU", 20, 12, 0),
    "RTX5060Laptop": ("NVIDIA GeForce RTX 5060 Laptop GPU", 26, 12, 0),
    "RTX5070Laptop": ("NVIDIA GeForce RTX 5070 Laptop GPU", 36, 12, 0),
    "RTX5070TiLaptop": ("NVIDIA GeForce RTX 5070 Ti Laptop GPU", 46, 12, 0),
    "RTX5080Laptop": ("NVIDIA GeForce RTX 5080 Laptop GPU", 60, 12, 0),
    "RTX5090Laptop": ("NVIDIA GeForce RTX 5090 Laptop GPU", 82, 12, 0),
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
