"""A `Rank1` with a score cache: what is found again, what never is, and that it is the same."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

from rank1_hf import DecodingOptions, EarlyExit, Judgment, Markers, Observer, Rank1
from rank1_hf.decoding.loop import Decoder
from rank1_hf.models import identity
from rank1_hf.reranking import cached_judgments
from rank1_hf.reranking.score_cache import CacheError, ScoreCache
from rank1_hf.serving.engine import Engine

PAIRS = [("what carries it?", f"passage {number} says that the wing does. " * (number + 1)) for number in range(5)]
OPTIONS: dict[str, Any] = {"device": "cpu", "max_new_tokens": 6}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "scores.db"


@pytest.fixture
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("qwen2")


def judged(model: Rank1, pairs: Any = PAIRS, **options: Any) -> list[Judgment]:
    return list(model.judge(pairs, show_progress_bar=False, **options))


def hits(judgments: list[Judgment]) -> list[bool]:
    return [judgment.cached for judgment in judgments]


def no_more(*_: Any) -> None:
    pytest.fail("decoded")


def fields(judgments: list[Judgment]) -> list[dict[str, Any]]:
    """Everything, bit by bit, but for where it comes from."""
    return [judgment.to_dict() | {"cached": None, "bits": judgment.log_odds.hex()} for judgment in judgments]


@pytest.mark.parametrize("decoding", ["reproducible=off", "reproducible=on"])
@pytest.mark.parametrize("engine", ["paged", "plain"])
def test_a_hit_is_bit_for_bit_a_fresh_judgment_and_nothing_is_decoded(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoding: str, engine: Any
):
    options = OPTIONS | {"engine": engine} | ({"decoding": decoding} if engine == "paged" else {})
    fresh = judged(Rank1(folder, dtype="float32", **options))
    kept = judged(Rank1(folder, dtype="float32", cache=cache, **options))
    again = Rank1(folder, dtype="float32", cache=cache, **options)
    monkeypatch.setattr(type(again.decoder), "_forward" if engine == "paged" else "decode", no_more)
    found = judged(again)
    assert (hits(fresh), hits(kept), hits(found)) == ([False] * 5, [False] * 5, [True] * 5)
    assert fields(found) == fields(kept) == fields(fresh)
    assert found == fresh, "judgments are equal wherever they come from"
    assert again.predict(PAIRS).tolist() == [torch.tensor(each.score).item() for each in fresh]
    assert [hit["corpus_id"] for hit in again.rank(PAIRS[0][0], [passage for _, passage in PAIRS])]


def test_in_reproducible_mode_a_hit_is_a_fresh_judgment_in_any_company(folder: Path, cache: Path):
    options = OPTIONS | {"decoding": "reproducible=on,batch_size=4"}
    with_cache = Rank1(folder, cache=cache, **options)
    judged(with_cache, PAIRS[1:3])
    mixed = judged(with_cache)
    assert hits(mixed) == [False, True, True, False, False]
    assert fields(mixed) == fields(judged(Rank1(folder, **options)))


def test_hits_come_while_a_stream_is_read(folder: Path, cache: Path):
    model = Rank1(folder, cache=cache, **OPTIONS)
    pairs = [("query", f"passage {number}") for number in range(200)]
    judged(model, pairs)
    taken: list[int] = []

    def stream() -> Iterator[tuple[str, str]]:
        for number, pair in enumerate(pairs):
            taken.append(number)
            yield pair

    judgments = model.judge(stream(), stream=True)
    next(iter(judgments))
    assert len(taken) < 100
    assert sorted(each.index for each in judgments) == list(range(1, 200))


def test_hits_new_pairs_duplicates_and_bad_ones_in_one_call(folder: Path, cache: Path):
    model = Rank1(folder, cache=cache, **OPTIONS)
    judged(model, PAIRS[:2])
    pairs = [PAIRS[0], PAIRS[3], PAIRS[0], ("query", None), PAIRS[1], PAIRS[3]]
    found = judged(model, pairs)
    assert [judgment.index for judgment in found] == list(range(6))
    assert hits(found) == [True, False, True, False, True, False]
    assert [judgment.error is None for judgment in found] == [True, True, True, False, True, True]
    assert len(ScoreCache(cache)) == 3


def test_a_server_s_loop_uses_it_too(folder: Path, cache: Path):
    model = Rank1(folder, cache=cache, **OPTIONS)
    fresh = judged(model)
    delivered: list[Any] = []
    with Engine(model, max_pairs=10) as engine:
        engine.submit(PAIRS, delivered.append)
        while len(delivered) < len(PAIRS):
            pass
    assert sorted(delivered, key=lambda each: each.index) == fresh
    assert all(each.cached for each in delivered)


# ---- what never hits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"max_new_tokens": 7},
        {"max_length": 300},
        {"rethink": 1},
        {"min_thinking_tokens": 2},
        {"prompt_template": "Find FILL_QUERY_HERE"},
        {"markers": Markers(wait="\nHmm")},
        {"markers": Markers(true=" yes", false=" no")},
        {"dtype": "bfloat16"},
        {"engine": "plain"},
        {"decoding": "reproducible=on"},
        {"decoding": "speculate=off"},
        {"decoding": "page_size=32"},
    ],
    ids=str,
)
def test_other_options_never_hit(folder: Path, cache: Path, other: dict[str, Any]):
    judged(Rank1(folder, dtype="float32", cache=cache, **OPTIONS))
    model = Rank1(folder, cache=cache, **{"dtype": "float32"} | OPTIONS | other)
    assert hits(judged(model)) == [False] * 5
    assert hits(judged(model)) == [True] * 5


def test_options_that_decide_nothing_hit(folder: Path, cache: Path, tmp_path: Path):
    judged(Rank1(folder, cache=cache, **OPTIONS))
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    other = DecodingOptions(kv_cache_tokens=5000, batch_size=3)
    assert hits(judged(Rank1(moved, cache=ScoreCache(cache), decoding=other, **OPTIONS))) == [True] * 5


def test_in_reproducible_mode_the_width_of_steps_decides(folder: Path, cache: Path):
    model = Rank1(folder, cache=cache, decoding="reproducible=on,batch_size=4", **OPTIONS)
    judged(model)
    assert hits(judged(model, batch_size=4)) == [True] * 5
    assert hits(judged(model, batch_size=8)) == [False] * 5


def test_one_weight_one_token_and_one_number_of_the_config_decide(folder: Path, cache: Path, tmp_path: Path):
    judged(Rank1(folder, cache=cache, **OPTIONS))

    def changed(name: str, change: Callable[[Path], object]) -> Path:
        copy = Path(shutil.copytree(folder, tmp_path / name))
        change(copy)
        return copy

    def flip(copy: Path) -> None:
        content = bytearray((copy / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (copy / "model.safetensors").write_bytes(content)

    def rescale(copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        config["rms_norm_eps"] = 1e-4
        (copy / "config.json").write_text(json.dumps(config))

    def rename(copy: Path) -> None:
        spec = json.loads((copy / "tokenizer.json").read_text())
        spec["added_tokens"][0]["lstrip"] = not spec["added_tokens"][0]["lstrip"]
        (copy / "tokenizer.json").write_text(json.dumps(spec))

    for name, change in (("weight", flip), ("config", rescale), ("tokenizer", rename)):
        assert hits(judged(Rank1(changed(name, change), cache=cache, **OPTIONS))) == [False] * 5, name


def test_a_loaded_model_is_known_by_its_tensors_its_config_and_its_tokenizer(folder: Path, cache: Path):
    def model(change: Callable[[Any], object] = lambda model: None) -> Rank1:
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        change(loaded)
        return Rank1(loaded, tokenizer=AutoTokenizer.from_pretrained(folder), cache=cache, max_new_tokens=6)

    def nudge(loaded: Any) -> None:
        with torch.no_grad():
            loaded.model.norm.weight[3] += 1e-3

    judged(model())
    assert hits(judged(model())) == [True] * 5
    assert hits(judged(model(nudge))) == [False] * 5
    assert hits(judged(model(lambda loaded: setattr(loaded.config, "some_option", 3)))) == [False] * 5


@pytest.mark.parametrize("name", ["RULES", "__version__", "transformers.__version__"])
def test_another_version_never_hits(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    judged(Rank1(folder, cache=cache, **OPTIONS))
    *owner, attribute = name.split(".")
    monkeypatch.setattr(getattr(cached_judgments, *owner) if owner else cached_judgments, attribute, "99")
    assert hits(judged(Rank1(folder, cache=cache, **OPTIONS))) == [False] * 5


def test_a_budget_set_later_counts(folder: Path, cache: Path):
    model = Rank1(folder, cache=cache, **OPTIONS)
    judged(model)
    model.max_new_tokens = 3
    assert hits(judged(model)) == [False] * 5
    model.max_new_tokens = 6
    assert hits(judged(model)) == [True] * 5


def test_the_same_prompt_cut_and_whole_says_which(folder: Path, cache: Path):
    """A passage that is exactly what another is cut to has its prompt."""
    model = Rank1(folder, cache=cache, max_length=120, **OPTIONS)
    long = "wing " * 300
    cut = model.encode("query", long)
    (first,) = judged(model, [("query", long)])
    assert first.truncated
    start = cut.text.partition("Passage: ")[2].removesuffix("\n")
    assert model.encode("query", start).ids == cut.ids
    (second,) = judged(model, [("query", start)])
    assert (second.cached, second.truncated) == (True, False)


class Zero(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores


@pytest.mark.parametrize(
    "steering",
    [
        {"think": False},
        {"rule": EarlyExit()},
        {"logits_processor": Zero()},
        {"logits_processor": {0: Zero()}},
        {"trace": True},
        {"observers": [Observer()]},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_is_steered_or_watched_neither_hits_nor_is_kept(folder: Path, cache: Path, steering: dict[str, Any]):
    model = Rank1(folder, cache=cache, **OPTIONS)
    judged(model, **steering)
    assert len(ScoreCache(cache)) == 0
    judged(model)
    assert hits(judged(model, **steering)) == [False] * 5
    model.trace(*PAIRS[0])
    model.score_chain(*PAIRS[0], "It does.")
    assert not list(model.stream(*PAIRS[0]))[-1].cached
    model.rank(PAIRS[0][0], [passage for _, passage in PAIRS], top_k=1, early_exit="top_k")
    assert len(ScoreCache(cache)) == 5


def test_an_error_is_not_kept(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    model = Rank1(folder, cache=cache, **OPTIONS)
    with monkeypatch.context() as patch:
        read = Decoder._read
        without_logits = torch.tensor([1.0, torch.nan, torch.nan, torch.nan])  # beside the token
        patch.setattr(Decoder, "_read", lambda *arguments: read(*arguments) * without_logits)
        assert all(judgment.error for judgment in judged(model))
    assert len(ScoreCache(cache)) == 0
    assert all(judgment.error is None for judgment in judged(model))


def test_a_file_that_is_no_cache_is_told_before_anything_is_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch):
    cache.write_text("my notes")
    monkeypatch.setattr("rank1_hf.reranker.ModelSource", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CacheError, match="no score cache"):
        Rank1(cache=cache)
    assert cache.read_text() == "my notes"


def test_the_fingerprint_sees_every_byte_and_not_where_the_folder_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(identity, "_BLOCKS", 1)  # what the sample skips
    monkeypatch.setattr(identity, "_BLOCK", 16)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    first = identity.weights_fingerprint(identity.open_checkpoint(folder))
    assert identity.weights_fingerprint(identity.open_checkpoint(copy)) == first
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert identity.checkpoint_identity(copy) == identity.checkpoint_identity(folder)
    assert identity.weights_fingerprint(identity.open_checkpoint(copy)) != first


# ---- a model that is not as it was loaded ----------------------------------------------------------------------------


def scaled_hook(model: Rank1) -> Callable[[], None]:
    layer = model.model.model.layers[0]
    return layer.register_forward_hook(lambda module, args, output: output * 1.5).remove


def patched(model: Rank1) -> Callable[[], None]:
    mlp = model.model.model.layers[0].mlp
    own = mlp.forward
    mlp.forward = lambda states: own(states) * 3
    return lambda: delattr(mlp, "forward")


def scaled_in_place(model: Rank1) -> None:
    with torch.no_grad():
        model.model.model.norm.weight[3:].mul_(2)


def scaled_through_data(model: Rank1) -> None:
    model.model.model.embed_tokens.weight.data.mul_(3)


def closed_otherwise(model: Rank1) -> Callable[[], None]:
    rules = model.decoder.rules
    model.decoder.rules = replace(rules, force_close=lambda prompt, thought: [*prompt, *rules.close])
    return lambda: setattr(model.decoder, "rules", rules)


CHANGES = (scaled_hook, patched, scaled_in_place, scaled_through_data, closed_otherwise)


@pytest.mark.parametrize(("change", "engine"), [*((change, "paged") for change in CHANGES), (scaled_hook, "plain")])
def test_a_model_that_was_changed_neither_finds_nor_keeps(folder: Path, cache: Path, caplog, change: Any, engine: Any):
    model = Rank1(folder, cache=cache, dtype="float32", engine=engine, **OPTIONS)
    before = judged(model, PAIRS[:2])
    undo = change(model)
    after = judged(model, PAIRS[:3])
    assert hits(after) == [False] * 3
    assert [each.log_odds for each in after[:2]] != [each.log_odds for each in before]
    assert "the score cache is not used: the model has hooks, or was changed" in caplog.text
    assert len(ScoreCache(cache)) == 2
    if undo is not None:
        undo()
        assert hits(judged(model, PAIRS[:3])) == [True, True, False]


def test_a_hook_that_comes_while_a_stream_is_read_is_noticed(folder: Path, cache: Path):
    model = Rank1(folder, cache=cache, **OPTIONS)
    judged(model, PAIRS[3:])
    stream = model.judge(iter(PAIRS), stream=True, batch_size=1)
    assert not next(stream).cached
    scaled_hook(model)
    assert not any(judgment.cached for judgment in stream)
    assert len(ScoreCache(cache)) == 3


def test_a_model_handed_over_with_a_change_of_its_own_is_not_cached(folder: Path, cache: Path):
    for change in (scaled_hook, patched):
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        model = Rank1(loaded, tokenizer=AutoTokenizer.from_pretrained(folder), cache=cache, max_new_tokens=6)
        change(model)
        again = Rank1(loaded, tokenizer=AutoTokenizer.from_pretrained(folder), cache=cache, max_new_tokens=6)
        judged(again, PAIRS[:2])
        assert len(ScoreCache(cache)) == 0
