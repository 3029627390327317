"""The planner, against models that are really loaded and against sizes that are known."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig

from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.models.cards import GIB, GPUS, FusedTokens, Gpu, Speed, parse_gpu
from rank1_hf.models.family import FAMILY
from rank1_hf.models.loading import EMBEDDED_MODEL, load_model, open_checkpoint
from rank1_hf.models.planning import Size, family_config, plan, ways_to_load
from rank1_hf.models.products import fused_4bit_tokens
from scripts.quantization_agreement import linear_bytes
from tests import tiny_models
from tests.cards import CUDA, put_in

BILLIONS = {  # as the base models' cards give them
    "0.5b": 0.49,
    "1.5b": 1.54,
    "3b": 3.09,
    "7b": 7.62,
    "14b": 14.8,
    "32b": 32.8,
    "llama3-8b": 8.03,
    "mistral-2501-24b": 23.6,
}


@pytest.mark.parametrize("name", FAMILY)
def test_family_members_have_the_sizes_of_their_names(name: str) -> None:
    config = AutoConfig.for_model(**FAMILY[name])
    expected = BILLIONS[name.removeprefix("jhu-clsp/rank1-")] * 1e9
    assert Size.of(config).n_bytes(torch.bfloat16) / 2 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_weights_take_what_a_loaded_model_takes(checkpoint: Callable[..., Path], kind: str, dtype: torch.dtype) -> None:
    opened = open_checkpoint(checkpoint(kind))
    footprint = load_model(opened, dtype=dtype, device="cpu").get_memory_footprint(return_buffers=False)
    assert Size.of(opened.config).n_bytes(dtype) == footprint


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantized_weights_take_what_a_loaded_model_takes(quantization: str) -> None:
    opened = open_checkpoint()
    model = load_model(opened, dtype=torch.bfloat16, device="cpu", quantization=quantization)
    elsewhere = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    taken = linear_bytes(model) + sum({weight.data_ptr(): weight.nbytes for weight in elsewhere}.values())
    assert Size.of(opened.config).n_bytes(torch.bfloat16, quantization) == pytest.approx(taken, rel=0.1)
    assert Size.of(opened.config).n_bytes(torch.bfloat16, quantization) == pytest.approx(
        model.get_memory_footprint(), rel=0.1
    )


def test_awq_weights_take_what_they_take_on_disk(tmp_path: Path) -> None:
    """Of the embedded model the linear layers are a small part, and 128 weights share a scale and a zero."""
    tiny_models.save_awq_checkpoint(EMBEDDED_MODEL, tmp_path / "awq", tmp_path / "plain", group=128)
    config = open_checkpoint(tmp_path / "awq").config
    assert ways_to_load(config) == ("awq",)
    with safe_open(tmp_path / "awq" / "model.safetensors", "pt") as file:
        n_bytes = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert Size.of(config).n_bytes(torch.float16, "awq") == pytest.approx(n_bytes, rel=0.01)


@pytest.mark.parametrize("name", ["limrank", "songtingyu/limrank"])
def test_relatives_are_planned_for(name: str) -> None:
    config = family_config(name)
    assert config is not None
    assert Size.of(config) == Size.of(family_config("rank1-7b"))


def test_awq_members_are_planned_for_as_they_are() -> None:
    plain, awq = family_config("rank1-14b"), family_config("jhu-clsp/rank1-14b-awq")
    assert Size.of(plain) == Size.of(awq)
    assert ways_to_load(plain) == (None, "8bit", "4bit")
    assert ways_to_load(awq) == ("awq",)
    gpu = parse_gpu("16GiB")
    assert plan(awq, gpu, quantization="awq").fits
    assert not plan(plain, gpu).fits


def test_other_kinds_of_stored_weights_are_not_planned_for() -> None:
    config = AutoConfig.for_model(**FAMILY["jhu-clsp/rank1-7b"], quantization_config={"quant_method": "gptq"})
    with pytest.raises(ValueError, match="quantized by 'gptq'"):
        ways_to_load(config)


def test_kv_takes_what_the_cache_allocates() -> None:
    config = open_checkpoint().config
    cache = KVCache(max_tokens=64)
    head_dim = config.hidden_size // config.num_attention_heads
    row_states = torch.zeros(1, config.num_key_value_heads, head_dim, dtype=torch.bfloat16)
    for layer in range(config.num_hidden_layers):
        cache.write(layer, torch.tensor([0]), torch.tensor([0]), row_states, row_states)
    assert plan(config, Gpu("", 8 * GIB)).kv_per_token == cache.n_bytes / 64


def test_parts_add_up_to_the_memory() -> None:
    gpu = parse_gpu("24GiB")
    found = plan(family_config("rank1-7b"), gpu, quantization="4bit")
    used = found.weights + found.reserve + found.kv_tokens * found.kv_per_token
    assert gpu.memory - found.kv_per_token < used <= gpu.memory
    assert found.rows == min(256, found.kv_tokens // 700)


def test_what_does_not_fit_has_no_rows() -> None:
    found = plan(family_config("rank1-32b"), parse_gpu("24GiB"))
    assert not found.fits
    assert found.rows == 0
    assert found.pairs_per_minute is None


def test_more_memory_never_gives_fewer_rows_and_longer_chains_never_more() -> None:
    config = family_config("rank1-7b")
    rows = [plan(config, Gpu("", gib * GIB)).rows for gib in (8, 12, 16, 24, 48, 80)]
    assert rows == sorted(rows)
    lengths = [plan(config, parse_gpu("24GiB"), chain_tokens=n).rows for n in (100, 1000, 8000)]
    assert lengths == sorted(lengths, reverse=True)


def test_speed_is_bounded_by_reading_the_weights_and_by_the_operations() -> None:
    gpu, config = GPUS["h200"], family_config("rank1-7b")
    found = plan(config, gpu, prompt_tokens=400, chain_tokens=300)
    assert gpu.speed is not None
    assert found.pairs_per_minute is not None
    by_operations = 60 * gpu.speed.operations / (2 * Size.of(config).linear * 700)
    by_weights = 60 * found.rows * gpu.speed.bandwidth / (300 * found.weights)
    assert found.pairs_per_minute < min(by_operations, by_weights)
    assert found.pairs_per_minute > 0.2 * min(by_operations, by_weights)


class Asked:
    """`FusedTokens` for any matrix, as bitsandbytes answers on the card that this machine seems to have."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.of = partial(fused_4bit_tokens, CUDA, dtype)


