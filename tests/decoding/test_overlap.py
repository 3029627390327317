"""Steps launched before the one before is read. On a CPU nothing is gained by that, but everything is as on a GPU."""

from dataclasses import replace

import pytest
import torch

from rank1_hf.decoding.in_flight import InFlightStep
from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plan import Plan
from rank1_hf.decoding.requests import Decoded, Request
from tests.decoding.oracle import SHAPES, assert_same
from tests.decoding.test_arriving import cancellable, kept
from tests.decoding.test_graphs import recorder  # noqa: F401
from tests.decoding.test_reproducible import decoder as reproducible_decoder
from tests.decoding.test_steering import every_third, steered


class Order:
    """In which order a decoder launches its steps and reads them."""

    def __init__(self, decoder: Decoder) -> None:
        self.events: list[str] = []
        forward, advance = decoder._forward, decoder._advance_all

        def launching(plan: Plan, in_flight: InFlightStep | None) -> InFlightStep:
            launched = forward(plan, in_flight)
            self.events.append("launched")
            return launched

        def reading(*step: object) -> list[Decoded]:
            self.events.append("read")
            return advance(*step)

        decoder._forward, decoder._advance_all = launching, reading

    @property
    def n_ahead(self) -> int:
        """How many steps were launched before the one before was read."""
        in_flight, n_ahead = 0, 0
        for event in self.events:
            n_ahead += event == "launched" and in_flight > 0
            in_flight += 1 if event == "launched" else -1
            assert in_flight in (0, 1, 2)
        assert in_flight == 0, "every step is read"
        return n_ahead


def ahead(oracle, folder, **options: int) -> tuple[Decoder, Order]:
    decoder = oracle.decoder(folder, overlap=True, **{"speculate": False} | options)
    return decoder, Order(decoder)


def test_steps_of_chains_that_must_be_long_enough_overlap(case):
    folder, oracle, requests, _ = case("qwen2")
    longer = steered(requests, min_tokens=12)
    decoder, order = ahead(oracle, folder)
    assert_same(list(decoder.run(longer)), [oracle.decode(request) for request in longer])
    assert order.n_ahead > decoder.stats.steps / 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("max_rows", [1, 3, 32])
def test_chains_and_verdicts_equal_the_plain_loop(case, shape: str, max_rows: int):
    folder, oracle, requests, expected = case(shape)
    decoder, order = ahead(oracle, folder)
    assert_same(list(decoder.run(requests, max_rows=max_rows)), expected)
    assert order.n_ahead > decoder.stats.steps / 2
    assert decoder._cache.n_pages_used == 0


@pytest.mark.parametrize("shape", ["qwen2", "mistral-sliding", "qwen2-says-eos", "pieces"])
@pytest.mark.parametrize("max_rows", [1, 3, 32])
def test_captured_steps_take_their_tokens_from_the_device(case, recorder, shape: str, max_rows: int):  # noqa: F811
    folder, oracle, requests, expected = case(shape)
    decoder, order = ahead(oracle, folder)
    assert_same(list(decoder.run(requests, max_rows=max_rows)), expected)
    assert decoder.stats.captured_steps > decoder.stats.steps / 3
    assert order.n_ahead > decoder.stats.steps / 2


def test_two_runs_beside_each_other_take_their_own(case, recorder):  # noqa: F811
    folder, oracle, requests, expected = case("qwen2")
    decoder, _ = ahead(oracle, folder)
    first, second = decoder.run(requests, max_rows=3), decoder.run(requests[::-1], max_rows=3)
    results = [*zip(first, second, strict=True)]
    assert_same([a for a, _ in results], expected)
    assert_same([b for _, b in results], expected)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefill_in_chunks_changes_nothing(case, chunk: int):
    folder, oracle, requests, expected = case("mistral-sliding")
    decoder, _ = ahead(oracle, folder, prefill_chunk=chunk)
    assert_same(list(decoder.run(requests, max_rows=5)), expected)


def test_a_chain_that_closes_itself_takes_no_step_more(case):
    folder, oracle, requests, expected = case("qwen2")
    closed = next(result for result in expected if result.ended == "closed" and len(result.thought) > 3)
    request = replace(requests[closed.index], index=0)
    decoder, order = ahead(oracle, folder)
    plain = oracle.decoder(folder, speculate=False)
    assert_same(list(decoder.run([request])), [replace(closed, index=0)])
    assert_same(list(plain.run([request])), [replace(closed, index=0)])
    assert decoder.stats.steps == plain.stats.steps == order.n_ahead + 1


