"""What a user does to a model, before the engine is made and after: every token and verdict is then that of a fresh
full forward pass of the changed model.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2MLP

from rank1_hf import Rank1, TraceOptions
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.requests import Decoded
from tests.decoding.test_graphs import Recorder, recorder  # noqa: F401, a fixture

Undo = Callable[[], None]
Change = Callable[[PreTrainedModel], Undo | None]


def steered(output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """The same at every place, as a steering vector."""
    states = output if isinstance(output, Tensor) else output[0]
    moved = states * torch.linspace(0, 2, states.shape[-1]) + torch.linspace(-0.1, 0.1, states.shape[-1])
    return moved if isinstance(output, Tensor) else (moved, *output[1:])


def hook(name: str, **options: bool) -> Change:
    def change(model: PreTrainedModel) -> Undo:
        module = model.get_submodule(name)
        if options:
            return module.register_forward_hook(lambda _, args, kwargs, output: steered(output), **options).remove
        return module.register_forward_hook(lambda _, args, output: steered(output)).remove

    return change


def pre_hook(name: str) -> Change:
    def change(model: PreTrainedModel) -> Undo:
        module = model.get_submodule(name)
        return module.register_forward_pre_hook(lambda _, args: (steered(args[0]), *args[1:])).remove

    return change


def hook_on_all_modules(model: PreTrainedModel) -> Undo:
    mlps = {layer.mlp for layer in model.model.layers}
    return register_module_forward_hook(lambda module, _, output: steered(output) if module in mlps else None).remove


def forward_of(name: str) -> Change:
    def change(model: PreTrainedModel) -> Undo:
        module = model.get_submodule(name)
        own = module.forward
        module.forward = functools.wraps(own)(lambda *args, **kwargs: steered(own(*args, **kwargs)))
        return lambda: delattr(module, "forward") if "forward" in vars(type(module)) else None

    return change


def forward_of_class(kind: type[nn.Module]) -> Change:
    def change(model: PreTrainedModel) -> Undo:
        own = kind.forward
        kind.forward = lambda self, *args, **kwargs: steered(own(self, *args, **kwargs))
        return lambda: setattr(kind, "forward", own)

    return change


def in_place(name: str) -> Change:
    def change(model: PreTrainedModel) -> None:
        with torch.no_grad():
            model.get_parameter(name).mul_(torch.linspace(0, 2, model.get_parameter(name).shape[-1]))

    return change


def other_data(name: str) -> Change:
    def change(model: PreTrainedModel) -> None:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data * torch.linspace(0, 2, parameter.shape[-1])

    return change


def other_parameter(name: str) -> Change:
    """The old one is gone before the new one is made, which may get its address."""

    def change(model: PreTrainedModel) -> None:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        numbers = getattr(module, last).detach() * torch.linspace(0, 2, getattr(module, last).shape[-1])
        delattr(module, last)
        setattr(module, last, nn.Parameter(numbers))

    return change


class Wrapped(nn.Module):
    """A module in the place of another, which goes on through it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.attention_type = getattr(inner, "attention_type", None)

    def forward(self, *args: Tensor, **kwargs: object) -> Tensor | tuple[Tensor, ...]:
        return steered(self.inner(*args, **kwargs))


def swapped(name: str) -> Change:
    return lambda model: model.set_submodule(name, Wrapped(model.get_submodule(name)))


class Skipped(nn.Module):
    """A layer that does nothing."""

    attention_type = "full_attention"

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        return hidden_states


def other_number(module: str, name: str, factor: float) -> Change:
    def change(model: PreTrainedModel) -> None:
        setattr(model.get_submodule(module), name, factor * getattr(model.get_submodule(module), name))

    return change


def other_rope(model: PreTrainedModel) -> None:
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq / 3


def other_embeddings(model: PreTrainedModel) -> None:
    old = model.get_input_embeddings().weight
    model.set_input_embeddings(nn.Embedding.from_pretrained(steered(old.detach())))


