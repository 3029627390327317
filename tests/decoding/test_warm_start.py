"""What the first pair waits for, with stand-ins for a GPU's kernels and captures."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rank1_hf import Rank1
from rank1_hf.decoding import defaults, graphs, loop, warm_start
from rank1_hf.decoding.kernels import reference
from rank1_hf.decoding.kernels.contract import PagedBatch
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.stats import Stats
from rank1_hf.models.loading import open_checkpoint
from rank1_hf.reranking import model_source
from tests.decoding.test_graphs import Recorder

CPU = torch.device("cpu")
CONFIG = open_checkpoint().config


class Launched:
    """Kernels that note what they are launched with, and where."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self.batches: list[PagedBatch] = []
        self.dtypes: set[torch.dtype] = set()
        self.have_begun = threading.Event()
        self.others: set[str] = set()

    def __getattr__(self, name: str) -> object:
        self.others.add(name)
        return getattr(reference, name)

    def attend(self, queries: Tensor, *arguments: object) -> Tensor:
        self.threads.add(threading.current_thread())
        self.batches.append(arguments[2])
        self.dtypes.add(queries.dtype)
        self.have_begun.set()
        return reference.attend(queries, *arguments)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """The kernels of this machine."""
    kernels = Launched()
    monkeypatch.setattr(warm_start, "kernels_for", lambda *model: kernels)
    monkeypatch.setattr(warm_start, "compile_at_launch", lambda device: True)
    return kernels


def test_kernels_are_compiled_while_the_weights_load(launched: Launched, monkeypatch: pytest.MonkeyPatch):
    load = model_source.load_model

    def loading(*args: object, **options: object):
        assert launched.have_begun.wait(60)
        return load(*args, **options)

    monkeypatch.setattr(model_source, "load_model", loading)
    Rank1(device="cpu", dtype="bfloat16")
    assert threading.current_thread() not in launched.threads
    assert not any(thread.is_alive() for thread in launched.threads)
    assert launched.dtypes == {torch.bfloat16}
    widths = {(batch.longest_query, batch.block_table.shape[1]) for batch in launched.batches}
    assert {(1, 1), (1, 16), (8, 16), (1024, 16)} <= widths  # short contexts and long ones, drafts, prefill
    assert launched.others == {"add_rms_norm", "rotate_and_write", "gate", "read_logits"}


@pytest.mark.parametrize("options", [{"decoding": DecodingOptions(kernels=False)}, {"engine": "plain"}])
def test_nothing_is_compiled_that_is_not_used(launched: Launched, options):
    Rank1(device="cpu", **options)
    assert not launched.batches


def test_without_kernels_there_is_no_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threading, "Thread", None)
    with warm_start.kernels_compiling(CPU, CONFIG, None):
        pass


def test_a_kernel_that_cannot_be_compiled_harms_nothing(monkeypatch: pytest.MonkeyPatch, caplog):
    def attend(*arguments: object) -> Tensor:
        raise OSError("no C compiler")

    monkeypatch.setattr(warm_start, "kernels_for", lambda *model: SimpleNamespace(attend=attend))
    monkeypatch.setattr(warm_start, "compile_at_launch", lambda device: True)
    with caplog.at_level("INFO"), warm_start.kernels_compiling(CPU, CONFIG, torch.float32):
        pass
    assert "could not be compiled ahead: no C compiler" in caplog.text


def test_weights_that_cannot_be_loaded_say_so_themselves(launched: Launched):
    with pytest.raises(ValueError, match="no weights"), warm_start.kernels_compiling(CPU, CONFIG, torch.float32):
        raise ValueError("no weights")
    assert not any(thread.is_alive() for thread in launched.threads)


def said_of_it(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the module says, whatever other loggers are set to say."""
    return [record.getMessage() for record in caplog.records if record.name == warm_start.__name__]


def test_it_is_said_once_what_the_first_pair_waits_for_and_how_long(monkeypatch: pytest.MonkeyPatch, caplog):
    for module in (defaults, loop):
        monkeypatch.setattr(module, "kernels_for", lambda *model: reference)
    monkeypatch.setattr(loop, "compile_at_launch", lambda device: True)
    monkeypatch.setattr(defaults, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "CudaCapture", lambda device: Recorder())
    with caplog.at_level("INFO", logger=warm_start.__name__):
        model = Rank1(device="cpu", dtype="float32", max_new_tokens=4)
        assert model.decoder._graphs._graphs, "the first steps are captured while the model is loaded"
        assert model.decoder.stats == Stats()
        for _ in range(2):
            model.judge([("wings", "air"), ("bread", "flour")])
    first, second = said_of_it(caplog)
    assert first == "the first pair waits for kernels that are not compiled yet and CUDA graphs of its steps"
    assert second.startswith("the first pair was judged within ")


def test_on_a_cpu_nothing_is_said(caplog):
    model = Rank1(device="cpu", dtype="float32", max_new_tokens=4)
    with caplog.at_level("INFO", logger=warm_start.__name__):
        model.judge([("wings", "air")])
    assert said_of_it(caplog) == []
