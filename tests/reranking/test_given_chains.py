"""Given chains: each number read behind one is that of a full forward pass, in prefill and in bounded memory."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from rank1_hf import PairError, Rank1, TraceOptions
from rank1_hf.models.memory import EXPECTED_ROWS
from tests import tiny_models

PAIRS = [("how do wings carry an aeroplane?", line) for line in tiny_models.TEXT.splitlines()[:8] if line]
FROM_TRACE = ("logprobs", "margins", "entropies")


@pytest.fixture
def reranker(checkpoint) -> Rank1:
    return Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24)


@torch.inference_mode()
def logits_behind(reranker: Rank1, index: int, chain: list[int]) -> torch.Tensor:
    """[chain + 1, vocabulary], float32: a full forward pass over prompt and chain, by Transformers' own attention."""
    prompt = reranker.encode(*PAIRS[index]).ids
    plain = type(reranker.model).from_pretrained(reranker.model.config._name_or_path, attn_implementation="sdpa")
    return plain(torch.tensor([[*prompt, *chain]])).logits[0, len(prompt) - 1 :].float()


@pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
def test_each_token_of_a_given_chain_has_the_numbers_of_a_full_forward_pass(checkpoint, kind: str):
    reranker = Rank1(checkpoint(kind), device="cpu", dtype="float32", max_new_tokens=24)
    chains = [[5 + 7 * at % 90 for at in range(index, index + 30)] for index in range(len(PAIRS))]
    for judgment in reranker.score_chains(PAIRS, chains, trace=True):
        chain, trace = chains[judgment.index], judgment.trace
        logits = logits_behind(reranker, judgment.index, chain)[:-1]
        own = torch.tensor(chain)[:, None]
        others = logits.scatter(1, own, -math.inf)
        expected = logits.log_softmax(-1).gather(1, own)[:, 0]
        assert trace.token_ids == chain
        assert trace.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert trace.alternative_ids == others.argmax(-1).tolist()
        assert trace.margins == pytest.approx((logits.gather(1, own)[:, 0] - others.amax(-1)).tolist(), abs=1e-4)
        assert trace.entropies == pytest.approx(
            torch.distributions.Categorical(logits=logits).entropy().tolist(), abs=1e-4
        )


@torch.inference_mode()
def log_odds_behind(reranker: Rank1, context: list[int]) -> float:
    plain = AutoModelForCausalLM.from_pretrained(reranker.model.config._name_or_path, dtype=torch.float32)
    logits = plain(torch.tensor([context])).logits[0, -1]
    return float(logits[reranker.encoder.true_id] - logits[reranker.encoder.false_id])


CUT_OFF = [
    "\nThe wing carries it. So the",
    " It is",
    "",
    "\n\nYes! But 3.14 is not the end. And then: naïve café",
    "no mark at all  ",
    "A. B? C",
    "It ends.",
]
"""Chains that ran out of tokens."""


@pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
def test_a_chain_closed_by_force_has_the_verdict_of_the_official_codes_text(checkpoint, kind: str):
    """The official rule written once more, over the whole text at once, and a full forward pass over its ids."""
    reranker = Rank1(checkpoint(kind), device="cpu", dtype="float32", max_new_tokens=24)
    prompt = reranker.encode(*PAIRS[0]).text + reranker.encoder.markers.think
    for judgment in reranker.score_chains([PAIRS[0]] * len(CUT_OFF), CUT_OFF, close="forced"):
        text = CUT_OFF[judgment.index].rstrip()
        if not text.endswith((".", "!", "?")):
            text = text[: max(map(text.rfind, ".!?")) + 1] or text
        ids = reranker.tokenizer(f"{prompt}\n{text.strip()}\n</think>").input_ids
        assert judgment.log_odds == pytest.approx(log_odds_behind(reranker, ids), abs=1e-4)
        assert judgment.chain == CUT_OFF[judgment.index]


