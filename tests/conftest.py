"""What all tests share: one thread, no hub, tiny checkpoints, and the folder with real ones where there is one."""

import gc
import json
import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a test that reaches for the hub is a bug

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from rank1_hf.models.planning import Size
from tests import tiny_models

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background ignores it
disable_progress_bar()  # of saving checkpoints
torch.set_num_threads(1)  # the workers of pytest-xdist would fight for the cores

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.register_profile("slow", deadline=None, derandomize=True)
slow, ci = "RANK1_SLOW" in os.environ, bool(os.environ.get("CI"))
hypothesis.settings.load_profile("slow" if slow and ci else "ci" if ci else "default")


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


_sizes: dict[str, Size] = {}


@pytest.fixture(scope="module")
def sizes_are_known() -> Iterator[None]:
    """The size of a model is computed once, as long as no test is about how: tests/models/test_planning.py."""
    size_of = Size.of

    def of(config: PretrainedConfig) -> Size:
        key = json.dumps(config.to_dict(), sort_keys=True, default=str)
        if key not in _sizes:
            _sizes[key] = size_of(config)
        return _sizes[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Size, "of", of)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real checkpoints and reference outputs: RANK1_SHARED, or `shared` beside the repository."""
    named = os.environ.get("RANK1_SHARED")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder named by RANK1_SHARED")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped and why: a line for each reason, with its files."""
    places: dict[str, Counter[str]] = defaultdict(Counter)
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):  # (file, line, reason); an expected failure has something else
            places[report.longrepr[2].removeprefix("Skipped: ")][report.nodeid.split("::")[0]] += 1
    if places:
        terminalreporter.section("skipped, by reason")
    for reason, files in sorted(places.items(), key=lambda item: -item[1].total()):
        where = ", ".join(f"{file} ({n})" for file, n in files.most_common())
        terminalreporter.write_line(f"{files.total():4d}  {reason}: {where}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU, and mark the tests that use `shared`."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes by their argument: packed bytes hold the time, and two workers must collect tests of equal names."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through the two million objects of the imports again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries that count what is left at the end must find nothing."""
    gc.unfreeze()
