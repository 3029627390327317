"""`scripts/gpu_check.sh` answers on a bare machine: whatever is missing there, fails there, or never ends there."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import gpu_check
from scripts.gpu_check import Part, Row, parts, read_benchmark, read_planner, read_questions, read_tests, run, table

ROOT = Path(__file__).parents[2]
BARE = Path(__file__).parent / "bare_machine"


def on_a_bare_machine(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program without the packages that a GPU machine lacks."""
    paths = f"{BARE}{os.pathsep}{ROOT}"
    environment = os.environ | {"PYTHONPATH": paths, "PYTHON": sys.executable, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1500)


def test_the_bare_machine_has_just_its_packages():
    there = {"torch", "transformers", "accelerate", "hypothesis", "pytest", "typer", "yaml", "rank1_hf"}
    lacking = {"bitsandbytes", "datasets", "ir_measures", "uvicorn", "matplotlib", "xdist"}
    names = sorted(there | lacking)
    program = f"import importlib.util as u; print(*(name for name in {names} if u.find_spec(name)))"
    assert set(on_a_bare_machine(sys.executable, "-c", program).stdout.split()) == there


def test_every_test_for_a_gpu_can_be_collected_there():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", "gpu", "-p", "no:cacheprovider"]
    (tests,) = [part for part in parts(Path(), on_cpu=False) if part.name == "tests"]
    files = [argument for argument in tests.command if argument.endswith(".py")]
    marked = {
        file for file in (ROOT / "tests").rglob("test_*.py") if re.search(r"mark\.gpu\b", file.read_text("utf-8"))
    }
    assert {Path(file) for file in files} == marked - {Path(__file__)}
    finished = on_a_bare_machine(*command, *files)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "error" not in finished.stdout


@pytest.mark.skipif("RANK1_SLOW" not in os.environ, reason="takes half a minute: RANK1_SLOW=1")
def test_the_kernels_are_tried_in_every_dtype_and_not_compiled_for_other_cards():
    pytest.importorskip("triton")
    (kernels,) = [part for part in parts(Path(), on_cpu=False) if part.name == "kernels"]
    interprets = {"TRITON_INTERPRET": "1"}  # so that the tests are not one that starts a process
    environment = os.environ | interprets | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, *kernels.command, "--collect-only", "-qq", "--noconftest"]
    collected = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True).stdout
    assert "kernels/test_kernels.py::test_decoding" in collected
    assert all(f"kernels/test_kernels.py::test_16_bits[dtype{n}]" in collected for n in (0, 1))
    assert "test_triton_compiles.py::" not in collected
    assert "test_native.py::" not in collected


@pytest.mark.skipif("RANK1_SLOW" not in os.environ, reason="takes minutes: RANK1_SLOW=1")
def test_all_parts_run_on_a_bare_machine(tmp_path: Path):
    finished = on_a_bare_machine("bash", ROOT / "scripts" / "gpu_check.sh", tmp_path, "--on-cpu")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    written = (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
    assert written.strip().endswith(finished.stdout[finished.stdout.index("| part |") :].strip())
    assert "| bitsandbytes | missing | no tests in 4 and 8 bits |" in written
    for part in ("graphs survive growth", "one row", "tests", "kernels", "planner, rank1-tiny", "ragged-generate"):
        assert re.search(rf"^\| {part} \| (passed|told) \| .*\d", written, flags=re.MULTILINE), written
    assert re.search(r"^\| tests \| passed \| 0 passed, 0 failed, 0 error, \d\d+ skipped \|", written, re.MULTILINE)


def test_without_a_gpu_it_says_so(tmp_path: Path):
    finished = on_a_bare_machine("bash", ROOT / "scripts" / "gpu_check.sh", tmp_path)
    assert finished.returncode == 1
    assert "needs a CUDA GPU" in finished.stderr


def test_the_limits_of_all_parts_leave_the_first_four_their_full_time():
    *first, last = parts(Path(), on_cpu=False)
    assert gpu_check.SECONDS <= 360
    assert sum(part.seconds for part in first[:4]) + gpu_check._GRACE <= gpu_check.SECONDS
    assert [part.name for part in first[:2]] == ["questions", "tests"]
    assert last.name == "ragged-generate"


def test_a_part_that_never_ends_is_stopped_and_what_it_said_is_kept(tmp_path: Path):
    program = "import time\nprint('half way', flush=True)\ntime.sleep(600)"
    part = Part("endless", 0, ["-c", program], lambda ended: [Row("endless", ended, "")])
    start = time.monotonic()
    (row,) = run(part, 2, tmp_path)
    assert (row.result, row.fails) == ("timed out", True)
    assert time.monotonic() - start < 300
    assert "half way" in (tmp_path / "endless.txt").read_text(encoding="utf-8")


def test_a_failure_costs_only_itself_and_decides_the_exit_status(tmp_path: Path, monkeypatch, capsys):
    def fake_parts(report: Path, *, on_cpu: bool) -> list[Part]:
        return [
            Part(name, 60, ["-c", program], lambda ended, name=name: [Row(name, ended, "")])
            for name, program in (("breaks", "raise SystemExit(3)"), ("works", "print('fine')"))
        ]

    monkeypatch.setattr(gpu_check, "parts", fake_parts)
    monkeypatch.setattr("sys.argv", ["", str(tmp_path), "--on-cpu"])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 1
    for text in (capsys.readouterr().out, (tmp_path / "gpu_check.md").read_text(encoding="utf-8")):
        assert "| breaks | failed |" in text
        assert "| works | passed |" in text


def test_what_is_there_of_an_unfinished_part_is_read(tmp_path: Path):
    (tmp_path / "tests.txt").write_text(
        "tests/a.py::one PASSED [ 10%]\ntests/a.py::two[x y] FAILED [ 20%]\n"
        "tests/a.py::three SKIPPED (no) [ 30%]\ntests/a.py::four",
        encoding="utf-8",
    )
    assert read_tests("tests", tmp_path, "timed out") == Row(
        "tests", "timed out", "1 passed, 1 failed, 0 error, 1 skipped"
    )
    line = {"part": "one row", "result": "passed", "figure": "70% of the limit"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert read_questions(tmp_path / "questions.jsonl", "timed out") == [
        Row(**line),
        Row("questions", "timed out", "1 answered"),
    ]
    assert read_questions(tmp_path / "none", "failed") == [Row("questions", "failed", "0 answered")]
    assert read_planner(tmp_path / "none", "failed") == [Row("planner", "failed", "")]
    assert read_benchmark(tmp_path / "none", "timed out") == [Row("none", "timed out", "")]


def test_the_table_is_markdown_whatever_is_in_it():
    assert table([Row("a", "failed", "x | y")]).splitlines()[-1] == "| a | failed | x / y |"
