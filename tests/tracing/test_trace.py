"""Traces: of the right tokens, and the same after a file; belief curves and the lens as Rank1 gives them."""

import gzip
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, SuppressTokensLogitsProcessor

from rank1_hf import EarlyExit, Rank1, Trace, TraceOptions
from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing import read_traces, to_arrow, to_pandas, write_traces
from tests import tiny_models

PAIRS = [("how do wings carry an aeroplane?", line) for line in tiny_models.TEXT.splitlines()[:6] if line]
LISTS = ("texts", "logprobs", "alternative_ids", "alternative_texts", "margins", "entropies", "seconds")
EMPTY = Trace(3, *([] for _ in range(8)))


@pytest.fixture
def reranker(checkpoint) -> Rank1:
    return Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24)


def full_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
def test_a_trace_has_each_token_of_its_chain(checkpoint, kind: str):
    options = {"plain_chains": True} if kind == "sentencepiece" else {}  # no bytes at random, which are no text
    folder = checkpoint(kind, **options)
    reranker = Rank1(folder, device="cpu", max_new_tokens=24)
    plain = reranker.judge(PAIRS)
    judgments = reranker.judge(PAIRS, trace=True)
    assert [replace(judgment, trace=None) for judgment in judgments] == plain
    for judgment, (query, passage) in zip(judgments, PAIRS, strict=True):
        trace = judgment.trace
        assert trace.index == judgment.index
        assert {len(getattr(trace, name)) for name in LISTS} == {judgment.n_chain_tokens}
        assert "".join(trace.texts) == judgment.chain
        assert trace.seconds == sorted(trace.seconds)
        prompt = list(reranker.encode(query, passage).ids)
        logits = full_logits(folder, prompt + trace.token_ids)[len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1)
        best, ids = logits.topk(2)
        assert ids[:, 0].tolist() == trace.token_ids
        assert ids[:, 1].tolist() == trace.alternative_ids
        assert trace.logprobs == pytest.approx(logprobs.amax(-1).tolist(), abs=1e-4)
        assert trace.margins == pytest.approx((best[:, 0] - best[:, 1]).tolist(), abs=1e-4)
        assert trace.entropies == pytest.approx((-(logprobs.exp() * logprobs).sum(-1)).tolist(), abs=1e-4)
        assert (trace.belief, trace.lens, trace.attention, trace.prompt_texts) == ([], None, None, [])


def test_scores_are_the_models_own_where_a_processor_chose_the_token(reranker, checkpoint):
    query, passage = PAIRS[0]
    (plain,) = reranker.judge([PAIRS[0]], trace=True)
    banned = plain.trace.token_ids[0]
    processor = SuppressTokensLogitsProcessor([banned], device="cpu")
    (changed,) = reranker.judge([PAIRS[0]], trace=True, logits_processor=processor)
    prompt = list(reranker.encode(query, passage).ids)
    logits = full_logits(checkpoint("qwen2"), prompt)[-1]
    token = changed.trace.token_ids[0]
    assert token == int(logits.topk(2).indices[1])
    assert changed.trace.alternative_ids[0] == banned
    assert changed.trace.margins[0] == pytest.approx(float(logits[token] - logits[banned]), abs=1e-4)
    assert changed.trace.margins[0] < 0
    assert changed.trace.logprobs[0] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)


def test_tokens_that_the_model_did_not_say_have_no_scores(checkpoint):
    folder = checkpoint("qwen2", close_scale=8.0)
    reranker = Rank1(folder, device="cpu", max_new_tokens=24, rethink=1)
    judgments = [j for j in reranker.judge(PAIRS, trace=True) if "\nWait" in j.chain]
    assert judgments, "no chain was rethought"
    for judgment in judgments:
        trace = judgment.trace
        assert "".join(trace.texts) == judgment.chain
        forced = [math.isnan(logprob) for logprob in trace.logprobs]
        assert any(forced)
        wait = trace.texts.index("Wait") if "Wait" in trace.texts else forced.index(True)
        assert forced[wait]
        assert json.loads(json.dumps(trace.to_dict(), allow_nan=False))["logprobs"][wait] is None


def test_the_same_pair_again_has_the_same_trace_in_its_own_place(reranker):
    first, _, again = reranker.judge([PAIRS[0], PAIRS[1], PAIRS[0]], trace=True)
    assert again.trace.index == again.index == 2
    assert again.trace.at(0) == first.trace


