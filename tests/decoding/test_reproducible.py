"""Reproducible mode: the same bits whatever else is in the batch; and still the chains of the oracle."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rank1_hf.decoding import packed
from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.packed import pack_linear_layers
from rank1_hf.decoding.reproducible import ReproducibleScheduler
from rank1_hf.decoding.requests import Decoded
from tests.decoding.oracle import Oracle, assert_same

SLOW = "RANK1_SLOW" in os.environ
"""With as many pairs as a page of a large batch has."""


def decoder(
    oracle: Oracle,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    rethinks: int = 0,
    packed: bool = False,
    **options: object,
) -> Decoder:
    """A reproducible decoder on a model of its own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if packed:
        pack_linear_layers(model)
    return Decoder(
        model,
        oracle.encoder.chain_rules(oracle.eos),
        true_id=oracle.encoder.true_id,
        false_id=oracle.encoder.false_id,
        rethinks=rethinks,
        options=DecodingOptions(reproducible=True, **options),
    )


def bits(results: list[Decoded]) -> dict[int, Decoded]:
    """By index; equal where the chains are, and every bit of the verdicts."""
    return {result.index: result for result in results}


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_chains_are_those_of_the_oracle(checkpoint: Callable[..., Path], kind: str) -> None:
    folder = checkpoint(kind)
    oracle = Oracle.load(folder)
    requests = oracle.requests()
    expected = [oracle.decode(request) for request in requests]
    assert_same(list(decoder(oracle, folder).run(requests, max_rows=4)), expected)


@pytest.fixture
def in_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 16 bits are packed in panels on every processor."""
    monkeypatch.setattr(packed, "_has_instructions", lambda dtype: False)


@pytest.mark.usefixtures("in_panels")
@pytest.mark.parametrize(
    ("dtype", "is_packed", "n_subsets"),
    [(torch.bfloat16, False, 20), (torch.bfloat16, True, 20), (torch.float16, False, 20 if SLOW else 4)],
)
def test_every_subset_in_every_order_gives_the_same_bits(
    checkpoint: Callable[..., Path], dtype: torch.dtype, is_packed: bool, n_subsets: int
) -> None:
    """Subsets of one pair, of fewer than there are rows, and of several times as many."""
    folder = checkpoint("qwen2")
    oracle = Oracle.load(folder)
    model = decoder(oracle, folder, dtype, packed=is_packed)
    n_rows, largest = (16, 60) if SLOW else (8, 20)
    requests = oracle.requests(200 if SLOW else 60, limit=12)
    expected = bits(list(model.run(requests, max_rows=n_rows)))
    assert len({result.true_logit for result in expected.values()}) > len(requests) / 2, (
        "the pairs are too much alike to tell"
    )
    rng = random.Random(0)
    for _ in range(n_subsets):
        subset = rng.sample(requests, rng.randint(1, largest))
        results = list(model.run(subset, max_rows=n_rows))
        assert bits(results) == {request.index: expected[request.index] for request in subset}


@pytest.mark.usefixtures("in_panels")
@pytest.mark.parametrize("is_packed", [False, True])
def test_preempted_and_rethinking_rows_get_the_same_bits(checkpoint: Callable[..., Path], is_packed: bool) -> None:
    folder = checkpoint("qwen2")
    oracle = Oracle.load(folder)
    # Prompts that nearly fill a page, so that several rows start and then each needs another one.
    requests = [
        replace(request, prompt=request.prompt[: PAGE_SIZE - 3] + request.prompt[-1:], n_shared=0)
        for request in oracle.requests(40, limit=30)
        if len(request.prompt) >= PAGE_SIZE
    ]
    model = decoder(oracle, folder, torch.bfloat16, rethinks=1, packed=is_packed)
    expected = bits(list(model.run(requests, max_rows=9)))
    tight = decoder(oracle, folder, torch.bfloat16, rethinks=1, packed=is_packed, kv_cache_tokens=5 * PAGE_SIZE)
    assert bits(list(tight.run(requests, max_rows=9))) == expected
    assert tight.stats.preemptions > 0


def test_running_out_of_memory_does_not_change_the_bits(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint("qwen2")
    oracle = Oracle.load(folder)
    requests = oracle.requests(24)
    model = decoder(oracle, folder, torch.bfloat16)
    expected = bits(list(model.run(requests, max_rows=8)))
    forward, calls = model.model.forward, []

    def fails_once(**inputs: object) -> object:
        calls.append(inputs)
        if len(calls) == 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(**inputs)

    monkeypatch.setattr(model.model, "forward", fails_once)
    assert bits(list(model.run(requests, max_rows=8))) == expected
    assert model.stats.out_of_memory == 1


def test_the_step_is_as_wide_with_one_pair_as_with_many(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint("qwen2")
    oracle = Oracle.load(folder)
    model = decoder(oracle, folder)
    forward, widths = model.model.forward, set()

    def spy(**inputs: torch.Tensor) -> object:
        widths.add((inputs["input_ids"].shape[1], len(inputs["logits_to_keep"])))
        return forward(**inputs)

    monkeypatch.setattr(model.model, "forward", spy)
    list(model.run([replace(oracle.requests(1)[0], index=0)], max_rows=7))
    alone = set(widths)
    widths.clear()
    list(model.run(oracle.requests(20), max_rows=7))
    assert widths == alone
    assert {width for width, _ in alone} == {7, 128}


@pytest.mark.usefixtures("in_panels")
def test_steps_are_padded_only_where_products_depend_on_their_shape(checkpoint: Callable[..., Path]) -> None:
    """In panels they do not, while all layers are fused: a hook ends that."""
    folder = checkpoint("qwen2")
    oracle = Oracle.load(folder)

    def pads(model: Decoder) -> bool:
        return isinstance(model._new_scheduler(iter(()), None), ReproducibleScheduler)

    assert pads(decoder(oracle, folder, torch.bfloat16))
    assert pads(decoder(oracle, folder, torch.bfloat16, packed=True, fuse=False))
    model = decoder(oracle, folder, torch.bfloat16, packed=True)
    assert not pads(model)
    with model.model.base_model.layers[0].mlp.register_forward_hook(lambda *_: None):
        assert pads(model)
    assert not pads(model)
