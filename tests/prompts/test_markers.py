"""Markers that a tokenizer would tear apart, and the warning where chains never close."""

import warnings

import pytest

from rank1_hf import ContractError, Markers, Rank1
from rank1_hf.prompts.markers import check_markers
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.reranking.remarks import BudgetCheck
from tests import tiny_models

PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line]


@pytest.mark.parametrize(
    ("name", "marker", "instead"),
    [
        ("close", "</think>\n\n", r"write Markers\(close='</think>'\)"),
        ("close", "\n</think>", r"write Markers\(close='</think>'\)"),
        ("close", "</think><|im_end|>", r"write Markers\(close='</think>'\)"),
        ("think", "<think>\n", r"write Markers\(think='<think>'\)"),
        ("think", "<|im_end|>\n<|im_start|>assistant\n<think>", r"write Markers\(think='<think>'\)"),
        ("wait", "<think>Wait", "write it without '<think>'"),
        ("true", "</think> yes", "write it without '</think>'"),
        ("false", "<tool_call>", "write it without '<tool_call>'"),
    ],
)
def test_a_marker_that_contains_a_token_is_refused_with_what_to_write(tokenizer, name, marker, instead):
    with pytest.raises(ContractError, match=f"the marker {name}=.*{instead}"):
        PromptEncoder(tokenizer("qwen2"), markers=Markers(**{name: marker}))


@pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
def test_what_is_right_stays_right(tokenizer, kind):
    fast = tokenizer(kind)
    added = set(fast.get_added_vocab())
    assert PromptEncoder(fast).markers == Markers()
    other = PromptEncoder(fast, markers=Markers(think="<reason>", close="</reason>", true=" yes", false=" no"))
    assert not added.intersection(fast.convert_ids_to_tokens(other.close_ids))
    if "</think>" not in added:  # then it is characters like any others
        assert len(PromptEncoder(fast, markers=Markers(close="</think>!")).close_ids) > 1


@pytest.mark.parametrize(("name", "marker"), [("close", ""), ("close", None), ("think", 3), ("true", b" yes")])
def test_a_marker_that_is_no_text_is_refused(tokenizer, name, marker):
    """No chain could be told to end by an empty one."""
    with pytest.raises(ContractError, match=f"the marker {name} must be text, not {marker!r}; leave it out for '"):
        PromptEncoder(tokenizer("qwen2"), markers=Markers(**{name: marker}))


@pytest.mark.parametrize("given", ["x", "", {}, {"true": " yes"}, Markers], ids=repr)
def test_markers_of_another_type_are_refused_with_what_to_give(tokenizer, given: object):
    with pytest.raises(TypeError, match=r"markers must be Markers, as in Markers\(true=' yes', false=' no'\), not "):
        PromptEncoder(tokenizer("qwen2"), markers=given)


def test_added_white_space_may_be_in_a_marker():
    check_markers(Markers(), ["\n", "  ", "<think>", "</think>"])


def budget_warnings(remarks: list[warnings.WarningMessage]) -> list[str]:
    return [str(remark.message) for remark in remarks if "within their budget" in str(remark.message)]


@pytest.mark.parametrize("way", ["judge", "predict", "rank", "stream"])
def test_a_call_whose_chains_all_run_out_is_warned_of_once(checkpoint, way):
    reranker = Rank1(checkpoint("qwen2", close_scale=0.0, eos_scale=0.0), device="cpu", max_new_tokens=4)
    pairs = [("wings", f"{passage} {n}") for n, passage in enumerate((PASSAGES * 3)[:12])]
    calls = {
        "judge": lambda: reranker.judge(pairs),
        "predict": lambda: reranker.predict(pairs),
        "rank": lambda: reranker.rank("wings", [passage for _, passage in pairs]),
        "stream": lambda: list(reranker.judge(pairs, stream=True)),
    }
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        calls[way]()
    (remark,) = budget_warnings(remarks)
    assert way != "judge" or [each.filename for each in remarks if remark in str(each.message)] == [__file__]
    assert "12 of 12 chains" in remark
    for cause in ("max_new_tokens", "Markers(close=...)", "'</think>'", "no reranker that thinks"):
        assert cause in remark


def said_of(n_ended, *, at_end):
    """What two checks say."""
    check = BudgetCheck(n_ended, 8, "</think>")
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        for _ in range(2):
            check.check(at_end=at_end)
    return budget_warnings(remarks)


@pytest.mark.parametrize(
    ("n_ended", "warned"),
    [
        ({"budget": 9, "closed": 1}, True),
        ({"budget": 9, "closed": 1, None: 90}, True),
        ({"budget": 90, "eos": 10}, True),
        ({"budget": 89, "eos": 11}, False),
        ({"budget": 8, "stopped": 2}, False),
        ({"budget": 9}, False),  # too few to tell
        ({"context": 20}, False),
        ({}, False),
    ],
)
def test_nine_of_ten(n_ended, warned):
    assert bool(said_of(n_ended, at_end=True)) == warned


def test_fifty_chains_tell_it_before_the_end_and_once():
    assert said_of({"budget": 46, "closed": 3}, at_end=False) == []
    (said,) = said_of({"budget": 47, "closed": 3}, at_end=False)
    assert "47 of 50 chains" in said


def test_a_long_call_is_warned_while_it_runs(checkpoint):
    reranker = Rank1(checkpoint("qwen2", close_scale=0.0, eos_scale=0.0), device="cpu", max_new_tokens=1)
    stream = reranker.judge([("wings", f"air {n}") for n in range(60)], batch_size=25, stream=True)
    with pytest.warns(UserWarning, match="50 of 50 chains were not closed"):
        judged = [next(stream) for _ in range(51)]
    assert len(judged) < 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(stream)) == 60 - len(judged), "and not again at the end"
