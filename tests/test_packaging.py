"""What an installed wheel brings, and that it is enough."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rank1_hf"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_every_file_of_the_package_is_in_it(wheel: Path):
    files = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {"rank1_hf/decoding/kernels/cpu.cpp", "rank1_hf/py.typed"} <= files
    assert files <= {*zipfile.ZipFile(wheel).namelist()}


def test_what_the_project_is_defined_on_comes_with_it(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(name).decode().splitlines()
    needed = [
        line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    for package in ("torch", "transformers", "accelerate", "bitsandbytes", "datasets", "ir-measures"):
        assert any(line.startswith(package) for line in needed), package


@pytest.mark.skipif("RANK1_SLOW" not in os.environ, reason="takes minutes: RANK1_SLOW=1")
def test_in_a_bare_environment_it_runs_the_demo_and_quantizes(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", "torch==2.13.0", wheel], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def output(*arguments: str) -> str:
        done = subprocess.run(
            [programs / "rank1-hf", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "nDCG@10" in output("demo", "--queries", "1")
    assert "true" in output("rerank", "wings", "A wing.", "--quantization", "4bit", "--json")
