"""scripts/reproduce.md: its commands are those that the datasets' own registries would have."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rank1_hf.commands.cli import app
from rank1_hf.files.dataset_prompts import built_in_prompts, dataset_prompt

PAGE = (Path(__file__).parents[2] / "scripts" / "reproduce.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def commands() -> list[dict[str, str]]:
    """The options of every `rank1-hf evaluate` that a shell would start, loops and all."""
    shown = "rank1-hf() { printf '%q ' \"$@\"; echo; }\n"
    script = shown + "\n".join(snippets("bash"))
    lines = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout.splitlines()
    parsed = [shlex.split(line) for line in lines]
    assert {line[0] for line in parsed} == {"evaluate"}
    return [dict(zip(line[1::2], line[2::2], strict=True)) for line in parsed]


def test_every_option_is_one_of_the_command(commands: list[dict[str, str]]) -> None:
    command = typer.main.get_command(app).commands["evaluate"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for options in commands for option in options} <= known
    assert CliRunner().invoke(app, ["evaluate", "--help"]).exit_code == 0


def test_no_two_jobs_share_a_folder_or_a_run(commands: list[dict[str, str]]) -> None:
    for option in ("--output", "--run"):
        given = [options[option] for options in commands if option in options]
        assert len(given) == len(set(given))


def test_every_task_has_a_prompt_and_the_dataset_that_mteb_has_for_it(commands: list[dict[str, str]]) -> None:
    mteb = pytest.importorskip("mteb")
    with_task = {options["--task"]: options for options in commands if "--task" in options}
    assert len(with_task) == 9 + 12
    for task, options in with_task.items():
        name, _, subset = task.partition("/")
        assert dataset_prompt(built_in_prompts(), name, subset) is not None
        metadata = mteb.get_task(name).metadata
        if subset:
            assert subset in metadata.hf_subsets
            assert options["--corpus"] == f"ir_datasets:bright/{subset.replace('_', '-')}"
        else:
            assert options["--corpus"] == metadata.dataset["path"]
            assert Path(options["--run"]).name == f"{name}_default_predictions.json"


def test_datasets_with_candidates_are_those_of_mteb(commands: list[dict[str, str]]) -> None:
    mteb = pytest.importorskip("mteb")
    given = {(options["--corpus"], options.get("--subset", "default")) for options in commands}
    for name in ("NevIR", "mFollowIR", "mFollowIRCrossLingual", "Core17", "News21", "Robust04"):
        metadata = mteb.get_task(name if "IR" in name else f"{name}InstructionRetrieval").metadata
        for subset in metadata.hf_subsets:
            assert (metadata.dataset["path"], subset.removeprefix("eng-")) in given


def test_ids_of_ir_datasets_are_known(commands: list[dict[str, str]]) -> None:
    ir_datasets = pytest.importorskip("ir_datasets")
    ids = [options["--corpus"].removeprefix("ir_datasets:") for options in commands if ":" in options["--corpus"]]
    assert len(ids) == 12 + 1
    for id_ in ids:
        assert ir_datasets.load(id_).has_qrels()
