"""Fused layers: which are, that they give what their own forward gives, and that the model stays what it was."""

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rank1_hf import Rank1
from rank1_hf.decoding.kernels import kernels_for, reference
from rank1_hf.decoding.layers import FusedLayer, fuse_layers
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.packed import PackedPart, pack_linear_layers
from tests.decoding.oracle import assert_same

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KERNELS = kernels_for(CPU, PretrainedConfig(), torch.float32)


def small(config: type[PretrainedConfig], **options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SMALL, **options)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # norms and biases too: what is 1 or 0 hides mistakes
    return model


def n_fused(model: PreTrainedModel) -> int:
    return sum(isinstance(getattr(layer.forward, "__self__", None), FusedLayer) for layer in model.base_model.layers)


@pytest.mark.parametrize(
    "kernels", [reference, pytest.param(KERNELS, marks=pytest.mark.skipif(not KERNELS, reason="none"))]
)
@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Qwen2Config, {}),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
        (Qwen3Config, {"head_dim": 12}),
        (Qwen3Config, {"head_dim": 12, "attention_bias": True}),
        (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        (LlamaConfig, {"hidden_act": "gelu_pytorch_tanh"}),
        (MistralConfig, {"sliding_window": 3}),
    ],
)
def test_layers_of_the_usual_form_are_fused(kernels, config: type[PretrainedConfig], options: dict[str, object]):
    """The check is whether they give the same, so a layer that is fused has been compared."""
    model = small(config, **options)
    fuse_layers(model, kernels, 16)
    assert n_fused(model) == 2


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Gemma2Config, {"head_dim": 8}),  # norms behind attention and MLP too
        (GraniteConfig, {"residual_multiplier": 0.5}),  # the same modules, otherwise computed with
        (Olmo2Config, {}),
        (Phi3Config, {"pad_token_id": 0}),  # its products are merged already
        (LlamaConfig, {"hidden_act": "relu"}),
    ],
)
def test_other_layers_stay_as_they_are(config: type[PretrainedConfig], options: dict[str, object], caplog):
    model = small(config, **options)
    with caplog.at_level(logging.INFO):
        fuse_layers(model, reference, 16)
    assert n_fused(model) == 0
    (message,) = [record.getMessage() for record in caplog.records if record.name.endswith("layers")]
    assert message.startswith("layers [0, 1] run as they are, which is slower than fused: ")


def test_a_layer_that_gives_something_else_stays_as_it_is(caplog):
    model = small(LlamaConfig)
    model.model.layers[1].input_layernorm.__class__ = OneMore
    with caplog.at_level(logging.INFO):
        fuse_layers(model, reference, 16)
    assert n_fused(model) == 1
    assert "layers [1] run as they are, which is slower than fused: fused, it would give something else" in caplog.text


@pytest.mark.parametrize("packed", [False, True])
def test_products_are_merged_and_each_layer_still_works_alone(packed: bool):
    model, original = (small(Qwen2Config) for _ in range(2))
    if packed:
        pack_linear_layers(model)
    fuse_layers(model, reference, 16)
    states = torch.randn(3, 32)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        part, alone = (one.model.layers[0].get_submodule(name) for one in (model, original))
        torch.testing.assert_close(part(states), alone(states))
        assert isinstance(part, PackedPart) == packed
        assert part.out_features == alone.out_features
    if not packed:
        attention = model.model.layers[0].self_attn
        query, key = attention.q_proj.weight, attention.k_proj.weight
        assert query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr(), "no second copy of the weights"
        assert set(model.state_dict()) == set(original.state_dict())


@pytest.fixture
def handed_over(case) -> tuple[PreTrainedModel, Callable[..., Decoder], list, list]:
    """A user's own model, a decoder of it, requests and what the plain loop says of them."""
    folder, oracle, requests, expected = case("qwen2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def decoder(**options: object) -> Decoder:
        made = oracle.decoder(folder, **options)
        answers = {"true_id": oracle.encoder.true_id, "false_id": oracle.encoder.false_id}
        return Decoder(model, made.rules, **answers, options=made.options)

    return model, decoder, requests, expected


def test_generate_works_as_before(handed_over):
    model, decoder, requests, _ = handed_over
    ids = torch.tensor([[5, 9, 7, 30], [8, 8, 9, 2]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    before = copy.deepcopy(model).generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    list(decoder().run(requests))
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False), before)


def test_two_decoders_of_one_model_may_differ_in_their_switches(handed_over):
    _, decoder, requests, expected = handed_over
    fusing = decoder()
    assert fusing.options.fuse == (KERNELS is not None)
    plain_layers, without_kernels = decoder(fuse=False, page_size=32), decoder(kernels=False)
    for one in (fusing, plain_layers, without_kernels, fusing):
        assert_same(list(one.run(requests)), expected)


@pytest.mark.skipif(not KERNELS, reason="without kernels nothing is fused")
class TestWhatIsDoneToTheModel:
    def test_a_hook_in_a_layer_is_called_and_has_its_effect(self, handed_over, caplog):
        model, decoder, requests, expected = handed_over
        decoder = decoder()
        seen: list[Tensor] = []
        handle = model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: seen.append(output))
        assert_same(list(decoder.run(requests)), expected)
        assert len(seen) == decoder.stats.steps
        assert "layers [0] have hooks or changed parts" in caplog.text
        handle.remove()
        caplog.clear()
        assert_same(list(decoder.run(requests)), expected)
        assert not caplog.text

    def test_a_hook_on_the_layer_itself_needs_no_other_forward(self, handed_over, caplog):
        model, decoder, requests, expected = handed_over
        decoder = decoder()
        model.model.layers[0].register_forward_hook(lambda module, args, output: output * 1)
        assert_same(list(decoder.run(requests)), expected)
        assert not caplog.text

    @pytest.mark.parametrize("change", ["weight in place", "new weight", "new module", "forward"])
    def test_what_is_changed_in_a_layer_counts(self, handed_over, caplog, change: str):
        model, decoder, requests, _ = handed_over
        decoder = decoder()
        list(decoder.run(requests))
        layer = model.model.layers[0]
        if change == "weight in place":
            layer.mlp.up_proj.weight.data.mul_(-1)
        elif change == "new weight":
            layer.mlp.up_proj.weight = nn.Parameter(-layer.mlp.up_proj.weight.detach())
        elif change == "new module":
            layer.mlp = nn.Sequential(layer.mlp, Negative())
        else:
            up = layer.mlp.up_proj
            up.forward = lambda states: -nn.functional.linear(states, up.weight)
        found = list(decoder.run(requests))
        assert "layers [0] have hooks or changed parts" in caplog.text or change == "weight in place"
        assert n_fused(model) == 2
        decoder = Decoder(
            copy.deepcopy(model),
            decoder.rules,
            true_id=int(decoder._answers[0]),
            false_id=int(decoder._answers[1]),
            options=DecodingOptions(kernels=False),
        )
        assert_same(found, sorted(decoder.run(requests), key=lambda decoded: decoded.index))