def test_beliefs_stand_behind_sentences(checkpoint):
    reranker = Rank1(device="cpu", max_new_tokens=64)  # the embedded model, which writes sentences
    trace = reranker.trace("what carries an aircraft", "The wing carries the aircraft.", lens=False, attention=False)
    ends = [0, *(n for n, text in enumerate(trace.texts, start=1) if text.rstrip().endswith((".", "!", "?")))]
    assert len(ends) > 1
    assert [point.n_tokens for point in trace.belief] == ends
    for point in trace.belief:
        cut = "".join(trace.texts[: point.n_tokens])
        closed = reranker.encoder.force_close(
            reranker.encode("what carries an aircraft", "The wing carries the aircraft.").ids,
            trace.token_ids[: point.n_tokens],
        )
        assert reranker.encoder.decode(closed).endswith(f"\n{cut.strip()}\n</think>")


def test_a_run_of_end_marks_is_one_sentence_end_and_the_point_of_a_number_none(reranker):
    chain = ' It is... "No." So 3.14 is true. The end'
    (judgment,) = reranker.score_chains(PAIRS[:1], [chain], trace=TraceOptions(belief="sentences"))
    texts = judgment.trace.texts
    before = ["".join(texts[: point.n_tokens]).rstrip('."') for point in judgment.trace.belief]
    assert before == ["", " It is", ' It is... "No', ' It is... "No." So 3.14 is true']


def test_beliefs_every_so_many_tokens(reranker):
    judgments = reranker.judge(PAIRS, trace=TraceOptions(belief=5))
    for judgment in judgments:
        said = judgment.n_chain_tokens + (judgment.ended != "budget")
        assert [point.n_tokens for point in judgment.trace.belief] == list(range(0, said, 5))


def test_the_last_belief_of_a_forced_close_is_the_verdict_itself(reranker):
    for judgment in reranker.judge(PAIRS, think=False, trace=TraceOptions(belief="sentences")):
        assert (judgment.ended, judgment.chain, judgment.n_chain_tokens) == ("stopped", "", 0)
        assert judgment.trace.belief == [BeliefPoint(0, pytest.approx(judgment.log_odds, abs=1e-4))]


@pytest.mark.parametrize("belief", ["words", 0, True, 2.5])
def test_beliefs_that_make_no_sense_are_refused(belief):
    with pytest.raises(ValueError, match="'sentences' or every so many tokens"):
        TraceOptions(belief=belief)


def test_a_rule_by_sentences_and_a_curve_by_tokens_do_not_go_together(reranker):
    with pytest.raises(ValueError, match="the rule reads beliefs at 'sentences' and the trace at 5"):
        reranker.judge(PAIRS, rule=EarlyExit(), trace=TraceOptions(belief=5))


numbers = st.floats(width=64, allow_nan=True, allow_infinity=False)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(0, 4))

    def some(of: st.SearchStrategy) -> list:
        return draw(st.lists(of, min_size=n, max_size=n))

    ids, texts = st.integers(0, 2**31), st.text(st.characters(codec="utf-8"))
    return Trace(
        draw(st.integers(0, 99)),
        *(some(kind) for kind in (ids, texts, numbers, ids, texts, numbers, numbers, numbers)),
        belief=draw(st.lists(st.builds(BeliefPoint, st.integers(0, 9), st.floats(-9, 9)), max_size=3)),
        lens=draw(st.none() | st.lists(st.floats(-9, 9), max_size=3)),
        attention=draw(st.none() | st.lists(st.floats(0, 1), max_size=3)),
        prompt_texts=draw(st.lists(texts, max_size=3)),
    )


def fields(found: list[Trace]) -> list[str]:
    return [repr(asdict(trace)) for trace in found]  # NaN equals itself here


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@given(st.lists(traces(), max_size=4))
def test_a_file_gives_back_what_was_saved(tmp_path_factory, suffix: str, saved: list[Trace]):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("traces") / f"traces.{suffix}"
    write_traces(saved, path)
    assert fields(read_traces(path)) == fields(saved)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_other_files_are_refused(tmp_path):
    for name in ("traces.csv", "traces.jsonl.gz"):
        with pytest.raises(ValueError, match=r"saved as \.jsonl or \.parquet"):
            write_traces([], tmp_path / name)
    with pytest.raises(ValueError, match=r"saved as \.jsonl or \.parquet"):
        read_traces(tmp_path / "traces.csv")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda judgment: [judgment], r"element 0 is a Judgment: give traces, as in \[j\.trace for j in judgments\]"),
        (lambda judgment: judgment, "element 0 is a Judgment"),
        (lambda judgment: [judgment.trace, None], "element 1 is None: judge with trace=True"),
        (lambda judgment: None, "element 0 is None"),
        (lambda judgment: "traces", "element 0 is a str"),
    ],
)
def test_nothing_is_saved_that_is_no_trace(tmp_path, suffix: str, wrong, message: str):
    pytest.importorskip("pyarrow")
    saved = wrong(replace(Judgment.failed(0, "no"), trace=EMPTY))
    for make in (lambda: write_traces(saved, tmp_path / f"traces.{suffix}"), lambda: to_arrow(saved)):
        with pytest.raises(TypeError, match=message):
            make()
    assert list(tmp_path.iterdir()) == []


