"""The decode loop against a loop of full forward passes and against generate(), in float32, token for token."""

import random
import sys
from collections.abc import Callable
from itertools import islice, pairwise
from traceback import walk_stack
from types import FrameType

import pytest
import torch

from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plan import Plan, ScheduledRow
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.prompt import PromptEncoder
from tests.decoding.oracle import SHAPES, WORDS, Oracle, assert_same


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("max_rows", [1, 3, 32])
def test_chains_and_verdicts_equal_the_plain_loop(case, shape: str, max_rows: int):
    folder, oracle, requests, expected = case(shape)
    assert_same(list(oracle.decoder(folder).run(requests, max_rows=max_rows)), expected)


@pytest.mark.parametrize("shape", ["qwen2", "llama-one-kv-head", "mistral-sliding", "sentencepiece"])
def test_the_order_of_the_pairs_does_not_matter(case, shape: str):
    folder, oracle, requests, expected = case(shape)
    assert_same(list(oracle.decoder(folder).run(requests[::-1], max_rows=4)), expected)


@pytest.mark.parametrize("shape", ["qwen2", "mistral-sliding"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefill_in_chunks_changes_nothing(case, shape: str, chunk: int):
    folder, oracle, requests, expected = case(shape)
    assert_same(list(oracle.decoder(folder, prefill_chunk=chunk).run(requests, max_rows=5)), expected)


def test_thinking_equals_generate(case):
    folder, oracle, requests, _ = case("qwen2")
    decoded = {d.index: d for d in oracle.decoder(folder).run(requests)}
    (close,) = oracle.encoder.close_ids
    for request in requests:
        generated = oracle.model.generate(
            torch.tensor([request.prompt]),
            attention_mask=torch.ones(1, len(request.prompt), dtype=torch.long),
            max_new_tokens=request.limit,
            do_sample=False,
            eos_token_id=[close, *oracle.eos],
            pad_token_id=close,
        )[0, len(request.prompt) :].tolist()
        stopped = generated[-1] == close or generated[-1] in oracle.eos
        assert list(decoded[request.index].thought) == (generated[:-1] if stopped else generated)


def test_the_cases_contain_every_way_to_end(case):
    ended = {result.ended for shape in SHAPES for result in case(shape)[3]}
    assert {"closed", "budget", "eos"} <= ended


def test_a_close_of_several_tokens_said_by_the_model(case):
    folder, oracle, requests, expected = case("pieces")
    said = [pair for result in expected for pair in pairwise(result.thought)]
    texts = {oracle.encoder.chain_text(requests[0].prompt, pair): pair for pair in said}
    close, pair = next((t, p) for t, p in texts.items() if t.isascii() and tuple(oracle.encoder._plain_ids(t)) == p)
    encoder = PromptEncoder(oracle.encoder._tokenizer, markers=Markers(close=close))
    other = Oracle(oracle.model, encoder, oracle.eos)
    assert encoder.close_ids == pair
    expected = [other.decode(request) for request in requests]
    assert any(result.ended == "closed" for result in expected)
    assert_same(list(other.decoder(folder).run(requests, max_rows=4)), expected)


def test_rows_of_one_query_share_their_prefill(case):
    folder, oracle, requests, expected = case("qwen2")
    sharing, alone = oracle.decoder(folder), oracle.decoder(folder)
    unshared = [Request(r.index, r.prompt, 0, r.limit) for r in requests]
    assert_same(list(sharing.run(requests)), expected)
    assert_same(list(alone.run(unshared)), expected)
    first_of_query = {tuple(r.prompt[: r.n_shared]): r for r in requests}
    saved = sum(r.n_shared for r in requests) - sum(r.n_shared for r in first_of_query.values())
    assert alone.stats.prefill_tokens - sharing.stats.prefill_tokens == saved > 0


@pytest.mark.parametrize("shape", ["qwen2", "mistral-sliding", "llama-one-kv-head"])
def test_the_pages_of_a_long_query_are_shared(case, shape: str):
    folder, oracle, _, _ = case(shape)
    query = " ".join(WORDS[:100])
    prompts = [oracle.encoder.encode(query, " ".join(WORDS[i : i + 3])) for i in range(8)]
    requests = [Request(i, p.ids, p.n_shared, 20) for i, p in enumerate(prompts)]
    decoder = oracle.decoder(folder)
    used: list[int] = []
    results = list(decoder.run(requests, on_step=lambda stats: used.append(decoder._cache.n_pages_used)))
    assert_same(results, [oracle.decode(request) for request in requests])
    n_full = prompts[0].n_shared // PAGE_SIZE
    assert n_full >= 2
    assert max(used) <= n_full + len(requests) * 3
    assert decoder.stats.prefill_tokens < 2 * prompts[0].n_shared + 30 * len(requests)


@pytest.mark.parametrize("max_rows", [1, 3, 10])
def test_speculation_changes_nothing_but_the_number_of_steps(case, max_rows: int):
    folder, oracle, requests, expected = case("qwen2-repeats-itself")
    speculating = oracle.decoder(folder, step_overhead_tokens=8 * max_rows)
    plain = oracle.decoder(folder, speculate=False)
    assert_same(list(speculating.run(requests, max_rows=max_rows)), expected)
    assert_same(list(plain.run(requests, max_rows=max_rows)), expected)
    assert speculating.stats.accepted_tokens > 0
    assert speculating.stats.draft_tokens > speculating.stats.accepted_tokens, "no draft was ever wrong"
    assert speculating.stats.steps < plain.stats.steps
    assert speculating.stats.decode_tokens + speculating.stats.accepted_tokens == plain.stats.decode_tokens


def test_a_waiting_pair_takes_the_place_of_a_finished_one_at_once(case):
    folder, oracle, requests, expected = case("qwen2")
    longest = max(expected, key=lambda d: len(d.thought))
    prompt, n_thought = requests[longest.index].prompt, len(longest.thought)
    assert n_thought > 15, "one prompt must think for long"
    mixed = [Request(i, prompt, 0, budget) for i, budget in enumerate([n_thought + 1, 2, 2, 2])]
    decoder = oracle.decoder(folder)
    assert [d.index for d in decoder.run(mixed, max_rows=2)] == [1, 2, 3, 0]
    assert decoder.stats.steps < n_thought + 6  # the short ones all ran beside the long one


def test_requests_are_taken_only_when_there_is_room(case):
    folder, oracle, requests, _ = case("qwen2")
    taken: list[int] = []

    def source():
        for request in requests:
            taken.append(request.index)
            yield request

    results = oracle.decoder(folder).run(source(), max_rows=2)
    next(results)
    assert len(taken) <= 3
    results.close()


def test_logits_are_computed_for_the_last_position_only(case):
    folder, oracle, requests, _ = case("qwen2")
    decoder = oracle.decoder(folder, speculate=False)
    seen: list[int] = []
    decoder.model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output[0].shape[0]))
    list(decoder.run(requests[:4], max_rows=4))
    assert max(seen) <= 4


