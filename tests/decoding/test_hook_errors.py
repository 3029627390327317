"""What fails within the model, where the caller's hooks are on it, says so and where."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rank1_hf import Judgment, Rank1
from tests import tiny_models

PAIRS = [("how do wings carry an aeroplane?", line) for line in tiny_models.TEXT.splitlines()[:3] if line]


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


@pytest.mark.parametrize("engine", ["paged", "plain"])
def test_an_error_of_a_hook_names_its_module_and_keeps_what_was_finished(checkpoint: Callable[..., Path], engine: str):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", dtype="float32", max_new_tokens=4, engine=engine)
    finished: list[Judgment] = []

    def fail(module: object, args: object, output: object) -> None:
        if finished:
            raise ZeroDivisionError("half-way")

    raises = pytest.raises(ZeroDivisionError, match="half-way")
    with reranker.model.model.layers[1].register_forward_hook(fail), raises as caught:
        reranker.judge(PAIRS, stream=finished.append, batch_size=1)
    assert [judgment.error for judgment in finished] == [None]
    assert str(caught.value) == "half-way"
    said = notes(caught.value)
    assert "There are forward hooks on model.layers.1, so" in said
    assert "[1, tokens, hidden size] in the model's dtype (float32)" in said
    assert all(judgment.error is None for judgment in reranker.judge(PAIRS)), "the next call is as ever"


def test_what_a_hook_returns_wrongly_is_noted_where_a_later_module_fails(checkpoint: Callable[..., Path]):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4)
    with reranker.model.model.layers[0].register_forward_hook(lambda module, args, output: output[..., :3]):
        with pytest.raises(RuntimeError) as caught:
            reranker.judge(PAIRS)
        assert "model.layers.0" in notes(caught.value)
        with pytest.raises(RuntimeError) as caught:
            list(reranker.stream(*PAIRS[0]))
        assert "model.layers.0" in notes(caught.value)


def test_errors_from_elsewhere_and_without_hooks_have_no_note(checkpoint: Callable[..., Path]):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4)

    def fail(judgment: Judgment) -> None:
        raise ZeroDivisionError

    hook = reranker.model.model.layers[0].register_forward_hook(lambda module, args, output: None)
    with hook, pytest.raises(ZeroDivisionError) as caught:
        reranker.judge(PAIRS, stream=fail)
    assert not notes(caught.value)
    reranker.model.model.layers[0].forward = fail
    with pytest.raises(TypeError) as caught:
        reranker.judge(PAIRS)
    assert not notes(caught.value)
