"""Steering as users meet it: budgets, think=False, rules, given chains, logits processors, streams."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, LogitsProcessor, SuppressTokensLogitsProcessor

from rank1_hf import EarlyExit, Judgment, PairError, Rank1, Rule, TraceOptions
from rank1_hf.results.judgment import TokenEvent
from rank1_hf.tracing import Observer
from scripts.examples.sample_chains import Sampler
from tests import tiny_models

PAIRS = [("how do wings carry an aeroplane?", line) for line in tiny_models.TEXT.splitlines()[:8] if line]
QUERY, PASSAGE = PAIRS[0]


@pytest.fixture
def reranker(checkpoint) -> Rank1:
    return Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24)


def test_min_thinking_tokens(checkpoint):
    talkative = Rank1(checkpoint("qwen2", close_scale=4.0), device="cpu", max_new_tokens=40)
    patient = Rank1(checkpoint("qwen2", close_scale=4.0), device="cpu", max_new_tokens=40, min_thinking_tokens=20)
    short = [judgment for judgment in talkative.judge(PAIRS) if judgment.n_chain_tokens < 20]
    assert short
    longer = patient.judge(PAIRS)
    for judgment in short:
        assert longer[judgment.index].n_chain_tokens >= 20
        assert longer[judgment.index].chain.startswith(f"{judgment.chain}\nWait")


@pytest.mark.parametrize(("value", "message"), [(-1, "at least 0"), (25, "more than a chain may have")])
def test_min_thinking_tokens_that_make_no_sense(checkpoint, value: int, message: str):
    with pytest.raises(ValueError, match=message):
        Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24, min_thinking_tokens=value)


def test_think_false_is_what_the_model_says_behind_an_empty_chain(reranker):
    for judgment, (query, passage) in zip(reranker.judge(PAIRS, think=False), PAIRS, strict=True):
        assert (judgment.ended, judgment.chain) == ("stopped", "")
        empty = reranker.score_chain(query, passage, "\n\n")
        assert judgment.log_odds == pytest.approx(empty.log_odds, abs=1e-4)


@pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
def test_a_chain_scored_as_is_has_the_verdict_that_it_had(checkpoint, kind: str):
    reranker = Rank1(checkpoint(kind, close_scale=3.0, plain_chains=True), device="cpu", max_new_tokens=24)
    judgments = [j for j in reranker.judge(PAIRS, trace=True) if j.ended == "closed"]
    if kind not in ("pieces", "sentencepiece"):  # these have no token that could close a chain so soon
        assert judgments
    for judgment in judgments:
        query, passage = PAIRS[judgment.index]
        for chain in (judgment.chain, judgment.trace.token_ids):
            again = reranker.score_chain(query, passage, chain)
            assert again.log_odds == pytest.approx(judgment.log_odds, abs=1e-4)
            assert (again.chain, again.n_chain_tokens, again.ended) == (
                judgment.chain,
                judgment.n_chain_tokens,
                "closed",
            )


def test_a_chain_of_another_passage_is_another_verdict(reranker):
    first, second = reranker.judge(PAIRS[:2])
    swapped = reranker.score_chain(QUERY, PASSAGE, second.chain)
    assert swapped.chain == second.chain
    assert swapped.log_odds not in (first.log_odds, second.log_odds)


def test_a_chain_continued_from_its_own_first_tokens_ends_as_it_did(reranker):
    (whole,) = reranker.judge([PAIRS[0]], trace=True)
    again = reranker.score_chain(QUERY, PASSAGE, whole.trace.token_ids[:3], resume=True, trace=True)
    assert (again.chain, again.ended) == (whole.chain, whole.ended)
    assert again.log_odds == pytest.approx(whole.log_odds, abs=1e-4)
    assert again.trace.logprobs[3:] == pytest.approx(whole.trace.logprobs[3:], abs=1e-4)


def test_chains_that_cannot_be_scored(reranker):
    with pytest.raises(ValueError, match="given without </think>"):
        reranker.score_chain(QUERY, PASSAGE, "It is.</think> true")
    with pytest.raises(ValueError, match="the model's ids end at"):
        reranker.score_chain(QUERY, PASSAGE, [10**6])
    with pytest.raises(PairError, match="has 30 tokens and only 24 fit"):
        reranker.score_chain(QUERY, PASSAGE, [5] * 30, resume=True)
    assert reranker.score_chain(QUERY, PASSAGE, [5] * 30).n_chain_tokens == 30  # nothing is thought: no budget
    with pytest.raises(PairError, match=r"has 2000 tokens and only .* raise max_length"):
        reranker.score_chain(QUERY, PASSAGE, [5] * 2000)
    with pytest.raises(PairError, match="query is blank"):
        reranker.score_chain(" ", PASSAGE, "It is.")


class StopAt(Rule):
    """The example of the documentation, more or less."""

    def __init__(self, length: int, opening: list[int]) -> None:
        self.length, self.opening = length, opening

    def stop(self, thought, beliefs):
        return len(thought) >= self.length

    def force(self, thought, token):
        return [token] if thought else self.opening


def test_a_rule_stops_chains_and_puts_words_into_them(reranker):
    opening = reranker.tokenizer(" So the answer is", add_special_tokens=False).input_ids
    for judgment in reranker.judge(PAIRS, rule=StopAt(8, opening)):
        assert judgment.chain.startswith(" So the answer is")
        assert judgment.n_chain_tokens <= 8
        assert (judgment.ended == "stopped") == (judgment.n_chain_tokens == 8)


def test_a_rule_of_each_pairs_own_and_one_that_cannot_be_had(reranker):
    class Lengths(Rule):
        def for_pair(self, index):
            return StopAt({0: 3, 2: 2}[index], [])

    pairs = [PAIRS[0], PAIRS[0], PAIRS[1], PAIRS[2]]
    first, again, second, failed = reranker.judge(pairs, rule=Lengths())
    assert [first.n_chain_tokens, again.n_chain_tokens, second.n_chain_tokens] == [3, 3, 2]
    assert "rule Lengths failed: KeyError: 3" in failed.error


def test_an_early_exit_gives_the_verdict_it_stopped_for():
    reranker = Rank1(device="cpu", dtype="float32", max_new_tokens=96)  # the embedded model, which writes sentences
    pairs = [
        ("what carries an aircraft", text) for text in ("The wing carries the aircraft.", "Bread is made of flour.")
    ]
    exits = reranker.judge(pairs, rule=EarlyExit(log_odds=1e-6, sentences=1), trace=TraceOptions(belief="sentences"))
    plain = reranker.judge(pairs)
    for early, late in zip(exits, plain, strict=True):
        assert early.ended == "stopped"
        assert early.n_chain_tokens <= late.n_chain_tokens
        assert late.chain.startswith(early.chain)
        assert early.log_odds == pytest.approx(early.trace.belief[-1].log_odds, abs=1e-4)


def test_early_exit_is_off_by_default(reranker):
    judgments = reranker.judge(PAIRS)
    assert not any(judgment.ended == "stopped" for judgment in judgments)
    assert reranker.decoder.stats.branches == 0


def test_rules_that_are_none(reranker):
    with pytest.raises(TypeError, match=r"subclass of Rule, .*; write EarlyExit\(\)"):
        reranker.judge(PAIRS, rule=EarlyExit)
    with pytest.raises(ValueError, match="leave out rule"):
        reranker.judge(PAIRS, rule=EarlyExit(), think=False)


def test_a_logits_processor_for_some_pairs(reranker):
    plain = reranker.judge(PAIRS)
    first = reranker.judge([PAIRS[1]], trace=True)[0].trace.token_ids[0]
    processor = SuppressTokensLogitsProcessor([first], device="cpu")
    some = reranker.judge(PAIRS, logits_processor={1: processor}, trace=True)
    assert [j.chain for j in some if j.index != 1] == [j.chain for j in plain if j.index != 1]
    assert first not in some[1].trace.token_ids
    again, changed = reranker.judge([PAIRS[1], PAIRS[1]], logits_processor={1: processor})
    assert (again.chain, changed.chain) == (plain[1].chain, some[1].chain)


class Returning(LogitsProcessor):
    """Gives something made of the logits."""

    def __init__(self, make: Callable[[torch.Tensor], object]) -> None:
        self.make = make

    def __call__(self, input_ids, scores):
        return self.make(scores)


class Forcing(Rule):
    """Forces something upon the third pair, wherever the model has said something else."""

    def __init__(self, forced: object, index: int = 0) -> None:
        self.forced, self.index = forced, index

    def for_pair(self, index):
        return Forcing(self.forced, index)

    def force(self, thought, token):
        return self.forced if self.index == 2 else [token]


@pytest.mark.parametrize("engine", ["paged", "plain"])
@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ([10**6], "what force returns has the token id 1000000, and the model's ids end at"),
        ([10**30], "the model's ids end at"),
        ([-1], "at least 0, not -1"),
        ([3.5], "not 3.5"),
        ([True], "not True"),
        (["5"], "not '5'"),
        ("text", "must be a list of token ids, not 'text'"),
        (b"text", "must be a list of token ids, not b'text'"),
        ({5}, "must be a list of token ids, not {5}"),
        ({5: 6}, "must be a list of token ids, not {5: 6}"),
        ([torch.tensor([1, 2])], "whole number"),
        (None, "TypeError"),
        (5, "TypeError"),
    ],
    ids=repr,
)
def test_what_a_rule_forces_wrongly_costs_its_own_pair(checkpoint, engine: str, forced: object, message: str):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24, engine=engine)
    plain = reranker.judge(PAIRS[:4])
    judgments = reranker.judge(PAIRS[:4], rule=Forcing(forced))
    assert "the rule Forcing failed" in judgments[2].error
    assert message in judgments[2].error
    assert [j.chain for j in judgments if j.index != 2] == [j.chain for j in plain if j.index != 2]


@pytest.mark.parametrize("engine", ["paged", "plain"])
@pytest.mark.parametrize("name", ["force_close", "rethink"])
def test_a_rewrite_of_the_callers_that_fails_costs_the_pairs_it_fails_at(checkpoint, engine: str, name: str):
    reranker = Rank1(checkpoint("qwen2", close_scale=1.6), device="cpu", max_new_tokens=8, rethink=1, engine=engine)
    plain, rules = reranker.judge(PAIRS[:4]), reranker.decoder.rules
    prompt, n_asked = reranker.encode(*PAIRS[2]).ids, []

    def fail(given: list[int], thought: list[int]) -> list[int]:
        if given == prompt:
            n_asked.append(1)
            return [*thought]
        return getattr(rules, name)(given, thought)

    reranker.decoder.rules = replace(rules, **{name: fail})
    judgments = reranker.judge(PAIRS[:4])
    assert n_asked
    assert f"{name} must return the whole context" in judgments[2].error
    assert [j.chain for j in judgments if j.index != 2] == [j.chain for j in plain if j.index != 2]


@pytest.mark.parametrize("engine", ["paged", "plain"])
def test_a_failing_close_costs_its_pair_wherever_a_chain_is_closed(checkpoint, engine: str):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=8, engine=engine)
    rules, failing = reranker.decoder.rules, reranker.encode(*PAIRS[1]).ids
    reranker.decoder.rules = replace(
        rules, force_close=lambda prompt, thought: None if prompt == failing else rules.force_close(prompt, thought)
    )
    calls = {
        "before thinking": reranker.judge(PAIRS[:3], think=False),
        "behind an empty chain": reranker.score_chains(PAIRS[:3], [""] * 3, close="forced"),
        "behind a chain": reranker.score_chains(PAIRS[:3], [" Yes."] * 3, close="forced"),
        "at a belief": reranker.judge(PAIRS[:3], rule=EarlyExit()),
    }
    for place, judgments in calls.items():
        assert "force_close failed: TypeError" in judgments[1].error, place
        assert [judgments[0].error, judgments[2].error] == [None, None], place


def test_the_last_id_of_the_model_may_be_forced(reranker):
    last = reranker.model.config.vocab_size - 1
    assert reranker.judge(PAIRS[:3], rule=Forcing([torch.tensor(last)]), trace=True)[2].trace.token_ids[0] == last


@pytest.mark.parametrize("engine", ["paged", "plain"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda logits: logits[0], r"must give logits \[1, \d+\], not \[\d+\]"),
        (lambda logits: torch.cat([logits, logits + 99], dim=1), "must give logits"),
        (lambda logits: logits[:, :5], r"not \[1, 5\]"),
        (lambda logits: logits.repeat(2, 1), r"not \[2, "),
        (lambda logits: None, "not a NoneType"),
        (lambda logits: logits.tolist(), "not a list"),
        (lambda logits: logits * torch.nan, "logits that are nan"),
        (lambda logits: torch.full_like(logits, -torch.inf), "leaves no token"),
        (lambda logits: torch.full_like(logits, torch.inf), "logits that are inf"),
        (lambda logits: 1 / 0, "failed: ZeroDivisionError"),
    ],
)
def test_what_a_logits_processor_does_wrong_costs_its_own_pair(
    checkpoint, engine: str, make: Callable[[torch.Tensor], object], message: str
):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24, engine=engine)
    plain = reranker.judge(PAIRS[:4])
    judgments = reranker.judge(PAIRS[:4], logits_processor={2: Returning(make)})
    assert re.search(message, judgments[2].error)
    assert [j.chain for j in judgments if j.index != 2] == [j.chain for j in plain if j.index != 2]


def test_processors_and_needs_that_are_none_are_refused_before_any_work(reranker):
    for processor in ("sample", [SuppressTokensLogitsProcessor([1], device="cpu")], {1: 0.7}, Sampler, {0: Sampler}):
        with pytest.raises(TypeError, match="a logits processor is an object of Transformers' type"):
            reranker.judge(PAIRS, logits_processor=processor)

    class Vague(Observer):
        step_needs = "logits"

    with pytest.raises(TypeError, match=r"Vague needs must be rank1_hf\.tracing\.Needs, not 'logits'"):
        reranker.judge(PAIRS, observers=[Vague()])


@pytest.mark.parametrize("engine", ["paged", "plain"])
def test_equal_pairs_are_sampled_each_by_itself(checkpoint, engine: str):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24, engine=engine)
    assert len({judgment.chain for judgment in reranker.judge([PAIRS[0]] * 4, logits_processor=Sampler(seed=0))}) == 4
    by_seed = {index: Sampler(seed=index % 2) for index in range(4)}
    chains = [judgment.chain for judgment in reranker.judge([PAIRS[0]] * 4, logits_processor=by_seed)]
    assert chains[:2] == chains[2:]
    assert chains[0] != chains[1]


def test_a_sampler_takes_tokens_as_often_as_they_are_likely():
    logits, sampler = torch.tensor([[1.0, 0.0, -1.0, -torch.inf]]), Sampler(seed=5, temperature=0.5)
    taken = [int(sampler(torch.tensor([[0]]), logits).argmax()) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(taken), minlength=4) / len(taken)
    assert shares.tolist() == pytest.approx((logits[0] / 0.5).softmax(-1).tolist(), abs=0.03)


@pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
def test_a_stream_is_the_chain_and_then_the_judgment(checkpoint, kind: str):
    options = {"plain_chains": True} if kind == "sentencepiece" else {}  # no bytes at random, which are no text
    reranker = Rank1(checkpoint(kind, **options), device="cpu", max_new_tokens=24)
    for pair in PAIRS[:4]:
        *tokens, judgment = reranker.stream(*pair)
        assert judgment == reranker.judge([pair])[0]
        assert all(isinstance(token, TokenEvent) for token in tokens)
        assert "".join(map(str, tokens)) == "".join(token.text for token in tokens) == judgment.chain
        assert len(tokens) == judgment.n_chain_tokens


def test_a_stream_comes_token_by_token_and_gives_its_memory_back(reranker):
    events = reranker.stream(QUERY, PASSAGE)
    before = reranker.decoder.stats.steps
    next(events)
    assert reranker.decoder.stats.steps - before <= 2
    events.close()
    assert reranker.decoder._cache.n_pages_used == 0


def test_a_stream_of_a_bad_pair(reranker):
    with pytest.raises(PairError, match="must be a string"):
        list(reranker.stream(QUERY, None))


def test_the_embedded_tokenizer_has_no_say(checkpoint):
    """A chain that quotes what closes a chain in another tokenizer stays text."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("qwen2"))
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24)
    ids = reranker.encoder.chain_ids("<|im_end|>")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert isinstance(reranker.score_chain(QUERY, PASSAGE, "<|im_end|>"), Judgment)
