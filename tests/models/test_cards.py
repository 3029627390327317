"""What is known of graphics cards, by their names and by their drivers' names, against the libraries that decide."""

from types import SimpleNamespace

import pytest
import torch

from rank1_hf.models.cards import GIB, GPUS, Gpu, gpu_here, has_bfloat16, parse_gpu


@pytest.mark.parametrize(
    ("text", "gib"), [("24GiB", 24), ("24GB", 24), (" 8 gb ", 8), ("10.5", 10.5), ("rtx 4090", 24)]
)
def test_gpus_are_named_or_measured(text: str, gib: float) -> None:
    assert parse_gpu(text).memory == gib * GIB


@pytest.mark.parametrize("text", ["", "GiB", "-3GiB", "0", "RTX9999", "24 MiB"])
def test_what_is_no_gpu_is_an_error_that_lists_them(text: str) -> None:
    with pytest.raises(ValueError, match="RTX4090"):
        parse_gpu(text)


@pytest.mark.parametrize(
    ("driver", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A10", "a10"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx4060ti"),
        ("NVIDIA GeForce RTX 4070", "rtx4070"),
        ("NVIDIA GeForce RTX 4070 Ti", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_the_gpu_here_is_known_by_its_drivers_name(driver: str, known: str | None, monkeypatch) -> None:
    properties = SimpleNamespace(name=driver, total_memory=GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert gpu_here() == (
        Gpu(driver, GIB) if known is None else Gpu(driver, GIB, GPUS[known].speed, GPUS[known].fused_4bit)
    )


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", None, True),
        ("cuda", (7, 0), False),  # V100
        ("cuda", (7, 5), False),  # T4, RTX 20xx
        ("cuda", (8, 0), True),
        ("cuda", (8, 9), True),
        ("cuda", (12, 0), True),
    ],
)
def test_cards_before_ampere_have_no_bfloat16(device: str, capability, expected: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(torch.device(device)) == expected


def test_other_makers_cards_are_not_judged_by_nvidias_numbers(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert has_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize(("macos", "expected"), [(13, False), (14, True)])
def test_macos_has_bfloat16_since_14(macos: int, expected: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (macos, 0) >= (major, minor))
    assert has_bfloat16(torch.device("mps")) == expected
