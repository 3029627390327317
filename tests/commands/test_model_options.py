"""The options of every command that loads a model: each is on each, and arrives at `Rank1`."""

import ast
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from rank1_hf import CheckpointError, Markers, ScoreCache, __version__, reranker
from rank1_hf.commands import cli, model_options
from rank1_hf.commands.model_options import ModelOptions
from rank1_hf.decoding.options import DecodingOptions
from tests.evaluation.stub import Stub

COMMANDS: dict[str, click.Command] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
LOADING = sorted(
    name for name, command in COMMANDS.items() if any("--model" in parameter.opts for parameter in command.params)
)
QUERY = "how do wings carry?"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs a command until it loads a model; gives what `Rank1` was called with."""
    calls: list[dict[str, Any]] = []

    def rank1(model: Any = None, **options: Any) -> None:
        calls.append({"model": model, **options})
        raise CheckpointError("this test loads none")

    monkeypatch.setattr(reranker, "Rank1", rank1)
    monkeypatch.setattr("rank1_hf.models.identity.checkpoint_identity", lambda name, **source: f"{name}@{source}")

    def run(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert result.exit_code == 3, result.output
        return calls.pop()

    return run


@pytest.fixture
def inputs(collection: Path, tmp_path: Path) -> dict[str, list[object]]:
    """What each command needs besides."""
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"query": QUERY, "passage": "A wing.", "completion": "Yes.</think> true"}))
    return {
        "rerank": [QUERY, "A wing."],
        "explain": [QUERY, "A wing."],
        "demo": [],
        "evaluate": ["--corpus", collection, "--run", collection / "run.trec", "-o", tmp_path / "out"],
        "judge": [records, "-o", tmp_path / "judged"],
        "serve": ["--port", 0],
        "verify": [records],
    }


def refusal(*arguments: object) -> Result:
    result = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    return result


GIVEN: dict[str, tuple[list[object], dict[str, Any]]] = {
    "model": (["-m", "some/model"], {"model": "some/model"}),
    "revision": (["--revision", "v2"], {"revision": "v2"}),
    "subfolder": (["--subfolder", "last"], {"subfolder": "last"}),
    "allow_pickles": (["--allow-pickles"], {"allow_pickles": True}),
    "dtype": (["--dtype", "fp16"], {"dtype": "float16"}),
    "quantization": (["--quantization", "nf4"], {"quantization": "4bit"}),
    "device": (["--device", "cpu"], {"device": "cpu"}),
    "device_map": (["--device-map", "auto"], {"device_map": "auto"}),
    "max_memory": (
        ["--max-memory", "cpu=30GiB", "--max-memory", "disk=1TB"],
        {"max_memory": {"cpu": "30GiB", "disk": "1TB"}},
    ),
    "gpu_memory_utilization": (
        ["--gpu-memory-utilization", 0.5],
        {"decoding": DecodingOptions(gpu_memory_utilization=0.5)},
    ),
    "kv_cache_tokens": (["--kv-cache-tokens", 5000], {"decoding": DecodingOptions(kv_cache_tokens=5000)}),
    "batch_size": (["--batch-size", 3], {"decoding": DecodingOptions(batch_size=3)}),
    "max_new_tokens": (["--max-new-tokens", 7], {"max_new_tokens": 7}),
    "max_length": (["--max-length", 900], {"max_length": 900}),
    "min_thinking_tokens": (["--min-thinking-tokens", 4], {"min_thinking_tokens": 4}),
    "rethink": (["--rethink", 2], {"rethink": 2}),
    "truncation": (["--truncation", "error"], {"truncation": "error"}),
    "prompt_template": (["--prompt-template", "On FILL_QUERY_HERE"], {"prompt_template": "On FILL_QUERY_HERE"}),
    "instruction": (["--instruction", "new ones"], {"prompt_template": "FILL_QUERY_HERE new ones"}),
    "marker": (["--marker", "true= yes"], {"markers": Markers(true=" yes")}),
    "reproducible": (["--reproducible"], {"decoding": DecodingOptions(reproducible=True)}),
    "decoding": (["--decoding", "speculate=off"], {"decoding": DecodingOptions(speculate=False)}),
}


def test_every_command_that_loads_a_model_takes_every_option():
    assert {"demo", "evaluate", "explain", "judge", "rerank", "serve", "verify"} <= set(LOADING)
    for name in LOADING:
        taken = {parameter.name for parameter in COMMANDS[name].params}
        assert {field.name for field in fields(ModelOptions)} <= taken, name


def test_no_command_loads_a_model_in_another_way():
    folder = Path(model_options.__file__).parent
    callers = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Rank1", "load", "options.load")
    }
    assert callers == {"options.py", "model_options.py"}


def test_each_option_is_tried_here():
    assert GIVEN.keys() | {"cache"} == {field.name for field in fields(ModelOptions)}


@pytest.mark.parametrize("command", LOADING)
def test_a_score_cache_arrives(
    command: str, load: Callable[..., dict[str, Any]], inputs: dict[str, list[object]], tmp_path: Path
):
    found = load(command, *inputs[command], "--cache", tmp_path / "scores.db")
    assert isinstance(found["cache"], ScoreCache)
    assert (tmp_path / "scores.db").is_file()


@pytest.mark.parametrize("command", LOADING)
def test_every_option_arrives(command: str, load: Callable[..., dict[str, Any]], inputs: dict[str, list[object]]):
    for arguments, expected in GIVEN.values():
        found = load(command, *inputs[command], *arguments)
        assert found.items() >= expected.items(), arguments


@pytest.mark.parametrize("command", LOADING)
def test_without_options_the_defaults_of_the_package_are_in_force(
    command: str, load: Callable[..., dict[str, Any]], inputs: dict[str, list[object]]
):
    found = {name: value for name, value in load(command, *inputs[command]).items() if value is not None}
    budget = {"max_new_tokens": 256} if command == "demo" else {}
    assert found == {"num_gpus": 1, "decoding": DecodingOptions(), **budget}


def test_an_instruction_stands_behind_the_query_as_a_query_s_own_does():
    rerank = ("rerank", "--json", "--max-new-tokens", 3, "--device", "cpu", "--dtype", "float32")
    by_option, in_query = (
        CliRunner().invoke(cli.app, [str(each) for each in (*rerank, *more, "A wing.")]).stdout
        for more in ((QUERY, "--instruction", "New ones only."), (f"{QUERY} New ones only.",))
    )
    assert by_option == in_query != ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dtype", "fp8"], "dtype must be one of float32, float16, bfloat16"),
        (["--quantization", "int4"], "quantization must be"),
        (["--device-map", "everywhere"], "--device-map must be one of auto, balanced"),
        (["--max-memory", "10GiB"], "--max-memory takes DEVICE=SIZE"),
        (["--max-memory", "cpu=much"], "max_memory of 'cpu'"),
        (["--max-memory", "99=1GiB"], "there is no GPU 99"),
        (["--device", "cpu", "--device-map", "auto"], "not both"),
        (["--gpu-memory-utilization", "1.5"], "gpu_memory_utilization must be above 0 and at most 1"),
        (["--kv-cache-tokens", "5", "--decoding", "kv_cache_tokens=6"], "--kv-cache-tokens contradicts --decoding"),
        (["--batch-size", "4", "--decoding", "batch_size=8"], "--batch-size contradicts --decoding batch_size=8"),
        (["--reproducible", "--decoding", "reproducible=off"], "--reproducible contradicts --decoding"),
        (["--truncation", "sentence"], "--truncation must be passage or error"),
        (["--instruction", "FILL_QUERY_HERE!"], "--instruction has FILL_QUERY_HERE in it"),
        (["--rethink", "-1"], "--rethink"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], said: str):
    assert said in refusal("rerank", QUERY, "A wing.", *arguments).stderr


def test_what_decides_a_judgment_is_in_the_journal(inputs: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch):
    """Another spelling goes on with the job; other options, or another revision, do not."""
    monkeypatch.setattr(reranker, "Rank1", lambda model, **options: Stub())
    monkeypatch.setattr("rank1_hf.models.identity.checkpoint_identity", lambda name, **source: f"{name}@{source}")

    def code(*arguments: object) -> int:
        job = ["evaluate", *inputs["evaluate"], "--marker", "true= yes", *arguments]
        return CliRunner().invoke(cli.app, [str(each) for each in job]).exit_code

    assert code("--dtype", "float16") == 0
    assert code("--dtype", "half", "--device-map", "auto", "--kv-cache-tokens", 999) == 0
    for other in (["--rethink", 1], ["--max-length", 99], ["--instruction", "new"], ["--revision", "v2"]):
        assert code("--dtype", "float16", *other) == 2
    assert code("--dtype", "float16", "--marker", "false= no") == 2


def test_a_device_that_takes_another_dtype_does_not_go_on_with_a_job(
    inputs: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
):
    """A T4 loads a bfloat16 checkpoint as float16."""
    monkeypatch.setattr(reranker, "Rank1", lambda model, **options: Stub())

    def code(substitute: torch.dtype | None) -> int:
        monkeypatch.setattr("rank1_hf.models.identity.substituted_dtype", lambda name, **options: substitute)
        return CliRunner().invoke(cli.app, ["evaluate", *map(str, inputs["evaluate"])]).exit_code

    assert [code(None), code(torch.float16), code(None)] == [0, 2, 0]


def test_the_version():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"rank1-hf {__version__}\n")
