"""`rank1-hf plan`: the answer, its assumptions and its form."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from rank1_hf.commands import cli
from rank1_hf.models.cards import GIB, GPUS
from rank1_hf.models.family import FAMILY
from rank1_hf.models.planning import family_config
from rank1_hf.models.recommendation import ENOUGH_PAIRS, why_too_large

pytestmark = pytest.mark.usefixtures("sizes_are_known")


def run(*arguments: object, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, ["plan", *map(str, arguments)])


def rows(*arguments: object) -> list[dict]:
    return [json.loads(line) for line in run(*arguments, "--json").stdout.splitlines()]


def test_it_says_what_of_the_family_fits() -> None:
    found = {(row["model"], row["quantization"]): row for row in rows("--gpu", "24GiB")}
    assert len(found) == 3 * 9 + 5  # the family and limrank in three ways, and what is stored as AWQ
    assert found["jhu-clsp/rank1-32b-awq", "awq"]["fits"]
    assert found["jhu-clsp/rank1-7b", None]["fits"]
    assert not found["jhu-clsp/rank1-32b", None]["fits"]
    assert found["jhu-clsp/rank1-14b", "4bit"]["rows"] > found["jhu-clsp/rank1-14b", "8bit"]["rows"]


@pytest.mark.parametrize("gpu", ["3060", "4090", "A100 40GB", "24GiB"])
def test_the_answer_is_the_best_and_the_fastest_each_with_a_line_to_paste(gpu: str) -> None:
    answer = run("--gpu", gpu).stdout.rsplit("\n\n", 1)[1].splitlines()
    assert len(answer) == 4
    found = rows("--gpu", gpu)
    for what, said, line in (("best", *answer[:2]), ("fastest", *answer[2:])):
        (row,) = [each for each in found if each[what]]
        assert said == (
            f"{what}: {row['model'].removeprefix('jhu-clsp/')}, {row['quantization'] or '16bit'}: "
            f"{row['rows']} pairs together, at most {row['pairs_per_minute']:,.0f} a minute"
        )
        program, *arguments = shlex.split(line)
        assert (program, arguments[:3]) == ("rank1-hf", ["demo", "-m", row["model"]])
        assert arguments[3:] == ([] if row["quantization"] is None else ["--quantization", row["quantization"]])


@pytest.mark.parametrize("gib", [6, 24])
def test_a_model_that_does_not_fit_is_refused_with_what_is_the_best_here(gib: int) -> None:
    (best,) = [row for row in rows("--gpu", f"{gib}GiB") if row["best"]]
    how = f"with quantization={best['quantization']!r}" if best["quantization"] else "as it is"
    reason = why_too_large(family_config("rank1-32b"), torch.bfloat16, None, gib * GIB)
    assert f"{best['model']} {how} would fit" in str(reason)


def test_a_model_of_the_family_may_be_named_without_its_owner() -> None:
    short, full = (run("rank1-7b", "--gpu", "4090").stdout, run("jhu-clsp/rank1-7b", "--gpu", "4090").stdout)
    assert "-m jhu-clsp/rank1-7b" in short
    assert short.partition(" -m ")[2] == full.partition(" -m ")[2].replace("fastest: jhu-clsp/", "fastest: ")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_a_model_with_room_for_few_pairs_is_never_the_best_where_another_has_more(gpu) -> None:
    found = rows("--gpu", gpu.name)
    (best,), (fastest,) = ([row for row in found if row[what]] for what in ("best", "fastest"))
    own = [row for row in found if row["model"] in FAMILY and row["fits"] and row["quantization"] != "awq"]
    assert {best["model"], fastest["model"]} <= FAMILY.keys()
    room = {id(row): row["kv_tokens"] // 700 for row in own}
    assert room[id(best)] >= min(32, max(room.values()))
    assert fastest["pairs_per_minute"] == max(row["pairs_per_minute"] for row in own)


@pytest.mark.parametrize("gpu", ["RTX3060", "H200", "24GiB", "RTXPRO6000Server", "RTX4060Ti 8GB"])
def test_it_fits_80_columns_and_nothing_is_cut(gpu: str) -> None:
    out = run("--gpu", gpu).stdout
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert max(map(len, run("--gpu", "list").stdout.splitlines())) <= 80
    for table in (out, run("rank1-7B", "--gpu", gpu).stdout):
        headings = table.splitlines()[1].split()
        assert headings == ["model", "weights", "GiB", "reserve", "GiB", "KiB/token", "pairs", "pairs/min"]
        assert "reserve: what steps take besides, with" in " ".join(table.split())


def test_what_is_assumed_is_said() -> None:
    out = " ".join(run("--gpu", "3060", "--prompt-tokens", 500, "--chain-tokens", 200).stdout.split())
    assert "prompts of 500 tokens, chains of 200" in out
    assert "90% of its 12 GiB" in out
    assert "360 GB/s and 25 TFLOPS in 16 bits by NVIDIA's data sheet" in out
    assert "This is the card with 12 GiB; there is RTX3060 8GB too." in out
    unknown = " ".join(run("--gpu", "12GiB").stdout.split())
    assert "the full speed of a typical card of this size, 504 GB/s and 61 TFLOPS in 16 bits" in unknown
    assert "This is the card" not in unknown


def test_it_says_why_the_best_is_not_the_fastest_way_of_its_model() -> None:
    found = rows("rank1-7b", "--gpu", "3060")
    assert [row["quantization"] for what in ("best", "fastest") for row in found if row[what]] == ["8bit", "4bit"]
    out = " ".join(run("rank1-7b", "--gpu", "3060").stdout.split())
    assert f"best: the largest model, in the least quantized way, with room for {ENOUGH_PAIRS} pairs" in out


def test_a_checkpoint_and_a_kind_of_quantization_are_planned_for(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("llama")
    for spelling in ("4bit", "4-bit", "nf4"):
        out = run(folder, "--gpu", "RTX 4090", "--quantization", spelling, columns=300).stdout
        assert "On RTX4090" in out
        assert f"best: {folder}, 4bit: " in out
        assert f"rank1-hf demo -m {folder} --quantization 4bit" in out
        assert "8bit" not in out


def test_where_nothing_fits_it_says_so() -> None:
    assert "none of them fits" in run("rank1-7b", "--gpu", "1GiB").stdout
    assert "it does not fit" in run("rank1-7b-awq", "--gpu", "1GiB").stdout
    assert not any(row["best"] or row["fastest"] for row in rows("--gpu", "1GiB", "rank1-7b"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--gpu", "tiny"], 2, "no GPU known here"),
        (["--gpu", ""], 2, "no GPU known here"),
        (["--gpu", "24"], 2, "write 24GiB"),
        (["--gpu", "24GiB", "--quantization", "5bit"], 2, "quantization must be one of"),
        (["--gpu", "24GiB", "/no/such/folder"], 3, "no folder"),
        (["--gpu", "24GiB", "rank1-9b"], 3, "there is no rank1-9b, "),
        (["--gpu", "24GiB", "rank1-7b-awq", "--quantization", "4bit"], 2, "quantized already"),
    ],
)
def test_what_was_wrong_is_said(arguments: list[str], code: int, said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert said in result.stderr
