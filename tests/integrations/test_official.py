"""The official class: its names and what it is called with, on the embedded model."""

import inspect
import math

import numpy as np
import pytest

from rank1_hf import Rank1, rank1
from rank1_hf.models.devices import resolve_device
from rank1_hf.models.loading import EMBEDDED_MODEL

SETTINGS = {"model_name_or_path": str(EMBEDDED_MODEL), "device": "cpu", "fp_options": "float32"}
QUERY, PASSAGE, OTHER = "what carries an aircraft", "The wing carries the aircraft.", "Bread is made of flour."


def small(**settings: object) -> rank1:
    return rank1(**(SETTINGS | {"max_output_tokens": 48, "context_size": 400} | settings))


@pytest.fixture(scope="module")
def model() -> rank1:
    return small()


@pytest.fixture(scope="module")
def ours() -> Rank1:
    return Rank1(device="cpu", dtype="float32", max_new_tokens=48, max_length=400)


def test_the_official_arguments_in_the_official_order():
    parameters = list(inspect.signature(rank1).parameters.values())
    assert [(one.name, one.default) for one in parameters[:9]] == [
        ("model_name_or_path", "jhu-clsp/rank1-7b"),
        ("batch_size", 999999999999),
        ("context_size", 16000),
        ("max_output_tokens", 8192),
        ("fp_options", "float16"),
        ("num_gpus", 1),
        ("device", None),  # "cuda" there, whatever the machine has
        ("force_rethink", 0),
        ("dataset_prompt", None),
    ]


def test_pairs_give_a_list_of_the_scores(model: rank1, ours: Rank1):
    queries, corpus = [QUERY] * 2, [PASSAGE, OTHER]
    scores = model.predict(list(zip(queries, corpus, strict=True)))
    assert isinstance(scores, list)
    assert all(type(score) is float for score in scores)
    np.testing.assert_allclose(scores, ours.predict([(QUERY, PASSAGE), (QUERY, OTHER)]), atol=1e-5)
    assert scores[0] > 0.5 > scores[1]


def test_triples_carry_an_instruction(model: rank1, ours: Rank1):
    scores = model.predict([(QUERY, PASSAGE, "or bread"), (QUERY, PASSAGE, None), (QUERY, PASSAGE, QUERY)])
    expected = ours.predict([(f"{QUERY} or bread", PASSAGE), (QUERY, PASSAGE), (QUERY, PASSAGE)])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores[0] != pytest.approx(scores[1])


def test_passages_with_titles(model: rank1, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(model.model, "predict", lambda pairs, **options: seen.extend(pairs) or np.zeros(len(pairs)))
    model.predict(
        [(QUERY, {"title": "Wings", "text": "air"}), (QUERY, {"title": "", "text": "air"}), (QUERY, {"text": "air"})]
    )
    texts = [model.model.encoder.encode(*pair).ids for pair in seen]
    plain = ["Wings air", " air", "air"]
    assert texts == [model.model.encoder.encode(QUERY, passage).ids for passage in plain]


def test_a_bad_pair_is_nan_and_said(model: rank1):
    with pytest.warns(UserWarning, match="2 of 3 pairs have no score"):
        scores = model.predict([(QUERY, PASSAGE), (QUERY, None, "why"), "a string"])
    assert [math.isnan(score) for score in scores] == [False, True, True]
    assert model.predict([]) == []


def test_every_name_reaches_what_it_is_called_here():
    template = "Is this for or against: FILL_QUERY_HERE"
    model = small(context_size=300, force_rethink=1, dataset_prompt=template, fp_options="bfloat16")
    theirs = Rank1(
        device="cpu", dtype="bfloat16", max_length=300, max_new_tokens=48, rethink=1, prompt_template=template
    )
    assert (model.model.max_length, model.model.max_new_tokens, str(model.model.model.dtype)) == (
        300,
        48,
        "torch.bfloat16",
    )
    assert model.model.judge((QUERY, PASSAGE)) == theirs.judge((QUERY, PASSAGE))
    assert "Wait" in model.model.judge((QUERY, PASSAGE))[0].chain
    assert small(dataset_prompt="").predict([(QUERY, PASSAGE)]) == small().predict([(QUERY, PASSAGE)])


@pytest.mark.parametrize(("given", "rows"), [(999999999999, None), (257, None), (256, 256), (3, 3)])
def test_a_batch_size_that_only_vllm_could_mean_is_left_to_the_device(given: int, rows: int | None, monkeypatch):
    model = small(batch_size=given, silent=True)
    options = {}
    monkeypatch.setattr(model.model, "predict", lambda pairs, **given: options.update(given) or np.zeros(len(pairs)))
    model.predict([(QUERY, PASSAGE)])
    assert options == {"batch_size": rows, "show_progress_bar": False}
    model.predict([(QUERY, PASSAGE)], batch_size=2)
    assert options["batch_size"] == 2


def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TypeError, match="tensor_parallel_size"):
        small(tensor_parallel_size=2)
    with pytest.raises(TypeError, match="temperature"):
        small().predict([(QUERY, PASSAGE)], temperature=0.5)
    with pytest.raises(ValueError, match="FILL_QUERY_HERE"):
        small(dataset_prompt="no place for it")
    with pytest.raises(ValueError, match="dtype must be one of"):
        small(fp_options="int4")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda' is not available on this machine"):
        small(device="cuda")


def test_several_gpus_without_a_launcher_share_one_model_as_vllm_does(ours: Rank1, monkeypatch):
    options = {}
    monkeypatch.setattr("rank1_hf.integrations.official.Rank1", lambda *given, **named: options.update(named) or ours)
    model = small(num_gpus="2", device="cuda")  # as argparse gives it
    assert (options["num_gpus"], options["device_map"], options["device"]) == (1, "auto", None)
    np.testing.assert_allclose(model.predict([(QUERY, PASSAGE)]), ours.predict([(QUERY, PASSAGE)]), atol=1e-5)


def test_what_rank1_offers_besides_is_there():
    quantized = small(quantization="4bit")
    assert quantized.model.model.config.quantization_config.load_in_4bit
    assert small(device=None).model.model.device.type == resolve_device(None).type
    assert quantized.tokenizer is quantized.model.tokenizer