@pytest.mark.parametrize("card", ["RTX3060", "RTX4070"])
@pytest.mark.parametrize("model", ["rank1-7b", "rank1-14b"])
def test_4_bits_on_12_gb_are_as_fast_as_bitsandbytes_lets_them(card: str, model: str, monkeypatch) -> None:
    gpu, config = GPUS[card.lower().replace(" ", "")], family_config(model)
    found = plan(config, gpu, quantization="4bit")
    asked = plan(config, replace(gpu, fused_4bit=Asked(put_in(card, monkeypatch))), quantization="4bit")
    assert found.rows == asked.rows
    assert found.pairs_per_minute == pytest.approx(asked.pairs_per_minute, rel=0.1)


@cache
def _size_of_7b() -> Size:
    return Size.of(family_config("rank1-7b"))


@pytest.mark.parametrize("card", [card for card, gpu in GPUS.items() if gpu.memory >= 8 * GIB])
def test_4_bits_promise_less_where_they_are_written_out(card: str) -> None:
    gpu, config = GPUS[card], family_config("rank1-7b")
    size = _size_of_7b()
    found, always, never = (
        plan(config, replace(gpu, fused_4bit=fused), size=size, quantization="4bit")
        for fused in (gpu.fused_4bit, None, FusedTokens(0, 0, 0, 0))
    )
    assert never.pairs_per_minute <= found.pairs_per_minute <= always.pairs_per_minute
    assert always.rows == never.rows
    assert found.rows in {always.rows, *asdict(gpu.fused_4bit).values()}


def test_rows_beyond_what_a_card_multiplies_at_once_are_not_planned() -> None:
    """A 3090 has room for 256 pairs of a 7B model, and multiplies 4-bit weights as they are for 64."""
    assert plan(family_config("rank1-7b"), GPUS["rtx3090"], quantization="4bit").rows == 64
    assert plan(family_config("rank1-7b"), GPUS["rtx3090"], quantization="8bit").rows == 256
    assert plan(family_config("rank1-7b"), parse_gpu("24GiB"), quantization="4bit").rows == 256, "an unknown card"


def test_weights_that_are_written_out_are_read_in_16_bits() -> None:
    """By hand: one row, no context to speak of, a card that never fuses, at 1 GB a second and unlimited operations."""
    config, gpu = family_config("rank1-7b"), Gpu("", 80 * GIB, Speed(1e9, 1e30), FusedTokens(0, 0, 0, 0))
    size = Size.of(config)
    found = plan(config, gpu, quantization="4bit", prompt_tokens=10**6, chain_tokens=1)
    per_step = size.n_bytes(torch.bfloat16, "4bit") - 2 * (size.others - size.output) + 4 * size.linear
    seconds = (per_step + found.kv_per_token * (10**6 + 0.5)) / 1e9
    assert found.rows == 1
    assert found.pairs_per_minute == pytest.approx(60 / seconds, rel=1e-3)
