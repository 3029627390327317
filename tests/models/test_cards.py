"""What is known of graphics cards, by their names and by their drivers' names, against the libraries that decide."""

from types import SimpleNamespace

import pytest
import torch

from rank1_hf.models.cards import GIB, GPUS, Gpu, Speed, gpu_here, has_bfloat16, other_sizes, parse_gpu, typical
from tests.cards import DRIVERS


@pytest.mark.parametrize(
    ("text", "gib"),
    [("24GiB", 24), ("24GB", 24), (" 8 gb ", 8), ("10.5g", 10.5), ("24576MiB", 24), ("rtx 4090", 24), ("80 G", 80)],
)
def test_gpus_are_named_or_measured(text: str, gib: float) -> None:
    assert parse_gpu(text).memory == gib * GIB


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3060", "RTX3060"),
        ("RTX-3060", "RTX3060"),
        ("rtx 3060 8gb", "RTX3060 8GB"),
        ("GeForce RTX 3060 12 GB", "RTX3060"),
        ("4070 ti super", "RTX4070TiSuper"),
        ("4070Ti", "RTX4070Ti"),
        ("1660 Ti", "GTX1660Ti"),
        ("Titan RTX", "TitanRTX"),
        ("A100", "A100"),
        ("a100-40gb", "A100 40GB"),
        ("A100 80GB PCIe", "A100"),
        ("H100 SXM", "H100"),
        ("h100 pcie", "H100PCIe"),
        ("V100 32G", "V100 32GB"),
        ("RTX 6000 Ada Generation", "RTX6000Ada"),
        ("6000 Ada", "RTX6000Ada"),
        ("A6000", "RTXA6000"),
        ("RTX PRO 6000 Blackwell", "RTXPRO6000"),
        ("pro 6000 max-q", "RTXPRO6000MaxQ"),
        ("Quadro RTX 8000", "QuadroRTX8000"),
        ("5090", "RTX5090"),
        ("B200", "B200"),
        ("RTX 3050 Laptop", "RTX3050Laptop"),
        ("3050 mobile", "RTX3050Laptop"),
        ("RTX 3050 mobile 4GB", "RTX3050Laptop"),
        ("rtx 3050 notebook 6 gb", "RTX3050Laptop 6GB"),
        ("RTX 3080 Laptop GPU 16GB", "RTX3080Laptop 16GB"),
        ("laptop 4070", "RTX4070Laptop"),
        ("4050", "RTX4050Laptop"),
        ("RTX 3050 Ti", "RTX3050TiLaptop"),
        ("4060ti-16", "RTX4060Ti"),
        ("rtx-4060-ti-8", "RTX4060Ti 8GB"),
        ("3060 8", "RTX3060 8GB"),
        ("A100 40", "A100 40GB"),
        ("3050-laptop-6", "RTX3050Laptop 6GB"),
        ("RTX 40 90", "RTX4090"),
    ],
)
def test_cards_have_the_names_that_people_use(text: str, name: str) -> None:
    assert parse_gpu(text).name == name


@pytest.mark.parametrize("name", [gpu.name for gpu in GPUS.values()])
def test_every_card_is_known_by_its_name_and_by_its_driver_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = GPUS[name.lower().replace(" ", "")]
    assert parse_gpu(name) == known
    driver = DRIVERS[name][0]
    desktop = GPUS.get(name.lower().removesuffix("laptop"), known)
    taken_for = desktop if DRIVERS[desktop.name][0] == driver else known  # Turing's laptops have the desktop's names
    properties = SimpleNamespace(name=driver, total_memory=known.memory - GIB // 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert gpu_here() == Gpu(driver, known.memory - GIB // 4, taken_for.speed, taken_for.fused_4bit)


def test_a_card_of_several_sizes_knows_the_others() -> None:
    assert other_sizes(parse_gpu("3060")) == [GPUS["rtx30608gb"]]
    assert other_sizes(parse_gpu("3060 8GB")) == [GPUS["rtx3060"]]
    assert other_sizes(parse_gpu("3090")) == other_sizes(parse_gpu("12GiB")) == []


@pytest.mark.parametrize(("gib", "gigabytes", "teraflops"), [(4, 160, 9), (3.8, 160, 9), (24, 768, 130)])
def test_a_size_is_as_fast_as_a_typical_card_that_has_it(gib: float, gigabytes: float, teraflops: float) -> None:
    """Nine cards have 4 GiB, from a T400 with 80 GB/s to laptops with 192; fifteen have 24, from an L4 to a 4090."""
    found = typical(Gpu("", int(gib * GIB)))
    assert found.speed == Speed(gigabytes * 1e9, teraflops * 1e12)
    assert found.fused_4bit in {each.fused_4bit for each in GPUS.values()}


@pytest.mark.parametrize("text", ["", "GiB", "-3GiB", "0", "RTX9999", "24 KiB", "A4000 laptop", "0GiB"])
def test_what_is_no_gpu_is_an_error_that_names_some(text: str) -> None:
    with pytest.raises(ValueError, match=r"no GPU known here.*like .*(RTX4090|RTX)|0GiB"):
        parse_gpu(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("24", "write 24GiB"),
        ("8", "write 8GiB"),
        ("RTX 6000", "QuadroRTX6000, .*RTXA6000, RTX6000Ada, RTXPRO6000"),
        ("4060ti-12", r"none of these has 12 GiB: there is RTX4060Ti \(16 GiB\) and RTX4060Ti 8GB \(8 GiB\);"),
        ("RTX 4090 48GB", r"there is RTX4090 \(24 GiB\) and RTX4090Laptop \(16 GiB\);"),
        ("3060 6GB", r"there is RTX3060 \(12 GiB\) and RTX3060 8GB \(8 GiB\) and RTX3060Laptop \(6 GiB\);"),
        ("3050 Laptop 8GB", r"has 8 GiB: there is RTX3050Laptop \(4 GiB\) and RTX3050Laptop 6GB \(6 GiB\);"),
    ],
)
def test_what_is_not_plain_is_asked_back(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_gpu(text)


@pytest.mark.parametrize(
    "text",
    [
        "RX 7600",
        "Radeon",
        "AMD Radeon RX 7900 XTX",
        "7900 XT",
        "MI300X",
        "Arc A770",
        "Intel Arc B580",
        "M4",
        "Apple M2 Max",
    ],
)
def test_of_another_maker_s_card_the_memory_is_asked_for(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^'{text}': only NVIDIA's cards are known by name; .* a size like 8GiB$"):
        parse_gpu(text)


@pytest.mark.parametrize(
    "driver", ["NVIDIA RTX A4000 Laptop GPU", "NVIDIA L4 vGPU", "NVIDIA GeForce RTX 6090", "Quadro P2000"]
)
def test_other_cards_here_have_their_memory_alone(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name=driver, total_memory=GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert gpu_here() == Gpu(driver, GIB)


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
