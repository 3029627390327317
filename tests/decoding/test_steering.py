"""Chains that a caller steers, and branches that read what they believe, against full forward passes."""

from dataclasses import replace

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor

from rank1_hf.chains.rules import DoNotThink, EarlyExit, Rule
from rank1_hf.chains.steering import Steering
from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.requests import Decoded, Request
from tests.decoding.oracle import SHAPES, Oracle, assert_same
from tests.decoding.test_graphs import Recorder, recorder  # noqa: F401, a fixture
from tests.decoding.test_reproducible import decoder as reproducible_decoder


def steered(requests: list[Request], **steering: object) -> list[Request]:
    return [replace(request, steering=Steering(**steering)) for request in requests]


def log_odds(oracle: Oracle, context: list[int]) -> float:
    logits = oracle.next_logits(context)
    return float(logits[oracle.encoder.true_id] - logits[oracle.encoder.false_id])


def every_third(thought: list[int]) -> bool:
    return len(thought) % 3 == 0


def assert_beliefs(results: list[Decoded], requests: list[Request], oracle: Oracle) -> None:
    """At every third token, what a full forward pass over the chain cut and closed there says."""
    for result in results:
        prompt = list(requests[result.index].prompt)
        said = len(result.thought) + 1  # the close or EOS that ended it; a budget's last token has no point behind it
        if result.ended == "budget":
            said -= 1
        assert [point.n_tokens for point in result.beliefs] == list(range(0, said, 3))
        for point in result.beliefs:
            context = oracle.encoder.force_close(prompt, result.thought[: point.n_tokens])
            assert point.log_odds == pytest.approx(log_odds(oracle, context), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_beliefs_are_those_of_full_forward_passes_and_chains_go_on_as_without(case, shape: str):
    folder, oracle, requests, expected = case(shape)
    decoder = oracle.decoder(folder)
    results = list(decoder.run(steered(requests, belief_at=every_third), max_rows=4))
    assert_same(results, expected)
    assert_beliefs(results, requests, oracle)
    assert decoder.stats.branches == sum(len(result.beliefs) for result in results)
    assert decoder._cache.n_pages_used == 0


def test_a_branch_feeds_the_forced_close_and_nothing_else(case):
    folder, oracle, requests, _ = case("qwen2-tied")
    decoder = oracle.decoder(folder)
    list(decoder.run([replace(steered(requests, belief_at=lambda thought: not thought)[2])]))
    closed = oracle.encoder.force_close(list(requests[2].prompt), [])
    assert (decoder.stats.branches, decoder.stats.branch_tokens) == (1, len(closed) - len(requests[2].prompt))


@pytest.mark.parametrize("kv_cache_tokens", [256, 400, 700])
def test_beliefs_where_memory_is_short(case, kv_cache_tokens: int):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, kv_cache_tokens=kv_cache_tokens)
    used: list[int] = []
    results = list(
        decoder.run(
            steered(requests, belief_at=every_third), on_step=lambda stats: used.append(decoder._cache.n_pages_used)
        )
    )
    assert_same(results, expected)
    assert_beliefs(results, requests, oracle)
    assert max(used) * PAGE_SIZE <= kv_cache_tokens
    assert decoder._cache.n_pages_used == 0


def test_beliefs_of_preempted_rows(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, kv_cache_tokens=5 * PAGE_SIZE)
    long_thinkers = [d for d in sorted(expected, key=lambda d: -len(d.thought))[:2] for _ in range(4)]
    rows = [replace(requests[d.index], index=i, n_shared=0) for i, d in enumerate(long_thinkers)]
    results = list(decoder.run(steered(rows, belief_at=every_third)))
    assert decoder.stats.preemptions > 0
    assert_same(results, [replace(d, index=i) for i, d in enumerate(long_thinkers)])
    assert_beliefs(results, rows, oracle)


def test_beliefs_with_speculation(case):
    folder, oracle, requests, expected = case("qwen2-repeats-itself")
    decoder = oracle.decoder(folder, step_overhead_tokens=24)
    results = list(decoder.run(steered(requests, belief_at=every_third), max_rows=2))
    assert decoder.stats.accepted_tokens > 0
    assert_same(results, expected)
    assert_beliefs(results, requests, oracle)


def test_beliefs_in_captured_steps(case, recorder: Recorder):  # noqa: F811
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    results = list(decoder.run(steered(requests, belief_at=every_third)))
    assert_same(results, expected)
    assert_beliefs(results, requests, oracle)
    assert decoder.stats.captured_steps > decoder.stats.steps / 2


