"""Packed linear layers: the products of `nn.Linear`, and what is replaced by them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rank1_hf import Rank1
from rank1_hf.models.loading import load_model, open_checkpoint
from rank1_hf.models.packed import PackedLinear, pack_linear_layers

HAS_BFLOAT16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
BFLOAT16 = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no fast bfloat16 products")
)


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_tokens", [1, 7, 300])
def test_products_are_those_of_a_linear_layer(dtype: torch.dtype, bias: bool, n_tokens: int) -> None:
    model = nn.Sequential(nn.Linear(96, 160, bias=bias, dtype=dtype)).requires_grad_(False)
    states = torch.randn(1, n_tokens, 96, dtype=dtype)
    expected = model(states)
    pack_linear_layers(model)
    assert isinstance(model[0], PackedLinear)
    torch.testing.assert_close(model(states), expected)


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
