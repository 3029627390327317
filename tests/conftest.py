"""What all tests share: one thread, no hub, tiny checkpoints, and the folder with real ones where there is one."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a test that reaches for the hub is a bug

from collections.abc import Callable
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from tests import tiny_models

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background ignores it
disable_progress_bar()  # of saving checkpoints
torch.set_num_threads(1)  # the workers of pytest-xdist would fight for the cores

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(kind, **options) -> folder` of a tiny random-weight model, built once for the same arguments.

    `kind` is one of `tiny_models.TOKENIZERS`; the options are those of `tiny_models.build_model`, and `tokenizer`,
    another kind whose tokenizer it gets. Tests must not write into the folder: copy it first.
    """

    @cache
    def build(kind: str, **options: object) -> Path:
        return tiny_models.save_checkpoint(tmp_path_factory.mktemp(kind), kind, **options)

    return build


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedTokenizerFast]:
    """`tokenizer(kind)`, saved and loaded again as from a checkpoint; `kind` is one of `tiny_models.TOKENIZERS`."""

    @cache
    def build(kind: str) -> PreTrainedTokenizerFast:
        folder = tmp_path_factory.mktemp(f"{kind}-tokenizer")
        tiny_models.build_tokenizer(kind).save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)

    return build


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real checkpoints and reference outputs: RANK1_SHARED, or `shared` beside the repository."""
    named = os.environ.get("RANK1_SHARED")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder named by RANK1_SHARED")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU, and mark the tests that use `shared`."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
