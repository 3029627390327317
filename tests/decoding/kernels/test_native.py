"""Compiling C++ on first use, and what happens where that is not possible."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from rank1_hf.decoding import kernels
from rank1_hf.decoding.kernels import native

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

SOURCE = 'extern "C" int answer() { return ANSWER; }'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("RANK1_HF_CACHE", str(tmp_path / "cache"))
    for function in (native._outcome, native.cache_folder, kernels._warn):
        function.cache_clear()
    yield tmp_path / "cache"
    for function in (native._outcome, native.cache_folder, kernels._warn):
        function.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "small.cpp"
    path.write_text(SOURCE)
    return path


def again() -> None:
    """As in a new process."""
    native._outcome.cache_clear()


def test_it_is_compiled_once_and_found_again(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert native.compiled(source, "-DANSWER=42").answer() == 42
    (made,) = folder.iterdir()
    again()
    monkeypatch.setattr(native, "_compile", lambda *args: pytest.fail("it is there"))
    assert native.compiled(source, "-DANSWER=42").answer() == 42
    assert [made] == list(folder.iterdir()), "nothing is left beside it"


def test_other_options_and_another_source_are_another_library(source: Path, folder: Path):
    assert native.compiled(source, "-DANSWER=42").answer() == 42
    assert native.compiled(source, "-DANSWER=43").answer() == 43
    source.write_text('#include "more.h"\n' + SOURCE.replace("ANSWER;", "ANSWER + MORE;"))
    for more in (1, 2):
        (source.parent / "more.h").write_text(f"#define MORE {more}")
        again()
        assert native.compiled(source, "-DANSWER=43").answer() == 43 + more


def test_a_damaged_library_is_compiled_again(source: Path, folder: Path):
    native.compiled(source, "-DANSWER=42")
    (made,) = folder.iterdir()
    made.unlink()
    made.write_bytes(b"cut off")
    again()
    assert native.compiled(source, "-DANSWER=42").answer() == 42


def test_processes_that_start_together(source: Path, folder: Path):
    # The module alone, which imports no torch.
    program = (
        "import importlib.util, pathlib, sys; spec = importlib.util.spec_from_file_location('native', sys.argv[1]); "
        "native = importlib.util.module_from_spec(spec); spec.loader.exec_module(native); "
        "print(native.compiled(pathlib.Path(sys.argv[2]), '-DANSWER=42').answer())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(native.__file__), str(source)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["42"] * 3
    assert len(list(folder.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(source: Path, folder: Path):
    folder.mkdir(mode=0o500)
    assert native.compiled(source, "-DANSWER=42").answer() == 42


def test_a_file_in_the_place_of_the_folder(source: Path, folder: Path):
    folder.write_text("")
    assert native.compiled(source, "-DANSWER=42").answer() == 42
    assert native.cache_folder() != folder


def test_a_folder_where_others_may_put_libraries_is_not_used(source: Path, folder: Path):
    folder.mkdir()
    folder.chmod(0o777)
    native.compiled(source, "-DANSWER=42")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("compiler", "message"), [("", "install g++"), ("no-such-compiler", "cannot be run"), ("false", "cannot compile")]
)
def test_without_a_compiler_steps_run_in_pytorch_and_one_line_says_so(
    compiler: str, message: str, monkeypatch: pytest.MonkeyPatch, caplog
):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(native, "_COMPILERS", ())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert kernels.kernels_for(torch.device("cpu"), PretrainedConfig(), torch.float32) is None
    (record,) = caplog.records
    assert message in record.getMessage()
    assert "PyTorch's own operations" in record.getMessage()


def test_a_compiler_may_be_a_command_with_arguments(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "env LC_ALL=C g++")
    assert native.compiled(source, "-DANSWER=42").answer() == 42


def test_a_full_disk_is_a_reason_to_go_on_without(source: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(native.tempfile, "TemporaryDirectory", full)
    with pytest.raises(ValueError, match="No space left on device"):
        native.compiled(source, "-DANSWER=42")


def test_a_compiler_that_fails_is_tried_once(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "false")
    run, commands = native._run, []
    monkeypatch.setattr(native, "_run", lambda command: commands.append(command) or run(command))
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot compile"):
            native.compiled(source)
    assert len(commands) == 1


def test_elsewhere_than_on_linux_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "getuid")
    assert kernels.kernels_for(torch.device("cpu"), PretrainedConfig(), torch.float32) is None
    assert "the CPU kernels are for Linux" in caplog.text


def test_the_kernels_use_the_threads_of_pytorch(source: Path):
    """A second OpenMP runtime would fight PyTorch's for the cores."""
    source.write_text('#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }')
    before = torch.get_num_threads()
    try:
        for n in (3, 5):
            torch.set_num_threads(n)
            assert native.compiled(source).threads() == n
    finally:
        torch.set_num_threads(before)
