"""Spellings of dtypes, against PyTorch's own names, and of quantization."""

import pytest
import torch

from rank1_hf.models.devices import resolve_dtype
from rank1_hf.models.spellings import DTYPES, dtype_name, quantization_kind


@pytest.mark.parametrize("name", [name for name in DTYPES if hasattr(torch, name)])
def test_pytorch_s_names_mean_what_they_mean_there(name: str):
    assert resolve_dtype(name) is getattr(torch, name)
    assert resolve_dtype(f"torch.{name}") is getattr(torch, name)


@pytest.mark.parametrize(
    ("given", "meant"), [("fp16", "float16"), (" Half", "float16"), ("BF16", "bfloat16"), ("fp32", "float32")]
)
def test_dtypes(given: str, meant: str):
    assert dtype_name(given) == meant


@pytest.mark.parametrize("given", ["8bit", "8-bit", "8 bit", "int8", "LLM.int8()", "8"])
def test_eight_bits(given: str):
    assert quantization_kind(given) == "8bit"


@pytest.mark.parametrize("given", ["4bit", "4-bit", "4_bit", "NF4", "nf4", "4"])
def test_four_bits(given: str):
    assert quantization_kind(given) == "4bit"


@pytest.mark.parametrize("given", ["int4", "fp4", "fp8", "auto", "", None, torch.float16])
def test_what_is_no_spelling_stays_as_it_is(given: object):
    assert dtype_name(given) is given
    assert quantization_kind(given) is given
