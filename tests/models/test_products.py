"""What a step's products cost, on cards that are not here: bitsandbytes is asked as it would be there."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from rank1_hf.models.cards import GPUS, FusedTokens
from rank1_hf.models.family import FAMILY
from rank1_hf.models.loading import load_model, open_checkpoint
from rank1_hf.models.memory import EXPECTED_ROWS
from rank1_hf.models.planning import Size
from rank1_hf.models.products import (
    Product,
    best_rows,
    fused_4bit_tokens,
    max_fused_gemm_tokens,
    products_of,
    step_overhead_tokens,
    step_sizes,
)
from tests.cards import CUDA, DRIVERS, bitsandbytes_cuda, put_in

SHAPES_7B = {"square": (3584, 3584), "small": (512, 3584), "wide": (18_944, 3584), "tall": (3584, 18_944)}
TOKENS = (1, 8, 16, 32, 64, 80, 128, 256)
MILLISECONDS = {  # of a step of rank1-7b in 4 bits, by its tokens: the traffic of its linear layers
    "RTX3060": (9.4, 9.4, 9.4, 10.5, 10.5, 10.5, 10.5, 82),
    "RTX4060Ti": (11.7, 11.7, 11.7, 13.1, 23, 23, 23, 50),
    "RTX3090": (3.6, 3.6, 3.6, 4.0, 4.0, 15, 15, 32),
    "RTX4090": (3.3, 3.3, 6.2, 14, 14, 14, 14, 29),
    "RTX5090": (1.9, 1.9, 7.7, 8.0, 8.0, 16, 16, 16),
    "H100": (1.0, 4.1, 4.1, 4.1, 8.8, 8.8, 8.8, 8.8),
    "T4": (10.5, 10.5, 10.5, 10.5, 10.5, 45, 45, 92),
    "T4 in bfloat16": (10.5, 92, 92, 92, 92, 92, 92, 92),
}


def of_7b(fused: FusedTokens) -> list[Product]:
    *layers, _ = Size.of(AutoConfig.for_model(**FAMILY["jhu-clsp/rank1-7b"])).products(torch.float16, "4bit", fused)
    return layers


@pytest.mark.parametrize("card", DRIVERS)
def test_the_figures_of_every_card_are_bitsandbytes_own(card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = put_in(card, monkeypatch)
    answers = {kind: fused_4bit_tokens(CUDA, dtype, *shape) for kind, shape in SHAPES_7B.items()}
    assert FusedTokens(**answers) == GPUS[card.lower().replace(" ", "")].fused_4bit
    assert all(FusedTokens(**answers).of(*shape) == answers[kind] for kind, shape in SHAPES_7B.items())


def test_every_card_that_is_planned_for_is_asked_about() -> None:
    assert {card.lower().replace(" ", "") for card in DRIVERS} == set(GPUS)


@pytest.mark.parametrize("card", MILLISECONDS)
def test_what_a_step_moves_on_eight_cards(card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = card.split()[0]
    fused, speed = GPUS[name.lower()].fused_4bit, GPUS[name.lower()].speed
    if "bfloat16" in card:
        put_in(name, monkeypatch)
        answers = {kind: fused_4bit_tokens(CUDA, torch.bfloat16, *shape) for kind, shape in SHAPES_7B.items()}
        fused = FusedTokens(**answers)
    assert fused is not None
    assert speed is not None
    bytes_moved = [sum(one.bytes_moved(n) for one in of_7b(fused)) for n in TOKENS]
    assert [1e3 * n / speed.bandwidth for n in bytes_moved] == pytest.approx(MILLISECONDS[card], rel=0.05)


@pytest.mark.parametrize(
    ("card", "n_fused", "spare", "rows"),
    [
        ("RTX3060", 128, 33, 128),
        ("RTX3090", 64, 33, 64),
        ("RTX4090", 8, 5, 256),
        ("H100", 5, 3, 256),
        ("T4", 64, 33, 64),
    ],
)
def test_rows_and_drafts_follow_the_card(card: str, n_fused: int, spare: int, rows: int) -> None:
    gpu = GPUS[card.lower().replace(" ", "")]
    assert gpu.fused_4bit is not None
    assert gpu.speed is not None
    products = of_7b(gpu.fused_4bit)
    assert max_fused_gemm_tokens(products, most=EXPECTED_ROWS) == n_fused
    assert step_overhead_tokens(products) == spare
    assert best_rows(products, gpu.speed, EXPECTED_ROWS) == rows


@pytest.mark.parametrize("n_fused", range(1, 70))
def test_a_step_with_drafts_stays_in_the_fused_kernel(n_fused: int) -> None:
    spare = step_overhead_tokens([Product(10**9, 0.516e9, n_fused)])
    for n_rows in range(1, spare):  # with more, steps are launched ahead and have no drafts
        assert n_rows + n_rows * max(spare // n_rows, 1) <= n_fused


def test_more_rows_are_better_where_nothing_is_written_out() -> None:
    speed = GPUS["h200"].speed
    assert speed is not None
    for n_bytes in (2e9, 1e9, 0.5e9):
        assert best_rows([Product(10**9, n_bytes)], speed, 200) == 200


@pytest.mark.parametrize(("n_bytes", "spare"), [(4e9, 128), (2e9, 128), (1e9, 64), (0.5e9, 32)])
def test_fewer_bytes_leave_fewer_tokens_to_spare(n_bytes: float, spare: int) -> None:
    assert step_overhead_tokens([Product(10**9, n_bytes)]) == spare


class Layer(nn.Module):
    """A 4-bit layer of bitsandbytes, as far as it can be on a card that is not here."""

    def __init__(self, n: int, k: int, compute_dtype: torch.dtype | None = None, blocksize: int = 64) -> None:
        super().__init__()
        self.out_features, self.in_features, self.compute_dtype = n, k, compute_dtype
        self.register_buffer("stored", torch.empty(n * k // 2, dtype=torch.uint8, device="meta"))
        self.weight = SimpleNamespace(device=CUDA, quant_state=SimpleNamespace(blocksize=blocksize))


def model_of(layers: list[nn.Module], dtype: torch.dtype) -> nn.Module:
    model = nn.ModuleList(layers)
    model.dtype = dtype
    return model


def layers_7b(**options: object) -> list[nn.Module]:
    numbers = {"square": 2, "small": 2, "wide": 2, "tall": 1}
    return [Layer(*shape, **options) for kind, shape in SHAPES_7B.items() for _ in range(numbers[kind])]


@pytest.mark.parametrize(
    ("card", "dtype", "sizes"),
    [
        ("RTX4090", torch.bfloat16, (256, 5)),
        ("RTX3060", torch.bfloat16, (128, 32)),
        ("H100", torch.bfloat16, (256, 3)),
        ("T4", torch.float16, (64, 32)),
        ("T4", torch.bfloat16, (256, 4)),
    ],
)
def test_a_loaded_model_is_tuned_by_what_bitsandbytes_says(card: str, dtype, sizes, monkeypatch) -> None:
    put_in(card, monkeypatch)
    assert step_sizes(model_of(layers_7b(), dtype), CUDA) == sizes


def test_float16_states_are_multiplied_in_what_the_layer_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in("T4", monkeypatch)
    for computes, expected in ((None, 64), (torch.float16, 64), (torch.float32, 7)):
        (product,) = products_of(model_of([Layer(3584, 3584, computes)], torch.float16))
        assert product.max_fused_gemm_tokens == expected


def test_rows_that_no_block_divides_are_always_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in("RTX3060", monkeypatch)
    (product,) = products_of(model_of([Layer(4096, 100)], torch.bfloat16))
    assert product.max_fused_gemm_tokens == 0


@pytest.mark.parametrize(("card", "expected"), [("RTX4090", 8), (None, 4)])
def test_a_version_that_does_not_answer_leaves_the_figures_that_are_known(card, expected, monkeypatch) -> None:
    put_in(card or "RTX4090", monkeypatch)
    if card is None:
        unknown = SimpleNamespace(name="NVIDIA Something", total_memory=2**34)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: unknown)
    monkeypatch.delattr(bitsandbytes_cuda(monkeypatch), "_gemm_4bit_use_custom_fn")
    assert fused_4bit_tokens(CUDA, torch.bfloat16, 3584, 3584) == expected


@pytest.mark.parametrize(("quantization", "per_weight"), [(None, 2), ("8bit", 1), ("4bit", 0.5)])
def test_layers_of_every_library_are_counted_with_their_bytes(quantization: str | None, per_weight: float) -> None:
    pytest.importorskip("bitsandbytes")
    model = load_model(open_checkpoint(), dtype="bfloat16", device="cpu", quantization=quantization)
    size = Size.of(model.config)
    *layers, output = products_of(model)
    assert sum(one.weights for one in layers) == size.linear
    assert sum(one.n_bytes for one in layers) == pytest.approx(per_weight * size.linear, rel=0.05)
    assert (output.weights, output.n_bytes) == (size.output, 2 * size.output)