def test_one_trace_alone_is_saved_as_a_list_of_one(tmp_path):
    write_traces(EMPTY, tmp_path / "trace.jsonl")
    assert read_traces(tmp_path / "trace.jsonl") == [EMPTY]


def test_a_file_that_was_gzipped_since_is_read(reranker, tmp_path):
    saved = [judgment.trace for judgment in reranker.judge(PAIRS[:2], trace=True)]
    write_traces(saved, tmp_path / "traces.jsonl")
    content = (tmp_path / "traces.jsonl").read_bytes()
    (tmp_path / "traces.jsonl.gz").write_bytes(gzip.compress(content))
    assert fields(read_traces(tmp_path / "traces.jsonl.gz")) == fields(saved)
    for line in (b"{}", b"[]", b"{"):
        (tmp_path / "traces.jsonl").write_bytes(content + line)
        with pytest.raises(ValueError, match=r"traces\.jsonl, line 3"):
            read_traces(tmp_path / "traces.jsonl")


def test_tables_have_a_row_for_each_token(reranker):
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    found = [judgment.trace for judgment in reranker.judge(PAIRS, trace=True)]
    table, frame = to_arrow(found), to_pandas(found)
    assert table.num_rows == len(frame) == sum(len(trace.token_ids) for trace in found)
    for trace in found:
        mine = frame[frame["index"] == trace.index]
        assert mine["position"].tolist() == list(range(len(trace.token_ids)))
        assert mine["token_id"].tolist() == trace.token_ids
        assert mine["margin"].tolist() == trace.margins
    assert found[0].to_pandas().equals(frame[frame["index"] == 0])
    assert to_arrow([]).num_rows == 0


def test_a_judgment_with_its_trace_is_json_and_without_one_as_it_always_was(reranker):
    (plain,), (traced,) = reranker.judge(PAIRS[:1]), reranker.judge(PAIRS[:1], trace=True)
    fields = traced.to_dict()
    assert Trace.from_dict(json.loads(json.dumps(fields.pop("trace"), allow_nan=False))) == traced.trace
    assert fields == plain.to_dict()
    assert "trace" not in Judgment.failed(0, "no").to_dict()


@pytest.mark.parametrize("package", ["pyarrow", "pandas"])
def test_a_package_that_is_missing_is_named_with_what_to_type(reranker, tmp_path, monkeypatch, package: str):
    pytest.importorskip("pyarrow")
    trace, lens = reranker.trace(*PAIRS[0]), reranker.lens(*PAIRS[0])
    judgments, ranking = reranker.judge(PAIRS[:1]), reranker.rank(PAIRS[0][0], [PAIRS[0][1]])
    monkeypatch.setitem(sys.modules, package, None)
    for result in (trace, lens, judgments, ranking):
        with pytest.raises(ImportError, match=rf"need {package}; install it with: pip install 'rank1-hf\[tracing\]'"):
            result.to_pandas()
    if package == "pyarrow":
        for make in (trace.to_arrow, lens.to_arrow, lambda: write_traces([trace], tmp_path / "traces.parquet")):
            with pytest.raises(ImportError, match="need pyarrow; install it with: pip install"):
                make()


def test_a_trace_prints_in_a_few_lines(reranker):
    trace = reranker.trace(*PAIRS[0])
    (judgment,) = reranker.judge(PAIRS[:1], trace=True)
    assert str(trace) == repr(trace)
    heading, chain, least, belief, layers, attention = str(trace).splitlines()
    total = sum(trace.logprobs)
    assert heading == f"Trace of pair 0: {judgment.n_chain_tokens} tokens, log-probability {total:.2f}"
    assert chain.split(maxsplit=1)[1].startswith(repr(judgment.chain)[:20])
    at = trace.margins.index(min(trace.margins))
    assert repr(trace.alternative_texts[at]) in least
    assert f"token {at}, margin {trace.margins[at]:+.2f}" in least
    assert f"{trace.belief[0].log_odds:+.2f} to {trace.belief[-1].log_odds:+.2f}" in belief
    assert f"{trace.lens[0]:+.2f} to {trace.lens[-1]:+.2f}" in layers
    assert f"over {judgment.n_prompt_tokens} tokens" in attention
    assert len(str(reranker.score_chain(*PAIRS[0], "", trace=True).trace).splitlines()) == 1


@given(traces())
def test_whatever_is_in_a_trace_it_prints_as_plain_lines(trace: Trace):
    """Escape sequences and marks of direction in a chain do nothing to a terminal."""
    assert all(
        line.isprintable()
        for line in repr(replace(trace, texts=[f"\x1b[31m\u202e{t}" for t in trace.texts])).split("\n")
    )