def test_beliefs_in_reproducible_mode_leave_every_bit_as_it_is(case):
    folder, oracle, requests, _ = case("qwen2")
    plain = reproducible_decoder(oracle, folder, torch.bfloat16)
    watched = reproducible_decoder(oracle, folder, torch.bfloat16)
    expected = {result.index: result for result in plain.run(requests, max_rows=4)}
    for result in watched.run(steered(requests, belief_at=every_third), max_rows=4):
        assert result.beliefs
        assert replace(result, beliefs=()) == expected[result.index]


def test_beliefs_survive_running_out_of_memory(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    forward, calls = decoder.model.forward, []

    def fails_at_times(**inputs: object) -> object:
        calls.append(inputs)
        if len(calls) in (3, 9, 10):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(**inputs)

    decoder.model.forward = fails_at_times
    results = list(decoder.run(steered(requests, belief_at=every_third)))
    assert decoder.stats.out_of_memory == 3
    assert_same(results, expected)
    assert_beliefs(results, requests, oracle)


@pytest.mark.parametrize("shape", ["qwen2", "pieces", "sentencepiece", "mistral-sliding"])
def test_not_to_think_is_a_forced_close_behind_the_prompt(case, shape: str):
    folder, oracle, requests, _ = case(shape)
    for result in oracle.decoder(folder).run(steered(requests, rule=DoNotThink())):
        context = oracle.encoder.force_close(list(requests[result.index].prompt), [])
        assert (result.thought, result.ended) == ((), "stopped")
        assert result.true_logit - result.false_logit == pytest.approx(log_odds(oracle, context), abs=1e-4)


@pytest.mark.parametrize("shape", ["qwen2", "pieces", "llama-one-kv-head"])
@pytest.mark.parametrize("kv_cache_tokens", [None, 400])
def test_a_chain_that_is_continued_from_its_own_start_ends_as_it_did(case, shape: str, kv_cache_tokens: int | None):
    folder, oracle, requests, expected = case(shape)
    given = [
        replace(request, steering=Steering(given=result.thought[: len(result.thought) // 2]))
        for request, result in zip(requests, expected, strict=True)
    ]
    assert_same(list(oracle.decoder(folder, kv_cache_tokens=kv_cache_tokens).run(given, max_rows=4)), expected)


def test_a_chain_that_is_given_whole_has_its_verdict(case):
    folder, oracle, requests, expected = case("qwen2")
    whole = [
        replace(requests[result.index], steering=Steering(given=(*result.thought, *oracle.encoder.close_ids)))
        for result in expected
        if result.ended == "closed"
    ]
    decoder = oracle.decoder(folder)
    assert_same(list(decoder.run(whole)), [result for result in expected if result.ended == "closed"])
    assert decoder.stats.decode_tokens == 0


def test_a_given_chain_in_reproducible_mode(case):
    folder, oracle, requests, _ = case("qwen2")
    model = reproducible_decoder(oracle, folder, torch.bfloat16)
    given = steered(requests, given=tuple(requests[3].prompt[:20]))
    alone = {request.index: next(model.run([request], max_rows=4)) for request in given}
    assert {result.index: result for result in model.run(given, max_rows=4)} == alone


class Settled(EarlyExit):
    """Settled at once, so that it stops random models too."""

    def __init__(self) -> None:
        super().__init__(log_odds=1e-9, sentences=1)


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("max_rows", [1, 4, 16])
def test_an_early_exit_stops_one_token_behind_the_point_whatever_else_is_decoded(
    case, max_rows: int, reproducible: bool
):
    folder, oracle, requests, expected = case("qwen2-repeats-itself")
    rule = steered(requests, rule=Settled(), belief_at=lambda thought: len(thought) in (0, 3))
    decoder = reproducible_decoder(oracle, folder) if reproducible else oracle.decoder(folder, step_overhead_tokens=32)
    results = {result.index: result for result in decoder.run(rule, max_rows=max_rows)}
    n_stopped = 0
    for theirs in expected:
        ours = results[theirs.index]
        if ours.ended == "stopped":
            n_stopped += 1
            assert list(ours.thought) == list(theirs.thought[:4])
        else:
            assert len(ours.thought) <= 4
    assert n_stopped > 3


@pytest.mark.parametrize("reproducible", [False, True])
def test_a_rule_knows_its_beliefs_where_memory_is_short(case, reproducible: bool):
    """A row that waits for one waits for it all the same when rows are preempted."""
    folder, oracle, requests, expected = case("qwen2")
    longest = sorted(expected, key=lambda decoded: -len(decoded.thought))[:2]
    rows = [replace(requests[longest[i % 2].index], index=i, n_shared=0) for i in range(6)]
    rows = steered(rows, rule=KnowsBeliefs(), belief_at=every_third)
    small = {"kv_cache_tokens": 4 * PAGE_SIZE}
    decoder = reproducible_decoder(oracle, folder, **small) if reproducible else oracle.decoder(folder, **small)
    results = list(decoder.run(rows))
    assert decoder.stats.preemptions > 0
    assert_same(results, [replace(longest[i % 2], index=i) for i in range(6)])


class KnowsBeliefs(Rule):
    """Stops no chain, and fails where a belief is not known that was to be read before."""

    reads_beliefs = True

    def stop(self, thought, beliefs):
        due = list(range(0, len(thought) + 1, 3))
        assert [point.n_tokens for point in beliefs] in (due, due[:-1] if len(thought) % 3 == 0 else due)
        return False


class Failing(Rule):
    def __init__(self, at: int) -> None:
        self.at = at

    def stop(self, thought, beliefs):
        return 1 / (len(thought) - self.at) == 0


def test_a_rule_that_fails_costs_its_own_pair_only(case):
    folder, oracle, requests, expected = case("qwen2")
    mixed = [*requests]
    mixed[2] = replace(requests[2], steering=Steering(rule=Failing(at=0)))
    results = {result.index: result for result in oracle.decoder(folder).run(mixed)}
    assert "the rule Failing failed: ZeroDivisionError" in results.pop(2).error
    assert_same(list(results.values()), [result for result in expected if result.index != 2])


class Recording(LogitsProcessor):
    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, input_ids, scores):
        assert scores.dtype == torch.float32
        assert len(input_ids) == len(scores) == 1
        self.seen.append(input_ids[0].tolist())
        return scores


@pytest.mark.parametrize("max_rows", [1, 3])
def test_a_logits_processor_sees_each_token_of_its_own_row_once_and_in_order(case, max_rows: int):
    folder, oracle, requests, expected = case("qwen2-repeats-itself")
    processor = Recording()
    mixed = [*requests]
    mixed[3] = replace(requests[3], processor=processor)
    decoder = oracle.decoder(folder, step_overhead_tokens=24)
    assert_same(list(decoder.run(mixed, max_rows=max_rows)), expected)
    prompt, thought = list(requests[3].prompt), list(expected[3].thought)
    n_asked = len(thought) + (expected[3].ended != "budget")
    assert processor.seen == [prompt + thought[:n] for n in range(n_asked)]


def test_a_logits_processor_of_transformers_steers_one_row_as_it_does_in_generate(case):
    folder, oracle, requests, expected = case("qwen2")
    at = max(expected, key=lambda result: len(result.thought)).index
    banned = sorted({*expected[at].thought[:3], *oracle.encoder.close_ids, *oracle.eos})
    processors = LogitsProcessorList([SuppressTokensLogitsProcessor(banned)])
    mixed = [*requests]
    mixed[at] = replace(requests[at], processor=processors)
    results = {result.index: result for result in oracle.decoder(folder).run(mixed)}
    ours = results.pop(at)
    generated = oracle.model.generate(
        torch.tensor([requests[at].prompt]),
        attention_mask=torch.ones(1, len(requests[at].prompt), dtype=torch.long),
        max_new_tokens=requests[at].limit,
        do_sample=False,
        logits_processor=processors,
        pad_token_id=0,
    )[0, len(requests[at].prompt) :]
    assert list(ours.thought) == generated.tolist()
    context = oracle.encoder.force_close(list(requests[at].prompt), ours.thought)
    assert ours.true_logit - ours.false_logit == pytest.approx(log_odds(oracle, context), abs=1e-4)
    assert_same(list(results.values()), [result for result in expected if result.index != at])


def test_other_rows_keep_their_captured_steps(case, recorder: Recorder):  # noqa: F811
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    assert_same(list(decoder.run([replace(requests[0], processor=Recording()), *requests[1:]], max_rows=1)), expected)
    assert decoder.stats.captured_steps > decoder.stats.steps / 2


def test_a_logits_processor_that_leaves_nothing_costs_its_own_pair_only(case):
    folder, oracle, requests, expected = case("qwen2")
    nothing = SuppressTokensLogitsProcessor(list(range(oracle.model.config.vocab_size)))
    results = {r.index: r for r in oracle.decoder(folder).run([replace(requests[0], processor=nothing), *requests[1:]])}
    assert "leaves no token" in results.pop(0).error
    assert_same(list(results.values()), expected[1:])
