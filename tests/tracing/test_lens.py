"""The layer lens against a full forward pass with Transformers' eager attention."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rank1_hf import PairError, Rank1, TraceOptions
from tests import tiny_models

QUERY, PASSAGE = "how do wings carry an aeroplane?", tiny_models.TEXT.splitlines()[2]
SHAPES = {
    "qwen2": {},
    "llama": {"num_key_value_heads": 1, "num_hidden_layers": 3},
    "mistral": {"sliding_window": 33},
    "sentencepiece": {},
}


@pytest.mark.parametrize("kind", SHAPES)
@torch.inference_mode()
def test_every_layer_and_head_as_in_a_full_forward_pass(checkpoint, kind: str):
    folder = checkpoint(kind, **SHAPES[kind])
    reranker = Rank1(folder, device="cpu", max_new_tokens=16)
    lens = reranker.lens(QUERY, PASSAGE)
    (judgment,) = reranker.judge([(QUERY, PASSAGE)], trace=True)
    assert judgment.log_odds == lens.judgment.log_odds
    assert lens.log_odds[-1] == pytest.approx(judgment.log_odds, abs=1e-4)

    encoder, prompt = reranker.encoder, lens.prompt_ids
    thought = judgment.trace.token_ids
    closed = judgment.ended == "closed"
    context = [*prompt, *thought, *encoder.close_ids] if closed else encoder.force_close(prompt, thought)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    full = model(torch.tensor([context]), output_hidden_states=True, output_attentions=True)
    # Transformers gives the last layer's output with the final norm applied already.
    states = [model.model.norm(each[0, -1]) for each in full.hidden_states[1:-1]] + [full.hidden_states[-1][0, -1]]
    logits = model.lm_head(torch.stack(states))
    expected = logits[:, encoder.true_id] - logits[:, encoder.false_id]
    torch.testing.assert_close(torch.tensor(lens.log_odds), expected, atol=1e-4, rtol=1e-4)
    attention = torch.stack(full.attentions)[:, 0, :, -1, : len(prompt)]
    torch.testing.assert_close(torch.tensor(lens.attention), attention, atol=1e-5, rtol=1e-4)
    assert lens.attention.sum(-1).max() <= 1 + 1e-5
    assert "".join(lens.prompt_texts).endswith("<think>")
    assert QUERY in "".join(lens.prompt_texts)


def test_a_trace_has_the_lens_and_the_mean_attention(checkpoint):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=16)
    lens = reranker.lens(QUERY, PASSAGE)
    trace = reranker.trace(QUERY, PASSAGE)
    assert trace.lens == pytest.approx(lens.log_odds.tolist(), abs=1e-4)
    assert trace.attention == pytest.approx(lens.attention.mean((0, 1)).tolist(), abs=1e-6)
    assert trace.prompt_texts == lens.prompt_texts
    assert trace.belief


def test_it_is_read_once_at_the_verdict(checkpoint, monkeypatch):
    from rank1_hf.decoding.probe import Probe

    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=16)
    n_places: list[int] = []
    listening = Probe.listening
    monkeypatch.setattr(
        Probe, "listening", lambda self, model: n_places.append(len(self._watched)) or listening(self, model)
    )
    pairs = [(QUERY, line) for line in tiny_models.TEXT.splitlines()[:5]]
    reranker.judge(pairs, trace=False)
    assert n_places == []
    reranker.lens(QUERY, PASSAGE)
    assert n_places == [1]


def test_many_pairs_have_each_their_own(checkpoint):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=16)
    pairs = [(QUERY, line) for line in tiny_models.TEXT.splitlines()[:5]]
    for judgment, (query, passage) in zip(
        reranker.judge(pairs, trace=TraceOptions(lens=True, attention=True)), pairs, strict=True
    ):
        alone = reranker.lens(query, passage)
        assert judgment.trace.lens == pytest.approx(alone.log_odds.tolist(), abs=1e-4)
        assert judgment.trace.lens[-1] == pytest.approx(judgment.log_odds, abs=1e-4)
        assert len(judgment.trace.attention) == judgment.n_prompt_tokens


def test_a_bad_pair_is_refused(checkpoint):
    reranker = Rank1(checkpoint("qwen2"), device="cpu")
    for look in (reranker.lens, reranker.trace):
        with pytest.raises(PairError, match="must be a string"):
            look(QUERY, None)


def test_a_model_without_a_known_final_norm_is_refused(checkpoint):
    reranker = Rank1(checkpoint("qwen2"), device="cpu")
    del reranker.model.model.norm
    with pytest.raises(ValueError, match="final norm"):
        reranker.lens(QUERY, PASSAGE)


def test_a_lens_is_a_table_and_prints_in_a_few_lines(checkpoint):
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    lens = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4).lens(QUERY, PASSAGE)
    frame = lens.to_pandas()
    assert lens.to_arrow().num_rows == len(frame) == lens.attention.size
    for layer, head, position in ((0, 0, 0), (1, 2, 5), (1, 3, len(lens.prompt_ids) - 1)):
        (row,) = frame[(frame.layer == layer) & (frame["head"] == head) & (frame.position == position)].itertuples()
        assert row.attention == lens.attention[layer, head, position]
        assert row.log_odds == lens.log_odds[layer]
        assert (row.token_id, row.text) == (lens.prompt_ids[position], lens.prompt_texts[position])
    heading, log_odds, attention = str(lens).splitlines()
    assert heading == f"Lens of pair 0: 2 layers, 4 heads, {len(lens.prompt_ids)} prompt tokens"
    assert " ".join(f"{value:+.1f}" for value in lens.log_odds) in log_odds
    assert repr(lens.prompt_texts[int(lens.mean_attention.argmax())]) in attention