LAYER = "model.layers.1"
HOOKS: dict[str, Change] = {
    "hook on embed_tokens": hook("model.embed_tokens"),
    "hook on a layer": hook(LAYER),
    "hook on a layer, with kwargs": hook(LAYER, with_kwargs=True),
    "hook on self_attn": hook(f"{LAYER}.self_attn"),
    "hook on mlp": hook(f"{LAYER}.mlp"),
    "hook on a layer's norm": hook(f"{LAYER}.input_layernorm"),
    "hook on the last norm": hook("model.norm"),
    "hook on q_proj": hook(f"{LAYER}.self_attn.q_proj"),
    "hook on down_proj": hook(f"{LAYER}.mlp.down_proj"),
    "hook on the activation": hook(f"{LAYER}.mlp.act_fn"),
    "hook on lm_head": hook("lm_head"),
    "pre-hook on a layer": pre_hook(LAYER),
    "pre-hook on mlp": pre_hook(f"{LAYER}.mlp"),
    "pre-hook on o_proj": pre_hook(f"{LAYER}.self_attn.o_proj"),
    "pre-hook on lm_head": pre_hook("lm_head"),
    "hook on all modules": hook_on_all_modules,
}
OTHERS: dict[str, Change] = {
    "forward of mlp": forward_of(f"{LAYER}.mlp"),
    "forward of a layer": forward_of(LAYER),
    "forward of lm_head": forward_of("lm_head"),
    "forward of all mlps": forward_of_class(Qwen2MLP),
    "forward of all layers": forward_of_class(Qwen2DecoderLayer),
    "weight in place": in_place(f"{LAYER}.mlp.up_proj.weight"),
    "norm in place": in_place(f"{LAYER}.input_layernorm.weight"),
    "embeddings in place": in_place("model.embed_tokens.weight"),
    "weight with other data": other_data(f"{LAYER}.self_attn.k_proj.weight"),
    "norm with other data": other_data(f"{LAYER}.input_layernorm.weight"),
    "another weight": other_parameter(f"{LAYER}.mlp.gate_proj.weight"),
    "another norm": other_parameter(f"{LAYER}.post_attention_layernorm.weight"),
    "another mlp": swapped(f"{LAYER}.mlp"),
    "another v_proj": swapped(f"{LAYER}.self_attn.v_proj"),
    "another layer": swapped(LAYER),
    "a layer skipped": lambda model: model.set_submodule(LAYER, Skipped()),
    "other embeddings": other_embeddings,
    "attention scaled": other_number(f"{LAYER}.self_attn", "scaling", 3.0),
    "another epsilon": other_number(f"{LAYER}.input_layernorm", "variance_epsilon", 1e6),
    "another rope": other_rope,
}
CHANGES = HOOKS | OTHERS
OF_CLASSES = {"forward of all mlps", "forward of all layers"}
BEFORE = (
    "hook on a layer",
    "hook on mlp",
    "pre-hook on o_proj",
    "hook on all modules",
    "forward of a layer",
    "forward of all mlps",
    "another v_proj",
    "another layer",
    "a layer skipped",
)
"""What the engine finds when it is made, one of each kind."""

ENGINES = (
    {"fuse": False},
    {"kernels": False},
    {"speculate": False, "share_prefixes": False},
    {"reproducible": True, "batch_size": 4},
)