def test_beliefs_along_a_given_chain_are_those_of_full_forward_passes(reranker):
    chain = [5 + 7 * at % 90 for at in range(12)]
    prompt = list(reranker.encode(*PAIRS[0]).ids)
    for close in ("given", "forced"):
        (judgment,) = reranker.score_chains([PAIRS[0]], [chain], close=close, trace=TraceOptions(belief=5))
        assert [point.n_tokens for point in judgment.trace.belief][:3] == [0, 5, 10]
        for point in judgment.trace.belief:
            context = reranker.encoder.force_close(prompt, chain[: point.n_tokens])
            assert point.log_odds == pytest.approx(log_odds_behind(reranker, context), abs=1e-4)


@pytest.mark.parametrize("options", ["", "kv_cache_tokens=512", "prefill_chunk=33", "batch_size=1", "speculate=off"])
def test_chains_scored_together_have_the_verdicts_and_traces_that_they_had(reranker, checkpoint, options: str):
    everything = TraceOptions(belief="sentences", lens=True, attention=True)
    judgments = reranker.judge(PAIRS, trace=everything)
    other = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24, decoding=options)
    for close in ("given", "forced"):
        same = [judgment for judgment in judgments if (judgment.ended == "closed") == (close == "given")]
        assert same
        again = other.score_chains(
            [PAIRS[judgment.index] for judgment in same],
            [judgment.trace.token_ids for judgment in same],
            close=close,
            trace=everything,
        )
        for before, after in zip(same, again, strict=True):
            assert after.log_odds == pytest.approx(before.log_odds, abs=1e-4)
            assert after.ended == ("closed" if close == "given" else "stopped")
            for name in FROM_TRACE:
                assert getattr(after.trace, name) == pytest.approx(getattr(before.trace, name), abs=1e-4)
            assert after.trace.alternative_ids == before.trace.alternative_ids
            assert after.trace.lens == pytest.approx(before.trace.lens, abs=1e-4)
            assert after.trace.attention == pytest.approx(before.trace.attention, abs=1e-4)
            shared = [(p.n_tokens, p.log_odds) for p in before.trace.belief if p.n_tokens < before.n_chain_tokens]
            for (n_tokens, log_odds), point in zip(shared, after.trace.belief, strict=False):
                assert point.n_tokens == n_tokens
                assert point.log_odds == pytest.approx(log_odds, abs=1e-4)
    assert other.decoder.stats.decode_tokens <= 2 * len(PAIRS)  # a chunk may have one token; no chain is decoded
    assert other.decoder._cache.n_pages_used == 0


@pytest.mark.parametrize("close", ["given", "forced"])
def test_the_plain_loop_gives_the_same_verdicts(reranker, checkpoint, close: str):
    plain = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=24, engine="plain")
    chains = [" The query is about wings. So", "", " No. Wait! The", *([" heat flows"] * (len(PAIRS) - 3))]
    ours = reranker.score_chains(PAIRS, chains, close=close)
    theirs = plain.score_chains(PAIRS, chains, close=close)
    assert [j.log_odds for j in ours] == pytest.approx([j.log_odds for j in theirs], abs=1e-4)
    assert [j.chain for j in ours] == [j.chain for j in theirs] == chains


def test_in_reproducible_mode_a_chain_has_the_bits_of_its_own_judgment(checkpoint):
    model = Rank1(
        checkpoint("qwen2"), device="cpu", dtype="bfloat16", max_new_tokens=24, decoding="reproducible=on,batch_size=4"
    )
    for close in ("given", "forced"):
        judged = [j for j in model.judge(PAIRS, trace=True) if (j.ended == "closed") == (close == "given")]
        pairs, chains = [PAIRS[j.index] for j in judged], [j.trace.token_ids for j in judged]
        again = model.score_chains(pairs, chains, close=close, trace=True)
        assert [j.log_odds for j in again] == [j.log_odds for j in judged]
        assert [j.trace.logprobs for j in again] == [j.trace.logprobs for j in judged]


