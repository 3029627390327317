"""The oracle of the kernels, against definitions and against Transformers' own modules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm, apply_rotary_pos_emb

from rank1_hf.decoding.kernels import reference
from tests.decoding.kernels.inputs import Attention, assert_keeps_the_contract, merged_product

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def test_it_has_the_operations_of_the_contract():
    assert_keeps_the_contract(reference)


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[int, int]]:
    new = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    return [(n, draw(st.integers(n, 140))) for n in new]


@given(rows(), st.sampled_from([None, 1, 5, 64, 100]), st.sampled_from([(1, 1), (2, 3), (1, 4)]))
def test_attention_is_its_definition(rows: list[tuple[int, int]], window: int | None, heads: tuple[int, int]):
    case = Attention(rows, *heads, head_dim=8)
    found = reference.attend(*case.arguments, 0.3, window)
    torch.testing.assert_close(found.double(), case.by_definition(0.3, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_attention_in_16_bits_rounds_the_weights_and_the_result_only(dtype: torch.dtype):
    case = Attention([(3, 100), (1, 300)], dtype=dtype)
    found = reference.attend(*case.arguments, 2.0, None)  # scores up to 50, of which 16 bits would lose the digits
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), case.by_definition(2.0, None), atol=4 * eps, rtol=2 * eps)


def test_padding_attends_nothing():
    case = Attention([(1, 70), (2, 0)])
    output = reference.attend(*case.arguments, 0.3, None)
    assert (output[1:] == 0).all()
    assert output[0].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", [False, True])
def test_the_norm_is_that_of_transformers(dtype: torch.dtype, residual: bool):
    torch.manual_seed(0)
    module = Qwen2RMSNorm(40, eps=1e-5).to(dtype)
    nn.init.normal_(module.weight)
    states, other = torch.randn(2, 3, 5, 40).to(dtype) * 3
    normalized, total = reference.add_rms_norm(states, other if residual else None, module.weight, 1e-5)
    expected = states + other if residual else states
    assert torch.equal(total, expected)
    assert torch.equal(normalized, module(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_rotation_is_that_of_transformers(dtype: torch.dtype):
    given = merged_product(6, 2, 16, 16, dtype)
    queries = reference.rotate_and_write(**given)
    by_head = (given[name].transpose(0, 1)[None] for name in ("queries", "keys"))
    expected, keys = apply_rotary_pos_emb(*by_head, given["cos"][None], given["sin"][None])
    assert torch.equal(queries, expected[0].transpose(0, 1))
    assert queries.is_contiguous()
    stored = torch.zeros_like(given["key_pool"]), torch.zeros_like(given["value_pool"])
    for token, slot in enumerate(given["slots"].tolist()):
        if slot >= 0:
            stored[0][slot // 64, :, slot % 64] = keys[0, :, token]
            stored[1][slot // 64, :, slot % 64] = given["values"][token]
    assert torch.equal(given["key_pool"], stored[0])
    assert torch.equal(given["value_pool"], stored[1])


def test_dimensions_behind_the_rotated_ones_stay():
    given = merged_product(6, 2, 16, 4, torch.float32)
    queries = reference.rotate_and_write(**given)
    assert torch.equal(queries[..., 4:], given["queries"][..., 4:])
    assert torch.equal(given["key_pool"][0, :, 3, 4:], given["keys"][0, :, 4:])
    first, second = given["queries"][..., :2], given["queries"][..., 2:4]
    cos, sin = given["cos"][:, None, :2], given["sin"][:, None, :2]
    torch.testing.assert_close(queries[..., :2], first * cos - second * sin)
    torch.testing.assert_close(queries[..., 2:4], second * cos + first * sin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "name"), [("silu", "silu"), ("gelu_tanh", "gelu_pytorch_tanh")])
def test_the_gate_is_that_of_transformers(dtype: torch.dtype, activation: str, name: str):
    torch.manual_seed(0)
    module = Qwen2MLP(Qwen2Config(hidden_size=8, intermediate_size=24, hidden_act=name)).to(dtype)
    module.down_proj = nn.Identity()
    states = torch.randn(5, 8).to(dtype) * 9
    eps = torch.finfo(dtype).eps
    found = reference.gate(module.gate_proj(states), module.up_proj(states), activation)
    torch.testing.assert_close(found, module(states), atol=4 * eps, rtol=2 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_read(dtype: torch.dtype):
    logits = torch.randn(5, 300).to(dtype)
    logits[1, [7, 200]] = 9.0  # the first of equals
    logits[2, 30] = math.nan
    logits[3] = -math.inf
    token, highest, false, true = reference.read_logits(logits, torch.tensor([4, 299])).T
    assert token[:2].tolist() == [logits[0].float().argmax(), 7]
    assert token[3] == 0
    assert highest[[0, 1, 3]].tolist() == [logits[0].max(), 9.0, -math.inf]
    assert highest[2].isnan()
    assert torch.equal(false, logits[:, 4].float())
    assert torch.equal(true, logits[:, 299].float())
