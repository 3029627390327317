"""`scripts/benchmark.py` runs, writes what it says, and its peers do the same work. Nothing here depends on speed."""

import json
import os
import re
import runpy
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from rank1_hf.decoding.options import FIELDS, DecodingOptions

ROOT = Path(__file__).parents[2]
WORKLOADS = ("natural", *(("ragged", "long-query", "interactive") if "RANK1_SLOW" in os.environ else ()))
OPTIONS = (
    f"--workload {' '.join(WORKLOADS)} --quick --vary --dtype float32 --pairs 2 --budget 34 "
    "--peer-pairs generate_batch=1"
)
PEERS = ("rank1_hf", "generate", "generate_batch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run wrote; in float32, where every peer must think the same chains."""
    folder, verbosity = tmp_path_factory.mktemp("benchmark"), logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:  # in this process, which has imported already what takes seconds
        patch.setattr(sys, "argv", ["benchmark.py", "--output", str(folder), *OPTIONS.split()])
        patch.syspath_prepend(ROOT / "scripts")
        runpy.run_path(str(ROOT / "scripts" / "benchmark.py"), run_name="__main__")
    logging.set_verbosity(verbosity)
    return folder


def test_threads_are_what_every_peer_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    program, allowed = runpy.run_path(str(ROOT / "scripts" / "benchmark.py")), []
    monkeypatch.setattr(torch, "set_num_threads", allowed.append)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: allowed.append(len(cores)), raising=False)
    program["parse_options"](["--output", "DIR", "--threads", "1"])
    assert set(allowed) == {1}


@pytest.fixture(scope="module")
def results(folder: Path) -> dict:
    return json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))


def test_every_peer_judges_every_pair_in_every_repeat(results):
    assert tuple(results["workloads"]) == WORKLOADS
    for workload in results["workloads"].values():
        assert tuple(workload["peers"]) == PEERS
        for peer, measured in workload["peers"].items():
            assert measured["n_pairs"] == (1 if peer == "generate_batch" else 2)
            assert len(measured["runs"]) == 2
            for run in measured["runs"]:
                assert len(run["log_odds"]) == len(run["chain_tokens"]) == measured["n_pairs"]
                assert 0 < run["first_seconds"] <= run["seconds"]


def test_peers_do_the_same_work(results):
    for workload in results["workloads"].values():
        ours = workload["peers"]["rank1_hf"]["runs"][0]
        for measured in workload["peers"].values():
            assert measured["same_decisions"] == 1
            for run in measured["runs"]:
                assert run["chain_tokens"] == ours["chain_tokens"][: measured["n_pairs"]]
                assert run["log_odds"] == pytest.approx(ours["log_odds"][: measured["n_pairs"]], abs=1e-3)


def test_chains_end_by_themselves_except_where_their_lengths_are_drawn(results):
    closed = {name: result["peers"]["rank1_hf"]["runs"][0]["n_closed"] for name, result in results["workloads"].items()}
    assert closed["natural"] > 0
    assert closed.get("ragged", 0) == 0


def test_speeds_and_ratios_are_what_the_raw_numbers_say(results):
    for workload in results["workloads"].values():
        speeds = {
            name: [measured["n_pairs"] / run["seconds"] for run in measured["runs"]]
            for name, measured in workload["peers"].items()
        }
        for name, measured in workload["peers"].items():
            assert measured["pairs_per_second"] == pytest.approx(speeds[name])
            ratios = [ours / peer for ours, peer in zip(speeds["rank1_hf"], speeds[name], strict=True)]
            assert measured["ratios"] == pytest.approx(ratios)


def test_the_table_shows_the_medians(folder, results):
    table = (folder / "benchmark.md").read_text(encoding="utf-8")
    for workload in results["workloads"].values():
        for peer, measured in workload["peers"].items():
            median = f"{statistics.median(measured['pairs_per_second']):.2f} ("
            assert re.search(rf"^\| {peer} .*\| +{re.escape(median)}", table, flags=re.MULTILINE), (peer, median)


def test_phases_are_beside_the_limits_of_the_machine(results):
    assert all(value > 0 for value in results["limits"].values())
    assert [phase["name"] for phase in results["phases"]] == ["decode", "decode", "prefill"]
    for phase in results["phases"]:
        least = max(phase["read_seconds"], phase["compute_seconds"])
        assert phase["fraction"] == pytest.approx(least / phase["seconds"])


def test_curves_have_a_value_for_every_point_and_a_picture_where_matplotlib_is_installed(folder, results):
    titles = [curve["title"] for curve in results["curves"]]
    assert titles == ["rows", "prompt-length", "chain-length", "prefix-sharing", "pairs-time", "pairs-memory"]
    for curve in results["curves"]:
        assert all(len(values) == len(curve["x"]) and min(values) > 0 for values in curve["lines"].values())
    pytest.importorskip("matplotlib")
    for title in titles:
        assert (folder / f"{title}.png").read_bytes().startswith(b"\x89PNG")


def test_each_switch_is_measured_alone_and_all_together_beside_the_default(results):
    turned = {row["options"]: row["pairs_per_second"] for row in results["switches"]}
    options = [DecodingOptions.parse(text) for text in turned]
    switches = {name for name in FIELDS if isinstance(getattr(DecodingOptions(), name), bool)} | {"overlap"}
    alone = [
        name for each in options for name in switches if each == replace(DecodingOptions(), **{name: not on(name)})
    ]
    assert options[0] == DecodingOptions()
    assert set(alone) == switches
    assert options[-1] == replace(DecodingOptions(), **{name: False for name in switches if on(name)})
    assert all(len(speeds) in (0, 2) and all(speed > 0 for speed in speeds) for speeds in turned.values())
    for name in ("", "speculate=off", "share_prefixes=off", "reproducible=on", list(turned)[-1]):
        assert turned[name], f"{name} changes what any machine does"


def on(name: str) -> bool:
    """Whether a switch is on by default, where the device can have it."""
    return getattr(DecodingOptions(), name) is not False


def test_the_table_of_switches_shows_medians_and_ratios(folder, results):
    table = (folder / "benchmark.md").read_text(encoding="utf-8")
    default = results["switches"][0]["pairs_per_second"]
    for row in results["switches"]:
        speeds = row["pairs_per_second"]
        name = row["options"] or "(default)"
        ratio = [mine / theirs for mine, theirs in zip(speeds, default, strict=False)]
        shown = f"{statistics.median(ratio):.2f}" if speeds else "the same here"
        assert re.search(rf"^\| {re.escape(name)} +\| .*\| +{re.escape(shown)} \|$", table, flags=re.MULTILINE), name


def test_the_report_names_no_folder_of_the_machine(folder):
    for name in ("benchmark.md", "benchmark.json"):
        text = (folder / name).read_text(encoding="utf-8")
        assert str(folder.parent) not in text
        assert str(ROOT) not in text