def test_the_logits_of_a_long_chain_are_read_in_pieces(reranker):
    sizes = []
    hook = reranker.model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: sizes.append(output.shape[1])
    )
    (judgment,) = reranker.score_chains(PAIRS[:1], [[50] * 1000], trace=True)
    hook.remove()
    assert judgment.n_chain_tokens == 1000
    assert not any(math.isnan(logprob) for logprob in judgment.trace.logprobs)
    assert sum(sizes) >= 1000
    assert max(sizes) <= EXPECTED_ROWS + 1


def test_a_chain_that_is_none_costs_its_own_pair(reranker):
    marker = list(reranker.encoder.close_ids)
    eos = [[5, end] for end in sorted(reranker.decoder.rules.eos)]
    surrogates = ["\udc00", "It is \ud83d."]
    chains = [
        "It is.",
        "It is.</think> true",
        [10**6],
        7,
        reranker.judge(PAIRS[:1])[0],
        reranker.trace(*PAIRS[0]),
        [5] * 3000,
        [5, *marker, 5],
        *surrogates,
        *eos,
    ]
    pairs = [*(PAIRS[0] for _ in chains), (PAIRS[0][0], None)]
    chains.append("It is.")
    good, marked, unknown, number, judged, traced, long, marked_too, *others, bad = reranker.score_chains(pairs, chains)
    assert len(others) == len(surrogates) + len(eos) > len(surrogates)
    unencodable, ended = others[: len(surrogates)], others[len(surrogates) :]
    assert good.error is None
    assert good == reranker.score_chain(*PAIRS[0], "It is.")
    for judgment, reason in (
        (marked, "without </think>"),
        (marked_too, "without </think>"),
        (unknown, "the chain given has the token id 1000000, and the model's ids end at"),
        (number, "the chain given must be a text, or a list of token ids, not 7"),
        (judged, "give judgment.chain, or judgment.trace.token_ids"),
        (traced, "give judgment.chain, or judgment.trace.token_ids"),
        (long, "raise max_length"),
        *((judgment, "the chain is not valid Unicode: a lone surrogate") for judgment in unencodable),
        *((judgment, "a chain ends before EOS") for judgment in ended),
        (bad, "passage must be a string"),
    ):
        assert reason in judgment.error
        assert math.isnan(judgment.score)


def test_equal_pairs_with_other_chains_are_not_one(reranker):
    first, second, again = reranker.score_chains([PAIRS[0]] * 3, ["It is.", "It is not.", "It is."])
    assert first.log_odds == again.log_odds != second.log_odds


def test_chains_go_with_pairs_by_their_places_whatever_holds_them(reranker):
    pandas = pytest.importorskip("pandas")
    pairs, chains = [PAIRS[0]] * 3, ["It is.", "It is not.", "Who knows?"]
    expected = reranker.score_chains(pairs, chains)
    for held in (pandas.Series(chains, index=[2, 1, 0]), pandas.Series(chains, index=[5, 6, 7]), iter(chains)):
        assert reranker.score_chains(pairs, held) == expected


def test_what_makes_no_sense_is_refused(reranker):
    with pytest.raises(ValueError, match="one chain for each of the 8 pairs, not 1"):
        reranker.score_chains(PAIRS, ["It is."])
    for chains in (None, {0: "It is."}, {"It is."}, 5):
        with pytest.raises(TypeError, match="chains must be a list with one for each pair, not a"):
            reranker.score_chains(PAIRS[:1], chains)
    with pytest.raises(ValueError, match="not one text"):
        reranker.score_chains(PAIRS, "It is.")
    with pytest.raises(ValueError, match="close must be 'given' or 'forced'"):
        reranker.score_chains(PAIRS[:1], ["It is."], close="closed")
    with pytest.raises(PairError, match="without </think>"):
        reranker.score_chain(*PAIRS[0], "</think>", close="forced")
