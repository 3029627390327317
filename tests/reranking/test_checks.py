"""Which model families run, each against plain forward passes, and which are refused before any work."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rank1_hf import CheckpointError, Rank1
from rank1_hf.reranking.checks import check_layers
from tests import tiny_models

QUERY = "how do wings carry an aeroplane?"
PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line][:4]
_HEADS = {"head_dim": 16}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}

RUN = {
    "qwen2": {},
    "qwen2_moe": _EXPERTS,
    "qwen3": _HEADS,
    "qwen3_moe": _EXPERTS | _HEADS,
    "llama": {},
    "mistral": {},
    "ministral3": {},
    "mixtral": _EXPERTS,
    "phi3": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": _EXPERTS,
    "granite": {},
    "cohere2": {},
    "gemma": _HEADS,
    "gemma3_text": _HEADS,
    "glm4": _HEADS,
    "glm4_moe": _EXPERTS | _HEADS,
    "smollm3": {},
    "starcoder2": {},
    "gpt_neox": {},
    "exaone4": {},
    "ernie4_5": {},
    "seed_oss": {},
    "apertus": {},
}
"""Families, by the model type in their config, that the README says run."""

REFUSED = {
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, r"layers with a state of their own \(conv\)"),
    "falcon_h1": ({}, "layers with a state of their own"),
    "granitemoehybrid": ({}, "layers with a state of their own"),
    "deepseek_v3": (_EXPERTS | _LATENT, "multi-head latent attention"),
    "gemma2": (_HEADS, "caps the scores of its attention"),
    "gpt_oss": (_EXPERTS | _HEADS, "attention sinks"),
    "gpt2": ({}, "does not hand on to its attention"),
}


def built(family: str, n_tokens: int, **options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": n_tokens, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    settings = {**sizes, **ids, "num_key_value_heads": 2, "max_position_embeddings": 1024, **options}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("family", RUN)
def test_chains_and_verdicts_are_those_of_plain_forward_passes(family, tokenizer):
    fast = tokenizer("qwen2")
    model = built(family, len(fast), **RUN[family])
    plain = copy.deepcopy(model)

    @torch.inference_mode()
    def logits(ids: list[int]) -> torch.Tensor:
        return plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()

    reranker = Rank1(model, tokenizer=fast, max_new_tokens=10)
    encoder = reranker.encoder
    for judgment in reranker.judge([(QUERY, passage) for passage in PASSAGES], trace=True):
        assert judgment.error is None
        prompt, chain = reranker.encode(QUERY, PASSAGES[judgment.index]).ids, judgment.trace.token_ids
        said = logits([*prompt, *chain])[len(prompt) - 1 : len(prompt) - 1 + len(chain)]  # [chain, vocabulary]
        lead = said.max(-1).values - said.gather(1, torch.tensor(chain)[:, None])[:, 0]
        assert lead.max() < 1e-3, "each token of a chain is the likeliest, up to rounding"
        closed = judgment.ended == "closed"
        context = [*prompt, *chain, *encoder.close_ids] if closed else encoder.force_close(prompt, chain)
        verdict = logits(context)[-1]
        log_odds = float(verdict[encoder.true_id] - verdict[encoder.false_id])
        assert judgment.log_odds == pytest.approx(log_odds, abs=1e-2)


@pytest.mark.parametrize("family", REFUSED)
def test_what_would_be_computed_wrongly_is_refused(family):
    options, reason = REFUSED[family]
    config = AutoConfig.for_model(family, num_hidden_layers=2, **options)
    with pytest.raises(CheckpointError, match=f"{reason}.*; use a model"):
        check_layers(config)


def test_a_loaded_model_and_a_checkpoint_are_refused_alike(tokenizer, tmp_path):
    fast = tokenizer("qwen2")
    model = built("gpt_oss", len(fast), **REFUSED["gpt_oss"][0])
    with pytest.raises(CheckpointError, match="attention sinks"):
        Rank1(model, tokenizer=fast)
    model.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="attention sinks"):
        Rank1(tmp_path)
