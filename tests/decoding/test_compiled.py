"""Compiled layers: the same chains and verdicts, and one compilation for all layers and all sizes of a step."""

from functools import partialmethod

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from rank1_hf import Rank1
from rank1_hf.models.compiled import compile_layers
from rank1_hf.tracing import Trace
from tests.decoding.oracle import assert_same

PAIRS = [
    (query, passage) for query in ("how wings lift", "bread") for passage in ("Bread is baked.", "Wings lift. " * 9)
]


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    """Everything but the last stage, which makes machine code of the traced graphs, and takes minutes here."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("shape", ["qwen2", "mistral-sliding"])
def test_chains_and_verdicts_equal_full_forward_passes(case, shape: str):
    folder, oracle, requests, expected = case(shape)
    decoder = oracle.decoder(folder, compile=True)
    assert_same(list(decoder.run(requests, max_rows=1)), expected)
    n_graphs = counters["stats"]["unique_graphs"]
    assert n_graphs > 0
    assert_same(list(decoder.run(requests, max_rows=7)), expected)
    assert counters["stats"]["unique_graphs"] <= n_graphs + 8  # one token is special to the compiler; no other size is


def test_packed_weights_and_observers_work_in_compiled_layers():
    plain, compiled = Rank1(max_new_tokens=24), Rank1(max_new_tokens=24, decoding="compile=on")
    expected = plain.judge(PAIRS, trace=True)
    for ours, theirs in zip(compiled.judge(PAIRS, trace=True), expected, strict=True):
        assert ours.chain == theirs.chain
        assert ours.log_odds == pytest.approx(theirs.log_odds, abs=1e-4)
        assert isinstance(ours.trace, Trace)
    assert counters["stats"]["unique_graphs"] > 0


def test_a_model_whose_layers_are_not_known_is_refused():
    model = Rank1().model
    model._no_split_modules = None
    with pytest.raises(ValueError, match="does not say what its layers are"):
        compile_layers(model)