def test_all_memory_is_given_back_however_a_run_ends(case):
    folder, oracle, requests, _ = case("qwen2")
    decoder = oracle.decoder(folder)
    list(decoder.run(requests))
    assert decoder._cache.n_pages_used == 0
    abandoned = decoder.run(requests, max_rows=3)
    next(abandoned)
    assert decoder._cache.n_pages_used > 0
    abandoned.close()
    assert decoder._cache.n_pages_used == 0


def run_interrupted(decoder: Decoder, requests: list[Request], at_line: int) -> int:
    """Decode until an interrupt comes, at the nth line that notes who owns which page. Returns how many lines ran.

    Then everything has been given back.
    """
    n_lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        nonlocal n_lines
        if not frame.f_code.co_filename.endswith(("kv_cache.py", "prefixes.py", "scheduler.py")):
            return None
        callers = {caller.f_code.co_name for caller, _ in islice(walk_stack(frame), 4)}
        if {"reclaim", "close"} & callers:  # what comes after the interrupt
            return None
        if event == "line":
            n_lines += 1
            if n_lines == at_line:
                raise KeyboardInterrupt
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        list(decoder.run(requests, max_rows=3))
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(tracing)
    assert decoder._cache.n_pages_used == 0
    return n_lines


def test_an_interrupt_in_the_midst_of_the_bookkeeping_leaves_a_decoder_that_works(case):
    folder, oracle, requests, expected = case("qwen2")
    requests, expected = requests[:6], expected[:6]
    decoder = oracle.decoder(folder)
    n_lines = run_interrupted(decoder, requests, at_line=0)
    assert n_lines > 1000
    rng = random.Random(0)
    for _ in range(20):
        at_line = rng.randrange(n_lines)
        assert run_interrupted(decoder, requests, at_line) == at_line, "and nothing else is raised"
        assert_same(list(decoder.run(requests, max_rows=3)), expected)