class Made:
    """A model, decoders of it, and what it is compared with."""

    def __init__(self, case: Callable) -> None:
        _, self.oracle, requests, _ = case("qwen2")
        self.requests = [replace(request, limit=8) for request in requests[2:4]]  # of one query
        self.model = self.fresh()

    def fresh(self) -> PreTrainedModel:
        """The same model without an engine."""
        return copy.deepcopy(self.oracle.model)

    def decoder(self, **options: object) -> Decoder:
        rules, encoder = self.oracle.encoder.chain_rules(self.oracle.eos), self.oracle.encoder
        answers = {"true_id": encoder.true_id, "false_id": encoder.false_id}
        return Decoder(self.model, rules, **answers, options=DecodingOptions(**options))

    @torch.inference_mode()
    def check(self, found: list[Decoded], changed: PreTrainedModel) -> None:
        """One full forward pass over each chain as it was found, and one for its verdict."""
        encoder = self.oracle.encoder
        assert sorted(each.index for each in found) == [request.index for request in self.requests]
        prompts = {request.index: list(request.prompt) for request in self.requests}
        for each in found:
            prompt = prompts[each.index]
            logits = changed(torch.tensor([[*prompt, *each.thought]]), use_cache=False).logits[0]
            said = logits.argmax(-1).tolist()[len(prompt) - 1 :]
            assert each.error is None
            assert said[: len(each.thought)] == list(each.thought)
            closed = [*prompt, *each.thought, *encoder.close_ids]
            if each.ended != "closed":
                closed = encoder.force_close(prompt, each.thought)
            logits = changed(torch.tensor([closed]), use_cache=False).logits[0, -1]
            assert each.true_logit == pytest.approx(float(logits[encoder.true_id]), abs=1e-3)
            assert each.false_logit == pytest.approx(float(logits[encoder.false_id]), abs=1e-3)


@pytest.fixture
def made(case) -> Made:
    return Made(case)


@pytest.fixture
def undone() -> Iterator[list[Undo]]:
    """What is to be undone behind a test."""
    undo: list[Undo] = []
    yield undo
    for each in reversed(undo):
        each()


def changed(name: str, model: PreTrainedModel, undone: list[Undo], *, again: bool = False) -> PreTrainedModel:
    """A model with a change; `again`: what is changed of a class holds for it already."""
    undo = None if again and name in OF_CLASSES else CHANGES[name](model)
    if undo is not None:
        undone.append(undo)
    return model


def verdicts(found: list[Decoded]) -> list[tuple[tuple[int, ...], float]]:
    return [(each.thought, round(each.true_logit, 3)) for each in sorted(found, key=lambda each: each.index)]


@pytest.mark.parametrize("name", BEFORE)
def test_a_change_before_the_engine_is_made_counts(made: Made, undone: list[Undo], name: str):
    changed(name, made.model, undone)
    made.check(list(made.decoder().run(made.requests)), changed(name, made.fresh(), undone, again=True))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_two_calls_counts(made: Made, undone: list[Undo], name: str):
    decoder = made.decoder()
    before = list(decoder.run(made.requests))
    changed(name, made.model, undone)
    found = list(decoder.run(made.requests))
    made.check(found, changed(name, made.fresh(), undone, again=True))
    assert verdicts(found) != verdicts(before)


@pytest.mark.parametrize("options", ENGINES, ids=str)
@pytest.mark.parametrize("name", ["hook on mlp", "another weight"])
def test_a_change_counts_whatever_the_engine_adds(made: Made, undone: list[Undo], options: dict[str, Any], name: str):
    decoder = made.decoder(**options)
    list(decoder.run(made.requests))
    changed(name, made.model, undone)
    made.check(list(decoder.run(made.requests)), changed(name, made.fresh(), undone))


def test_a_forward_that_is_put_back_by_assignment_leaves_nothing_behind(made: Made, caplog: pytest.LogCaptureFixture):
    decoder, mlp = made.decoder(), made.model.get_submodule("model.layers.1.mlp")
    before = list(decoder.run(made.requests))
    own = mlp.forward
    mlp.forward = lambda states: steered(own(states))
    list(decoder.run(made.requests))
    mlp.forward = own
    caplog.clear()
    assert list(decoder.run(made.requests)) == before
    assert not caplog.text


