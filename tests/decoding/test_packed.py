"""Packed linear layers: the products of `nn.Linear`, and what is replaced by them."""

import platform
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rank1_hf import Rank1
from rank1_hf.decoding import packed
from rank1_hf.decoding.packed import ONEDNN, PANELS, Layout, PackedLinear, pack_linear_layers
from rank1_hf.models.loading import load_model, open_checkpoint


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`processor(...)`: what this one is said to have."""

    def has(*, bfloat16: bool = False, avx512: bool = False, amx: bool = False, compiler: bool = True) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: avx512)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)

        def check_fit(dtype: torch.dtype) -> None:
            if not compiler:
                raise ValueError("there is no C++ compiler")

        monkeypatch.setattr(packed.cpu, "check_fit", check_fit)

    return has


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_tokens", [1, 7, 300])
def test_products_are_those_of_a_linear_layer(dtype: torch.dtype, kernels: bool, bias: bool, n_tokens: int) -> None:
    linear = nn.Linear(96, 161, bias=bias, dtype=dtype).requires_grad_(False)
    model, states = nn.Sequential(linear), torch.randn(1, n_tokens, 96, dtype=dtype)
    expected, weight = model(states), linear.weight.clone()
    pack_linear_layers(model, kernels=kernels)
    torch.testing.assert_close(model(states), expected)
    if kernels or dtype == torch.float32:  # else by what oneDNN can
        assert isinstance(model[0], PackedLinear)
        assert torch.equal(model[0].unpacked().weight, weight)


@pytest.mark.parametrize(
    ("has", "float32", "bfloat16", "float16"),
    [
        ({}, PANELS, PANELS, PANELS),  # AVX2
        ({"avx512": True}, PANELS, PANELS, PANELS),
        ({"avx512": True, "bfloat16": True}, PANELS, ONEDNN, PANELS),
        ({"avx512": True, "amx": True}, PANELS, ONEDNN, PANELS),
        ({"compiler": False}, ONEDNN, None, None),
        ({"compiler": False, "avx512": True}, ONEDNN, ONEDNN, None),
    ],
)
def test_the_layout_follows_what_the_processor_can(
    processor: Callable[..., None], has: dict[str, bool], float32: Layout, bfloat16: Layout, float16: Layout
) -> None:
    processor(**has)
    found = [packed._layout(dtype, kernels=True) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    assert found == [float32, bfloat16, float16]


def test_a_packed_layer_shows_itself_and_has_no_weight_to_change() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False))
    pack_linear_layers(model)
    assert repr(model[0]) == "PackedLinear(in_features=4, out_features=6)"
    assert not hasattr(model[0], "weight")
    with pytest.raises(AttributeError, match=r"is packed and has no weight; .* DecodingOptions\(pack=False\)"):
        model[0].weight[0] = 0


def test_only_plain_linear_layers_of_fast_dtypes_are_replaced() -> None:
    class Special(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return F.linear(states, self.weight) + 1

    plain, special, double = nn.Linear(4, 4), Special(4, 4), nn.Linear(4, 4, dtype=torch.float64)
    meta, embedding = nn.Linear(4, 4, device="meta"), nn.Embedding(4, 4)
    model = nn.ModuleList([plain, special, double, meta, embedding])
    pack_linear_layers(model)
    assert list(model)[1:] == [special, double, meta, embedding]
    assert model[0] is not plain


def test_a_loaded_checkpoint_is_packed_and_a_model_that_was_handed_over_is_not() -> None:
    loaded = Rank1(dtype="float32", decoding="fuse=off")  # which packs several together
    linear = [name for name, layer in loaded.model.named_modules() if isinstance(layer, PackedLinear)]
    assert len(linear) == 7 * loaded.model.config.num_hidden_layers + 1
    mine = load_model(open_checkpoint(None))
    Rank1(mine, tokenizer=loaded.tokenizer)
    assert not any(isinstance(layer, PackedLinear) for layer in mine.modules())
