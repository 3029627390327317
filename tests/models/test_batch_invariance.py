"""Layers in which rows have a say in each other's products are refused, and experts are computed row by row."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    JetMoeConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
)

from rank1_hf import Rank1
from rank1_hf.models.batch_invariance import make_batch_invariant
from rank1_hf.reranking import model_source
from tests import tiny_models

PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line]
PAIRS = [(query, passage) for query in ("what carries an aeroplane?", "what is bread?") for passage in PASSAGES][:16]


def assert_independent(reranker: Rank1) -> None:
    """A pair's chain and the bits of its verdict are the same in every subset, in every order."""

    def bits(pairs: list[Any]) -> list[tuple[str, float | None]]:
        judgments = reranker.judge(pairs, batch_size=8, show_progress_bar=False)
        return [(judgment.chain, judgment.log_odds) for judgment in judgments]

    expected = bits(PAIRS)
    assert len(set(expected)) > 2, "the pairs are too much alike to tell"
    rng = random.Random(0)
    for _ in range(4):
        places = rng.sample(range(len(PAIRS)), rng.randint(1, 8))
        assert bits([PAIRS[place] for place in places]) == [expected[place] for place in places]


class PerTensor(nn.Linear):
    """A linear layer whose activations have one scale for all rows, as in the simplest 8-bit quantizers."""

    def forward(self, states: Tensor) -> Tensor:
        scale = states.abs().amax() / 127
        return super().forward((states / scale).round() * scale)


class PerRow(nn.Linear):
    """The same with a scale for each row."""

    def forward(self, states: Tensor) -> Tensor:
        scale = (states.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-9)
        return super().forward((states / scale).round() * scale)


def dense() -> PreTrainedModel:
    return tiny_models.build_model("qwen2", tiny_models.build_tokenizer("qwen2"))


def with_layer(kind: type[nn.Linear]) -> PreTrainedModel:
    model = dense()
    old = model.model.layers[1].mlp.down_proj
    new = kind(old.in_features, old.out_features, bias=False)
    new.load_state_dict(old.state_dict())
    model.model.layers[1].mlp.down_proj = new
    return model


def test_a_scale_over_all_rows_is_refused_and_one_of_each_row_is_not() -> None:
    with pytest.raises(ValueError, match=r"what model\.layers\.1\.mlp\.down_proj \(PerTensor\) gives for one row"):
        make_batch_invariant(with_layer(PerTensor))
    make_batch_invariant(with_layer(PerRow))
    make_batch_invariant(dense())
    tokenizer = tiny_models.build_tokenizer("qwen2")
    with pytest.raises(ValueError, match="reproducible=True cannot hold"):
        Rank1(with_layer(PerTensor), tokenizer=tokenizer, decoding="reproducible=on")
    Rank1(with_layer(PerTensor), tokenizer=tokenizer)


def mixture(kind: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_experts_per_tok": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    ids = {"vocab_size": len(tokenizer) + 5, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config: PretrainedConfig
    if kind == "mixtral":
        config = MixtralConfig(**shape, **heads, **ids, num_local_experts=4)
    else:
        sparse = {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 64, "num_experts": 8}
        config = Qwen2MoeConfig(**shape, **heads, **ids, **sparse)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tiny_models._init_weights(model, tokenizer)
    return model.eval()


@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_of_experts_gives_a_pair_the_same_bits(kind: str, dtype: torch.dtype) -> None:
    """In float32 two of three pairs get other bits with the experts that Transformers takes by itself."""
    tokenizer = tiny_models.build_tokenizer("qwen2")
    model = mixture(kind, tokenizer).to(dtype)
    assert_independent(Rank1(model, tokenizer=tokenizer, max_new_tokens=8, decoding="reproducible=on"))


@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_experts_row_by_row_are_the_experts_of_transformers(kind: str) -> None:
    model, ids = mixture(kind, tiny_models.build_tokenizer("qwen2")), torch.arange(1, 40)[None]
    with torch.inference_mode():
        expected = model(ids).logits
        make_batch_invariant(model)
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_experts_that_cannot_be_split_are_refused() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "kv_channels": 8, "vocab_size": 64}
    config = JetMoeConfig(**shape, num_key_value_heads=2, num_local_experts=2)
    with pytest.raises(ValueError, match="is a mixture of experts"):
        make_batch_invariant(AutoModelForCausalLM.from_config(config))
    quantized = mixture("mixtral", tiny_models.build_tokenizer("qwen2"))
    quantized.is_quantized = True
    with pytest.raises(ValueError, match="is a mixture of experts"):
        make_batch_invariant(quantized)


CONFIGS = {
    "8bit without outliers": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
    "4bit": "4bit",
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_other_quantizers_of_bitsandbytes_keep_rows_apart(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    options = {"device": "cpu", "dtype": "bfloat16", "max_new_tokens": 8, "decoding": "reproducible=on"}
    assert_independent(Rank1(quantization=CONFIGS[name], **options))


class TestLlmInt8:
    """Its outliers are those of a whole step."""

    def test_it_is_refused_before_weights_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_source, "load_model", lambda *args, **options: pytest.fail("weights were read"))
        for kind in ("8bit", BitsAndBytesConfig(load_in_8bit=True), BitsAndBytesConfig(True, llm_int8_threshold=3.0)):
            with pytest.raises(ValueError, match=r"reproducible=True cannot hold.*llm_int8_threshold=0\.0"):
                Rank1(quantization=kind, decoding="reproducible=on")

    def test_it_is_refused_in_a_model_that_was_loaded_before(self) -> None:
        loaded = Rank1(device="cpu", quantization="8bit")
        with pytest.raises(ValueError, match=r"LLM\.int8 looks for outliers in all rows"):
            Rank1(loaded.model, tokenizer=loaded.tokenizer, decoding="reproducible=on")
        del loaded.model.config.quantization_config  # where nothing says so, it is found out
        with pytest.raises(ValueError, match=r"\(Linear8bitLt\) gives for one row depends on the others"):
            Rank1(loaded.model, tokenizer=loaded.tokenizer, decoding="reproducible=on")