@pytest.mark.parametrize("kv_cache_tokens", [256, 400, 700])
def test_preempted_rows_end_as_if_they_had_never_waited(case, kv_cache_tokens: int):
    folder, oracle, requests, expected = case("qwen2")
    decoder, order = ahead(oracle, folder, kv_cache_tokens=kv_cache_tokens)
    assert_same(list(decoder.run(requests)), expected)
    assert order.n_ahead > 0
    assert decoder._cache.n_pages_used == 0


def test_no_row_gives_way_to_a_step_ahead(case):
    folder, oracle, requests, expected = case("qwen2")
    longest = sorted(expected, key=lambda d: -len(d.thought))[:2]
    rows = [
        Request(i, requests[d.index].prompt, 0, requests[d.index].limit)
        for i, d in enumerate(d for d in longest for _ in range(4))
    ]
    decoders = [
        oracle.decoder(folder, overlap=on, speculate=False, kv_cache_tokens=5 * PAGE_SIZE) for on in (False, True)
    ]
    results = [list(decoder.run(rows)) for decoder in decoders]
    assert [(r.index, r.thought) for r in results[0]] == [(r.index, r.thought) for r in results[1]]
    assert decoders[1].stats.preemptions == decoders[0].stats.preemptions > 0


@pytest.mark.parametrize("nth", [2, 5, 9, 14])
def test_running_out_of_memory_loses_nothing(case, nth: int):
    folder, oracle, requests, expected = case("qwen2")
    decoder, order = ahead(oracle, folder)
    calls: list[int] = []

    def run_out(module, args):
        calls.append(nth)
        if len(calls) in (nth, nth + 1):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    decoder.model.model.layers[1].register_forward_pre_hook(run_out)
    assert_same(list(decoder.run(requests)), expected)
    assert order.n_ahead > 0
    assert decoder.stats.out_of_memory == 1, "the first is met by reading the step in flight, the second by fewer rows"


def test_logits_that_are_not_finite_fail_their_pair_and_no_other(case):
    folder, oracle, requests, expected = case("qwen2")
    poisoned_token = 5
    decoder, _ = ahead(oracle, folder)
    decoder.model.get_input_embeddings().weight.data[poisoned_token] = float("nan")
    bad = Request(99, [*requests[0].prompt[:-1], poisoned_token, requests[0].prompt[-1]], requests[0].n_shared, 5)
    results = list(decoder.run([bad, *requests[:2], bad, *requests[2:]], max_rows=2))
    assert ["not finite" in (d.error or "") for d in results if d.index == 99] == [True, True]
    assert_same([d for d in results if d.index != 99], expected)


def test_a_row_in_flight_may_be_cancelled(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder, _ = ahead(oracle, folder)
    cancelled: set[int] = set()
    results: list[Decoded] = []
    steps = decoder.steps(cancellable(requests, cancelled))
    while decoder.stats.steps < 6:
        results += next(steps)
    cancelled.update({0, 3, 4} - {result.index for result in results})
    n_pages = decoder._cache.n_pages_used
    dropped = next(steps)
    assert {result.index for result in dropped} == cancelled != set()
    assert decoder._cache.n_pages_used < n_pages
    for finished in steps:
        results += finished
    assert_same(results, [result for result in expected if result.index not in cancelled])


def test_an_abandoned_run_gives_back_all_memory(case):
    folder, oracle, requests, _ = case("qwen2")
    decoder, order = ahead(oracle, folder)
    run = decoder.run(requests, max_rows=3)
    next(run)
    assert order.events.count("launched") > order.events.count("read")
    run.close()
    assert decoder._cache.n_pages_used == 0


def test_few_rows_draft_instead(case):
    folder, oracle, requests, expected = case("qwen2-repeats-itself")
    decoder, order = ahead(oracle, folder, speculate=True, step_overhead_tokens=8)
    assert_same(list(decoder.run(requests, max_rows=7)), expected)
    assert decoder.stats.accepted_tokens > 0
    assert order.n_ahead == 0
    assert_same(list(decoder.run(requests, max_rows=9)), expected)
    assert order.n_ahead > 0


def test_nobody_is_overtaken_who_has_a_say_in_the_chain(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder, order = ahead(oracle, folder)
    results = list(decoder.run(steered(requests, belief_at=every_third)))
    assert_same(results, expected)
    assert all(result.beliefs for result in results)
    assert order.n_ahead == 0
    assert kept(results) == results


@pytest.mark.parametrize("max_rows", [3, 9])
def test_reproducible_bits_are_the_same(case, max_rows: int):
    folder, oracle, requests, _ = case("qwen2")
    plain, running = (
        reproducible_decoder(oracle, folder, torch.bfloat16, rethinks=1, overlap=on, speculate=False)
        for on in (False, True)
    )
    order = Order(running)
    expected = {result.index: result for result in plain.run(requests, max_rows=max_rows)}
    assert {result.index: result for result in running.run(requests, max_rows=max_rows)} == expected
    assert order.n_ahead > 0
