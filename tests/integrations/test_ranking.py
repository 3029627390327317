"""What the adapters share, and what they say where a framework is missing."""

import importlib
import json
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

from rank1_hf.integrations.ranking import KEYS, failures_last, metadata, ranked
from rank1_hf.prompts.pair_text import PairError
from rank1_hf.reranker import Rank1
from tests.integrations.passages import PASSAGES, QUERY, TOO_LONG

ADAPTERS = {
    "haystack": ("haystack", "haystack"),
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "pyterrier": ("pyterrier", "pyterrier"),
    "rerankers": ("rerankers", "rerankers"),
}
"""By module: the package that it needs, and the extra that brings it."""


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_names_the_extra_that_is_missing(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra = ADAPTERS[adapter]
    module = f"rank1_hf.integrations.{adapter}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'rank1-hf\[{extra}\]'"):
        importlib.import_module(module)
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert extra in pyproject["project"]["optional-dependencies"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([2.0, np.nan, -3.0], [2.0, -4.0, -3.0]), ([5.0, np.nan], [5.0, -1.0]), ([np.nan], [-1.0]), ([], [])],
)
def test_what_has_no_score_ranks_last(scores: list[float], expected: list[float]) -> None:
    assert failures_last(scores).tolist() == expected


def test_the_ranking_is_that_of_rank(thinking: Rank1) -> None:
    hits = thinking.rank(QUERY, PASSAGES)
    judgments = ranked(thinking, QUERY, PASSAGES, top_n=None, instruction=None)
    assert [judgment.index for judgment in judgments] == [hit["corpus_id"] for hit in hits]
    for judgment, hit in zip(judgments, hits, strict=True):
        told = metadata(judgment)
        assert tuple(told) == KEYS
        assert told["relevance_score"] == pytest.approx(hit["score"], abs=1e-5)
        assert told["rank1_log_odds"] == pytest.approx(hit["log_odds"], abs=1e-4)
        assert told["rank1_chain"] == hit["chain"]
        assert told["rank1_label"] == hit["label"]
        assert told["rank1_ended"] == "closed"


def test_an_instruction_stands_behind_the_query(reranker: Rank1) -> None:
    (with_instruction,) = ranked(reranker, QUERY, PASSAGES[1:2], top_n=None, instruction="Only bread is relevant.")
    (spelled_out,) = reranker.judge([(f"{QUERY} Only bread is relevant.", PASSAGES[1])])
    assert with_instruction == spelled_out


def test_a_bad_passage_comes_last_is_told_and_harms_no_other(reranker: Rank1) -> None:
    with pytest.warns(UserWarning, match=r"2 of \d+ pairs have no score .*string"):
        judgments = ranked(reranker, QUERY, [None, TOO_LONG, *PASSAGES], top_n=None, instruction=None)  # type: ignore[list-item]
    assert [judgment.index for judgment in judgments[-2:]] == [0, 1]
    good = ranked(reranker, QUERY, PASSAGES, top_n=None, instruction=None)
    assert [(judgment.index - 2, judgment.chain) for judgment in judgments[:-2]] == [(j.index, j.chain) for j in good]
    told = metadata(judgments[-1])
    assert told["relevance_score"] is told["rank1_log_odds"] is told["rank1_label"] is None
    assert "no memory" in told["rank1_error"]
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_where_warnings_are_errors_the_error_carries_the_judgments(reranker: Rank1) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="1 of 2 pairs have no score") as raised:
            ranked(reranker, QUERY, [None, PASSAGES[0]], top_n=None, instruction=None)  # type: ignore[list-item]
    assert [judgment.error is None for judgment in raised.value.judgments] == [False, True]


def test_where_no_passage_can_be_judged_a_pipeline_goes_on(reranker: Rank1) -> None:
    with pytest.warns(UserWarning, match=r"2 of 2 pairs have no score \(pair 0: .*string"):
        judgments = ranked(reranker, QUERY, [None, {"body": "air"}], top_n=None, instruction=None)  # type: ignore[list-item]
    assert [(judgment.index, judgment.error is None) for judgment in judgments] == [(0, False), (1, False)]


def test_top_n_keeps_the_best(reranker: Rank1) -> None:
    every = ranked(reranker, QUERY, PASSAGES, top_n=None, instruction=None)
    assert ranked(reranker, QUERY, PASSAGES, top_n=2, instruction=None) == every[:2]


def test_a_blank_query_is_an_error_before_any_work(reranker: Rank1) -> None:
    with pytest.raises(PairError, match="the query is blank"):
        ranked(reranker, " ", PASSAGES, top_n=None, instruction=None)


def test_without_passages_there_is_nothing_to_rank_whatever_the_query(reranker: Rank1) -> None:
    for query in (QUERY, " "):
        assert ranked(reranker, query, [], top_n=3, instruction=None) == []


def test_equal_scores_keep_the_order_given(reranker: Rank1) -> None:
    judgments = ranked(reranker, QUERY, [PASSAGES[1]] * 3, top_n=None, instruction=None)
    assert [judgment.index for judgment in judgments] == [0, 1, 2]
