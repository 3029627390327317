"""Models split over several places: the same chains, and each layer's keys and values beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rank1_hf import DecodingOptions, Rank1
from rank1_hf.decoding.layers import FusedLayer
from rank1_hf.models.loading import load_model, open_checkpoint
from rank1_hf.models.placement import device_of, is_split, layer_devices, offloaded_bytes
from tests import tiny_models

PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line]
PAIRS = [(query, passage) for query in ("how do wings carry?", "what does bread need?") for passage in PASSAGES[:6]]


def split(n_layers: int, on_disk: set[str]) -> dict[str, str]:
    """A device map with some modules on disk and the others on the CPU."""
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    names += [f"model.layers.{layer}" for layer in range(n_layers)]
    return {name: "disk" if name in on_disk else "cpu" for name in names}


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
@pytest.mark.parametrize("on_disk", [{"model.layers.1"}, {"model.layers.0", "lm_head"}, {"model.embed_tokens"}])
def test_a_split_model_gives_the_chains_of_the_whole(
    checkpoint: Callable[..., Path], kind: str, on_disk: set[str]
) -> None:
    folder = checkpoint(kind, tie_word_embeddings=False)
    whole = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=24)
    device_map = split(whole.model.config.num_hidden_layers, on_disk)
    parts = Rank1(folder, dtype="float32", max_new_tokens=24, device_map=device_map)
    assert is_split(parts.model)
    assert not is_split(whole.model)
    assert set(layer_devices(parts.model)) == {torch.device("cpu")}
    assert device_of(parts.model.get_input_embeddings()) == torch.device("cpu")
    for ours, theirs in zip(parts.judge(PAIRS), whole.judge(PAIRS), strict=True):
        assert (ours.chain, ours.ended, ours.error) == (theirs.chain, theirs.ended, None)
        assert ours.log_odds == pytest.approx(theirs.log_odds, abs=1e-3)


@pytest.mark.parametrize(
    "on_disk",
    [{"model.layers.3"}, {"model.layers.0", "model.layers.1", "model.layers.2", "model.norm"}],
    ids=["one", "most"],
)
def test_unequal_parts_of_a_trained_model_give_its_chains(on_disk: set[str], caplog: pytest.LogCaptureFixture) -> None:
    pairs = [("what carries an aircraft", passage) for passage in PASSAGES[:6]]
    whole = Rank1(device="cpu", dtype="float32", max_new_tokens=48)
    parts = Rank1(dtype="float32", max_new_tokens=48, device_map=split(4, on_disk))
    ours, theirs = parts.judge(pairs), whole.judge(pairs)
    assert [(one.chain, one.ended) for one in ours] == [(one.chain, one.ended) for one in theirs]
    assert any(one.ended == "closed" for one in ours)
    n_bytes = sum(weight.nbytes for name in on_disk for weight in parts.model.get_submodule(name).parameters())
    assert offloaded_bytes(parts.model) == {"cpu": 0, "disk": n_bytes}
    assert caplog.text.count("every step moves them") == 1, "how slow it will be is said once"
    assert offloaded_bytes(whole.model) == {"cpu": 0, "disk": 0}


def test_layers_that_stay_in_their_place_are_fused(checkpoint: Callable[..., Path]) -> None:
    """accelerate's hooks within a layer, of which none can be fused, are left only where it brings weights."""
    folder = checkpoint("qwen2", tie_word_embeddings=False)
    n_layers = Rank1(folder).model.config.num_hidden_layers
    parts = Rank1(folder, dtype="float32", device_map=split(n_layers, {"model.layers.1"}))
    if not parts.decoder.options.fuse:
        pytest.skip("without kernels nothing is fused")
    layers = parts.model.model.layers
    hooked = [any(hasattr(part, "_hf_hook") for part in list(layer.modules())[1:]) for layer in layers]
    fused = [isinstance(getattr(layer._old_forward, "__self__", None), FusedLayer) for layer in layers]
    assert hooked == [index == 1 for index in range(n_layers)]
    assert fused == [index != 1 for index in range(n_layers)]
    parts.judge(PAIRS[:2])
    again = Rank1(parts.model, tokenizer=parts.tokenizer, max_new_tokens=24, decoding=DecodingOptions(fuse=False))
    fusing = Rank1(parts.model, tokenizer=parts.tokenizer, max_new_tokens=24)
    assert [one.chain for one in again.judge(PAIRS)] == [one.chain for one in fusing.judge(PAIRS)]


def test_what_lies_in_main_memory_is_offloaded_only_where_something_else_computes() -> None:
    model = load_model(open_checkpoint(), dtype="float32", device="cpu")
    layer = sum(weight.nbytes for weight in model.model.layers[0].parameters())
    model.hf_device_map = {"model.layers.0": "cpu", "model.layers.1": 0, "model.layers.2": "disk"}
    assert offloaded_bytes(model) == {"cpu": layer, "disk": layer}
    model.hf_device_map = {"model.layers.0": "cpu", "model.layers.1": "cpu"}
    assert offloaded_bytes(model) == {"cpu": 0, "disk": 0}


def test_max_memory_decides_what_goes_to_disk(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("qwen2", tie_word_embeddings=False)
    whole = load_model(open_checkpoint(folder), device="cpu")
    n_bytes = sum(weight.nbytes for weight in whole.parameters())
    parts = load_model(open_checkpoint(folder), max_memory={"cpu": int(0.8 * n_bytes)})
    assert is_split(parts)
    assert sum(w.nbytes for w in parts.parameters() if w.device.type == "cpu") <= 0.8 * n_bytes


def test_a_device_and_a_device_map_are_not_both_taken(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="either device or device_map"):
        Rank1(checkpoint("qwen2"), device="cpu", device_map="auto")
