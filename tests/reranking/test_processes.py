"""Several processes share the pairs of a call: two on the CPU, as `accelerate launch` starts them."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from rank1_hf import Rank1
from tests.launched import PAIRS, PASSAGES

ROOT = Path(__file__).parents[2]


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes. (With `--cpu` accelerate starts one only.)"""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [*launcher, *settings, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes that ran `launched.py` found, until one of them was killed."""
    folder = tmp_path_factory.mktemp("launched")
    passages = "\n".join(json.dumps({"text": passage}) for passage in PASSAGES)
    (folder / "passages.jsonl").write_text(passages, encoding="utf-8")
    outcome = launch(ROOT / "tests" / "launched.py", folder)
    assert re.search(r"exitcode *: 3", outcome.stderr), outcome.stderr  # and the other did not wait for it
    return [json.loads((folder / f"{index}.json").read_text(encoding="utf-8")) for index in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> Rank1:
    return Rank1(device="cpu", dtype="float32", max_new_tokens=48)


def test_every_process_gets_what_one_alone_gets(reports: list[dict[str, Any]], alone: Rank1):
    expected = [judgment.to_dict() for judgment in alone.judge(PAIRS)]
    for report in reports:
        for ours, theirs in zip(report["judgments"], expected, strict=True):
            for field in ("score", "log_odds"):
                assert ours.pop(field) == pytest.approx(theirs[field], abs=1e-4)
            assert ours == {name: value for name, value in theirs.items() if name not in ("score", "log_odds")}
        hits = alone.rank("what is bread?", PASSAGES, top_k=3)
        assert report["rank"] == [hit["corpus_id"] for hit in hits]
        assert report["nothing"] == []


def test_each_pair_is_decoded_once(reports: list[dict[str, Any]]):
    decoded = [*reports[0]["decoded"], *reports[1]["decoded"]]
    firsts = {PAIRS.index(pair) for pair in PAIRS if pair[0].strip()}
    assert sorted(decoded) == sorted(firsts)


def test_both_have_about_as_many_tokens_to_read(reports: list[dict[str, Any]]):
    one, other = (report["tokens"] for report in reports)
    assert 2 / 3 < one / other < 3 / 2


def test_a_failure_in_one_is_told_by_all(reports: list[dict[str, Any]]):
    assert [report["failure"] for report in reports] == [
        "RuntimeError: process 1 of 2 failed: OSError('no disk')",
        "OSError: no disk",
    ]


def test_ctrl_c_in_one_keeps_what_all_had_finished(reports: list[dict[str, Any]]):
    mine, same = (report["interrupted"] for report in reports)
    assert mine == same
    assert set(reports[0]["decoded"]) & set(mine)
    assert set(reports[1]["decoded"]) & set(mine)


def test_what_makes_no_sense_is_refused(reports: list[dict[str, Any]]):
    for report in reports:
        assert "must all be given the same pairs" in report["different"]
        assert "leave stream out" in report["stream"]
        assert "needs 3 processes on cpu, not 2" in report["three"]


def test_the_command_line_answers_once(reports: list[dict[str, Any]]):
    statuses, outputs, errors = zip(*(report["command"] for report in reports), strict=True)
    assert statuses == (0, 0), errors
    lines = [json.loads(line) for line in "".join(outputs).splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(len(PASSAGES)))
    assert [line["rank"] for line in lines] == list(range(1, len(PASSAGES) + 1))
    assert "".join(errors).count("demonstration model") == 1


class TestAlone:
    def test_the_command_to_start_is_named(self):
        with pytest.raises(ValueError, match=r"accelerate launch --num_processes 2 PROGRAM.*device_map='auto'"):
            Rank1(device="cpu", num_gpus=2)

    def test_who_forgets_num_gpus_is_told(self, monkeypatch: pytest.MonkeyPatch):
        for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        with pytest.warns(UserWarning, match=r"2 processes were launched .* every pair .* num_gpus=2"):
            Rank1(device="cpu")
        monkeypatch.setenv("RANK", "1")
        with warnings.catch_warnings(action="error"):
            Rank1(device="cpu")

    def test_one_model_is_not_spread_as_well(self):
        with pytest.raises(ValueError, match="num_gpus puts a whole model on each GPU"):
            Rank1(num_gpus=2, device_map="auto")

    def test_no_process_is_given_one_device(self):
        with pytest.raises(ValueError, match="use device='cpu'"):
            Rank1(num_gpus=2, device="cpu:0")

    @pytest.mark.parametrize("number", [0, -1, True, 1.5])
    def test_no_number_of_gpus(self, number: object):
        with pytest.raises(ValueError, match="num_gpus must be a whole number of at least 1"):
            Rank1(num_gpus=number)