def test_two_runs_may_go_on_beside_each_other(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    first, second = decoder.run(requests, max_rows=3), decoder.run(requests, max_rows=2)
    results: tuple[list[Decoded], list[Decoded]] = ([], [])
    for a, b in zip(first, second, strict=True):
        results[0].append(a)
        results[1].append(b)
    assert_same(results[0], expected)
    assert_same(results[1], expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_fail_their_pair_and_no_other(case, value: float):
    folder, oracle, requests, expected = case("qwen2")
    poisoned_token = 5
    assert not any(poisoned_token in [*r.prompt, *d.thought] for r, d in zip(requests, expected, strict=True))
    decoder = oracle.decoder(folder)
    decoder.model.get_input_embeddings().weight.data[poisoned_token] = value
    bad = Request(99, [*requests[0].prompt[:-1], poisoned_token, requests[0].prompt[-1]], requests[0].n_shared, 5)
    results = list(decoder.run([bad, *requests[:2], bad, *requests[2:]], max_rows=2))
    failed = [d for d in results if d.index == 99]
    assert [d.error is not None and "not finite" in d.error for d in failed] == [True, True]
    assert_same([d for d in results if d.index != 99], expected)


@pytest.mark.parametrize("shape", ["qwen2", "mistral-sliding"])
@pytest.mark.parametrize("kv_cache_tokens", [256, 400, 700])
def test_preempted_rows_end_as_if_they_had_never_waited(case, shape: str, kv_cache_tokens: int):
    folder, oracle, requests, expected = case(shape)
    decoder = oracle.decoder(folder, kv_cache_tokens=kv_cache_tokens)
    used: list[int] = []
    results = decoder.run(requests, on_step=lambda stats: used.append(decoder._cache.n_pages_used))
    assert_same(list(results), expected)
    assert max(used) * PAGE_SIZE <= kv_cache_tokens
    assert decoder._cache.n_pages_used == 0


def test_rows_are_preempted_when_they_outgrow_the_memory(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, kv_cache_tokens=5 * PAGE_SIZE)
    long_thinkers = sorted(expected, key=lambda d: -len(d.thought))[:2]
    rows = [requests[d.index] for d in long_thinkers for _ in range(4)]
    rows = [Request(i, r.prompt, 0, r.limit) for i, r in enumerate(rows)]
    list(decoder.run(rows))
    assert decoder.stats.preemptions > 0


@pytest.mark.parametrize("moment", ["prefill", "decode", "forced close", "verdict"])
@pytest.mark.parametrize(
    ("times", "message"),
    [(1, "CUDA out of memory. Tried to allocate 20.00 MiB"), (3, "Triton Error [CUDA]: out of memory")],
)
def test_running_out_of_memory_loses_nothing(case, caplog, moment: str, times: int, message: str):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    left, forward, budget = [times], decoder._forward, decoder._cache.max_pages

    def is_now(part: ScheduledRow) -> bool:
        ended, fed = part.row.chain.ended, part.n_tokens
        return {
            "prefill": part.row.kv.length - fed < len(part.row.request.prompt) and fed > 1,
            "decode": ended is None and fed == 1,
            "forced close": ended in ("budget", "eos") and fed > 1,
            "verdict": ended == "closed" and fed == 1,
        }[moment]

    def run_out(module, args, kwargs):
        if left[0] and any(map(is_now, plans[-1].rows)):
            left[0] -= 1
            raise RuntimeError(message)

    plans: list[Plan] = []
    decoder._forward = lambda plan, in_flight: plans.append(plan) or forward(plan, in_flight)
    # half-way through the model, when some layers have written their part and others have not
    decoder.model.model.layers[1].register_forward_pre_hook(run_out, with_kwargs=True)
    with caplog.at_level("WARNING"):
        assert_same(list(decoder.run(requests)), expected)
    assert left == [0]
    assert decoder.stats.out_of_memory == times
    assert caplog.text.count("out of memory with") == times
    assert decoder._cache.max_pages < budget
    assert_same(list(decoder.run(requests)), expected)
    assert decoder._cache.max_pages == budget, "another call tries again"


def test_no_memory_for_even_one_row_fails_that_row_only(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    longest = max(requests, key=lambda r: len(r.prompt))

    def run_out(module, args, kwargs):
        if int(kwargs["position_ids"].max()) + 1 >= len(longest.prompt):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 20 bytes.")

    decoder.model.register_forward_pre_hook(run_out, with_kwargs=True)
    results = {d.index: d for d in decoder.run(requests)}
    assert "no memory for this pair, even alone" in results[longest.index].error
    for result in results.values():
        if result.error is None:
            assert_same([result], [expected[result.index]])


def test_other_errors_are_not_taken_for_a_lack_of_memory(case):
    folder, oracle, requests, _ = case("qwen2")
    decoder = oracle.decoder(folder)

    def fail(module, args, kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    decoder.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(decoder.run(requests))
    assert decoder._cache.n_pages_used == 0


def test_rethinking_reopens_the_chain_and_reads_the_last_verdict(case):
    folder, oracle, requests, expected = case("qwen2")
    closed = next(d for d in expected if d.ended == "closed")
    request = Request(0, requests[closed.index].prompt, 0, 60)
    decoder = Decoder(
        oracle.decoder(folder).model,
        oracle.encoder.chain_rules(oracle.eos),
        true_id=oracle.encoder.true_id,
        false_id=oracle.encoder.false_id,
        rethinks=1,
    )
    (result,) = decoder.run([request])
    reopened = oracle.encoder.rethink(request.prompt, closed.thought)
    again = oracle.decode(Request(0, reopened, 0, 60 - (len(reopened) - len(request.prompt))))
    assert list(result.thought) == [*reopened[len(request.prompt) :], *again.thought]
    if again.ended == "closed":
        assert abs(result.true_logit - again.true_logit) < 1e-3


def test_a_model_that_does_not_use_the_attention_interface_is_refused(case):
    folder, oracle, _, _ = case("qwen2")
    model = oracle.decoder(folder).model
    model._supports_attention_backend = False
    with pytest.raises(ValueError, match="attention interface"):
        Decoder(model, oracle.encoder.chain_rules(oracle.eos), true_id=1, false_id=2)
