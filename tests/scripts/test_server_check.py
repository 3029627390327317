"""`scripts/server_check.py`: small, and that it does not pass what it should not."""

import os
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from rank1_hf import Rank1
from scripts import server_check


def test_all_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    if "RANK1_SLOW" not in os.environ:  # a new process needs seconds to import torch
        assert pickle.loads(pickle.dumps(server_check.ask)) is server_check.ask, "a process can be given it"
        monkeypatch.setattr(server_check, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    options = ["--clients", "4", "--documents", "2", "--repeats", "1", "--hostile", "20", "--max-new-tokens", "8"]
    monkeypatch.setattr(sys, "argv", ["server_check.py", *options, "--device", "cpu"])
    assert server_check.main() == 0
    throughput, leaving, hostile = capsys.readouterr().out.splitlines()
    assert "4 clients, 8 pairs" in throughput
    assert throughput.endswith("0 lost")
    assert "2 of 4 clients left" in leaving
    assert "20 requests" in hostile


def test_a_server_error_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    async def failing(port: int, requests: object) -> Counter[str]:
        return Counter({"500": 1})

    monkeypatch.setattr(server_check, "send_all", failing)
    with server_check.serving(Rank1(device="cpu", max_new_tokens=8)) as (engine, port):
        assert not server_check.send_hostile(engine, port, 5, server_check.random.Random(0))