class OneMore(LlamaRMSNorm):
    """With 1 + weight, as Gemma's."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) * (1 + self.weight) / self.weight


def test_layers_with_norms_in_another_dtype_stay_as_they_are(caplog):
    model = small(LlamaConfig).bfloat16()
    for layer in model.model.layers:
        layer.input_layernorm.float()
        layer.input_layernorm.__class__ = RoundedNorm
    with caplog.at_level(logging.INFO):
        fuse_layers(model, KERNELS or reference, 16)
    assert n_fused(model) == 0


class RoundedNorm(LlamaRMSNorm):
    """Computes in float32 in a model of another dtype."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states).to(hidden_states.dtype)


def test_layers_whose_parts_are_hooked_stay_as_they_are(caplog):
    """As accelerate's hooks, which bring weights that lie elsewhere."""
    model = small(LlamaConfig)
    add_hook_to_module(model.model.layers[0].self_attn.q_proj, ModelHook())
    model.model.layers[1].mlp.register_forward_pre_hook(lambda module, arguments: None)
    with caplog.at_level(logging.INFO):
        fuse_layers(model, reference, 16)
    assert n_fused(model) == 0
    assert "layers [0, 1] run as they are, which is slower than fused: its parts have hooks" in caplog.text


class ScalesTokens(nn.Linear):
    """Divides each token by its own largest number where there is a batch, and else all by one."""

    def forward(self, states: Tensor) -> Tensor:
        within = tuple(range(2, states.ndim)) or (0, 1)
        return super().forward(states / (1 + states.abs().amax(within, keepdim=True)))


def test_layers_get_a_batch_as_in_the_forward_of_the_model(handed_over):
    """compressed-tensors' strategy "token" quantizes [tokens, features] with one scale for all tokens."""
    model, decoder, requests, _ = handed_over
    for module in model.base_model.modules():
        if type(module) is nn.Linear:
            module.__class__ = ScalesTokens
    expected = sorted(decoder(fuse=False).run(requests), key=lambda decoded: decoded.index)
    fusing = decoder()
    assert n_fused(model) == len(model.base_model.layers)
    assert_same(list(fusing.run(requests)), expected)


class Negative(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return -states


@pytest.mark.skipif(not KERNELS, reason="without kernels nothing is fused")
def test_a_copy_of_a_model_is_fused_by_itself(handed_over):
    model, decoder, requests, expected = handed_over
    first = decoder()
    other = copy.deepcopy(model)
    other.model.layers[0].mlp.up_proj.weight.data.zero_()
    answers = {"true_id": int(first._answers[0]), "false_id": int(first._answers[1])}
    second = Decoder(other, first.rules, **answers)
    assert n_fused(other) == n_fused(model) == 2
    assert other.model.layers[0].forward.__self__ is not model.model.layers[0].forward.__self__
    list(second.run(requests))
    assert_same(list(first.run(requests)), expected)


@pytest.mark.skipif(not KERNELS, reason="without kernels nothing is fused")
def test_a_part_that_another_decoder_has_fused_is_noticed_too_where_it_is_changed(handed_over, caplog):
    model, decoder, requests, _ = handed_over
    first = decoder()
    layer = model.model.layers[0]
    layer.mlp.up_proj = copy.deepcopy(layer.mlp.up_proj)
    decoder()  # fuses the layer anew
    layer.mlp = nn.Sequential(layer.mlp, Negative())
    expected = Decoder(
        copy.deepcopy(model),
        first.rules,
        true_id=int(first._answers[0]),
        false_id=int(first._answers[1]),
        options=DecodingOptions(kernels=False),
    ).run(requests)
    assert_same(list(first.run(requests)), sorted(expected, key=lambda decoded: decoded.index))
    assert "layers [0] have hooks or changed parts" in caplog.text


@pytest.mark.skipif(not KERNELS, reason="without kernels nothing is fused")
def test_the_switch(checkpoint):
    assert n_fused(Rank1(checkpoint("qwen2"), max_new_tokens=4).model) > 0
    assert n_fused(Rank1(checkpoint("qwen2"), max_new_tokens=4, decoding="fuse=off").model) == 0
    assert n_fused(Rank1(checkpoint("qwen2"), max_new_tokens=4, decoding="kernels=off").model) == 0
