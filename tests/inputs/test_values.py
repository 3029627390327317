"""Whole numbers, and fields that say none, wherever they may be given."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from rank1_hf import EarlyExit, Rank1, TopKExit, TraceOptions
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.files.inputs import document_of
from rank1_hf.inputs.values import is_missing, is_whole_number, whole_number
from rank1_hf.integrations.official import rank1
from rank1_hf.prompts.pair_text import passage_text, query_text
from tests import tiny_models

PAIRS = [("how do wings carry?", line) for line in tiny_models.TEXT.splitlines()[:3] if line]
WHOLE = [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7)]
NOT_WHOLE = [True, np.True_, 7.0, np.float64(7), "7", None, np.array([7, 8]), [7]]
MISSING = [None, float("nan"), np.float32("nan"), np.float64("nan"), pd.NA, pd.NaT, Decimal("NaN")]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_what_python_takes_for_an_index_is_a_whole_number(value):
    number = whole_number("n", value, least=1)
    assert (number, type(number)) == (7, int)
    assert is_whole_number(value, least=7)
    assert not is_whole_number(value, least=8)
    with pytest.raises(ValueError, match="n must be a whole number of at least 8"):
        whole_number("n", value, least=8)


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_what_is_no_whole_number(value):
    assert not is_whole_number(value, least=1)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, not"):
        whole_number("n", value, least=1)


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_what_is_missing_is_none(value):
    assert is_missing(value)
    assert query_text({"text": "wings", "instruction": value}) == "wings"
    assert passage_text({"title": value, "text": "air"}) == "air"
    assert document_of({"text": "air", "title": value}, "line 1").title == ""


@pytest.mark.parametrize("value", ["", "nan", 0, 0.0, False, [], np.array([np.nan, 1.0])], ids=repr)
def test_what_is_not_missing(value):
    assert not is_missing(value)


def test_numbers_of_numpy_are_taken_everywhere(checkpoint):
    eight = np.int64(8)
    options = {
        "max_new_tokens": eight,
        "max_length": np.int32(500),
        "rethink": np.uint8(0),
        "num_gpus": np.int64(1),
        "min_thinking_tokens": np.int64(2),
    }
    decoding, plain_decoding = DecodingOptions(kv_cache_tokens=np.int64(2048)), DecodingOptions(kv_cache_tokens=2048)
    plain_options = {name: int(value) for name, value in options.items()}
    plain = Rank1(checkpoint("qwen2"), device="cpu", decoding=plain_decoding, **plain_options)
    reranker = Rank1(checkpoint("qwen2"), device="cpu", decoding=decoding, **options)
    assert json.dumps([reranker.max_new_tokens, reranker.min_thinking_tokens, reranker.max_length])
    assert reranker.judge(PAIRS, batch_size=np.int64(2)) == plain.judge(PAIRS, batch_size=2)
    passages = [passage for _, passage in PAIRS]
    exits = TopKExit(beliefs=np.int64(1), belief_at=np.int64(4))
    assert len(reranker.rank("wings", passages, top_k=np.int64(2), early_exit=exits)) == 2
    traced = reranker.judge(PAIRS, trace=TraceOptions(belief=np.int64(4)), rule=None)
    assert all(point.n_tokens % 4 == 0 for judgment in traced for point in judgment.trace.belief)
    assert reranker.judge(PAIRS, rule=EarlyExit(log_odds=0.001, sentences=np.int64(1)))
    chain = plain.judge(PAIRS, trace=True)[0].trace.token_ids
    given = reranker.score_chain(*PAIRS[0], np.array(chain))
    assert given == plain.score_chain(*PAIRS[0], chain)


@pytest.mark.parametrize("value", [1.5, True, "2"])
def test_other_numbers_are_refused_everywhere(value):
    for kind, name in ((EarlyExit, "sentences"), (TopKExit, "beliefs"), (TopKExit, "belief_at")):
        with pytest.raises(ValueError, match="at least 1"):
            kind(**{name: value})


def test_an_instruction_that_is_nan_is_none(checkpoint):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=8)
    assert reranker.rank("wings", ["air"], instruction=float("nan")) == reranker.rank("wings", ["air"])
    official = rank1(str(checkpoint("qwen2")), context_size=500, max_output_tokens=8, fp_options="float32", silent=True)
    expected = official.predict([("wings", "air")])
    assert official.predict([("wings", {"title": float("nan"), "text": "air"}, float("nan"))]) == expected