@pytest.mark.parametrize("name", ["hook on a layer", "hook on mlp", "pre-hook on lm_head", "hook on all modules"])
def test_a_hook_that_is_gone_leaves_nothing_behind(made: Made, name: str, caplog: pytest.LogCaptureFixture):
    decoder, (undo,) = made.decoder(), [HOOKS[name](made.model)]
    list(decoder.run(made.requests))
    undo()
    caplog.clear()
    made.check(list(decoder.run(made.requests)), made.fresh())
    assert not caplog.text


def test_a_hook_that_comes_during_a_call_counts_from_the_next_step(made: Made):
    decoder, seen = made.decoder(), []
    steps = decoder.steps(made.requests)
    next(steps)
    made.model.get_submodule(f"{LAYER}.mlp").register_forward_hook(lambda *_: seen.append(decoder.stats.steps))
    n_steps = decoder.stats.steps
    list(steps)
    assert seen == list(range(n_steps, decoder.stats.steps))


@pytest.mark.parametrize(
    "name",
    [
        "hook on a layer",
        "hook on lm_head",
        "hook on all modules",
        "forward of a layer",
        "forward of all mlps",
        "weight with other data",
        "another norm",
        "another v_proj",
        "another epsilon",
        "another rope",
    ],
)
def test_no_captured_step_is_replayed_without_a_change(
    made: Made,
    undone: list[Undo],
    recorder: Recorder,  # noqa: F811
    name: str,
):
    decoder = made.decoder()
    list(decoder.run(made.requests))
    before, n_captured = list(decoder._graphs._graphs.values()), decoder.stats.captured_steps
    assert n_captured > 0
    changed(name, made.model, undone)
    list(decoder.run(made.requests))
    if name in HOOKS:
        assert decoder.stats.captured_steps == n_captured
    else:
        assert not {*map(id, before)} & {*map(id, decoder._graphs._graphs.values())}


def test_a_hook_that_comes_during_a_call_is_not_left_out_by_captured_steps(made: Made, recorder: Recorder):  # noqa: F811
    decoder = made.decoder()
    list(decoder.run(made.requests))
    steps = decoder.steps(made.requests)
    next(steps)
    n_captured = decoder.stats.captured_steps
    made.model.model.norm.register_forward_hook(lambda *_: None)
    list(steps)
    assert decoder.stats.captured_steps == n_captured


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("hook on a layer", "paged"),
        ("hook on q_proj", "paged"),
        ("pre-hook on lm_head", "paged"),
        ("hook on mlp", "plain"),
    ],
)
def test_a_hook_counts_in_every_method_and_with_packed_layers(checkpoint, made: Made, name: str, engine: Any):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", dtype="float32", max_new_tokens=8, engine=engine)
    query, passage = "how do wings carry it?", "The wing carries it."
    reranker.judge([(query, passage)])
    HOOKS[name](reranker.model)
    HOOKS[name](hooked := made.fresh())
    encoder, prompt, given = reranker.encoder, list(reranker.encode(query, passage).ids), [5, 9, 7]
    with torch.inference_mode():
        logits = hooked(torch.tensor([[*prompt, *given, *encoder.close_ids]])).logits[0]
    expected = float(logits[-1, encoder.true_id] - logits[-1, encoder.false_id])
    traced = {} if engine == "plain" else {"trace": TraceOptions(lens=True)}
    (judgment,) = reranker.score_chains([(query, passage)], [given], **traced)
    assert judgment.log_odds == pytest.approx(expected, abs=1e-3)
    if judgment.trace is not None:
        own = logits[len(prompt) - 1 :].log_softmax(-1)[range(3), given].tolist()
        assert judgment.trace.logprobs == pytest.approx(own, abs=1e-3)
        assert judgment.trace.lens[-1] == pytest.approx(expected, abs=1e-3)
    (judged,) = reranker.judge([(query, passage)])
    assert reranker.rank(query, [passage] * 2)[0]["log_odds"] == judged.log_odds
    if engine == "paged":
        assert list(reranker.stream(query, passage))[-1].log_odds == pytest.approx(judged.log_odds, abs=1e-4)
