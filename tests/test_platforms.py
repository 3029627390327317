"""Windows and Macs, as far as a CPU can tell: what has no Triton runs as a CPU does, and nothing needs POSIX."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from rank1_hf import Rank1
from rank1_hf.decoding import kernels
from rank1_hf.decoding.options import DecodingOptions
from tests import tiny_models

PACKAGE = Path(__file__).parents[1] / "rank1_hf"
POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
PAIRS = [("how do wings carry?", line) for line in tiny_models.TEXT.splitlines() if line]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_without_triton_there_is_no_kernel_to_capture(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_triton_available", lambda: False)
    assert kernels.kernels_for(torch.device(device), AutoConfig.for_model("qwen2"), torch.float32) is None


def test_a_mac_takes_no_cuda_kernel_where_triton_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_triton_available", lambda: True)
    assert kernels.kernels_for(torch.device("mps"), AutoConfig.for_model("qwen2"), torch.float32) is None


def test_windows_runs_ahead_without_graphs(checkpoint: Callable[..., Path]) -> None:
    """What a CUDA card does there: steps launched before the one before is read, in plain operations."""
    folder = checkpoint("qwen2")
    expected = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=24).judge(PAIRS)
    as_there = DecodingOptions(overlap=True, step_overhead_tokens=5, batch_size=256)
    model = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=24, decoding=as_there)
    assert model.decoder._graphs is None
    for ours, theirs in zip(model.judge(PAIRS), expected, strict=True):
        assert (ours.chain, ours.ended, ours.error) == (theirs.chain, theirs.ended, None)
    assert model.decoder.stats.captured_steps == 0


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_module_needs_posix(file: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    assert not found & POSIX_ONLY
