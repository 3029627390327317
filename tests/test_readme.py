"""Every snippet of the README runs, in order, as a reader would type it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rank1_hf import Rank1
from rank1_hf.commands.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def packages(snippet: str) -> list[str]:
    """What a snippet imports."""
    return re.findall(r"^(?:from|import) (\w+)", snippet, flags=re.MULTILINE)


OWN_TESTS = {"mteb", "ray"}
FRAMEWORKS = {packages(each)[0]: each for each in snippets("py") if not OWN_TESTS & set(packages(each))}


def commands() -> list[list[str]]:
    """The `rank1-hf` lines of the README, without their comments."""
    lines = [line for snippet in snippets("bash") for line in snippet.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("rank1-hf ")]


@pytest.fixture
def in_a_folder_with_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the root of the repository is, but writable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank1_hf").symlink_to(ROOT / "rank1_hf")
    lines = [json.dumps({"text": text}) for text in ("The wing carries the aircraft.", "Bread is made of flour.")]
    (tmp_path / "passages.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_python(in_a_folder_with_passages: Path):
    namespace: dict[str, object] = {}
    for number, snippet in enumerate(snippets("python"), start=1):
        exec(compile(snippet, f"README.md, python snippet {number}", "exec"), namespace)
    assert "Rank1" in namespace


def test_mteb(monkeypatch: pytest.MonkeyPatch):
    """Without the hub: a small model in the place of the large one, and what MTEB is asked for, not its results."""
    mteb = pytest.importorskip("mteb")
    asked: list[tuple[object, list[str]]] = []
    small = Rank1(device="cpu")
    monkeypatch.setattr("rank1_hf.integrations.mteb.Rank1", lambda *args, **options: small)
    monkeypatch.setattr(mteb, "evaluate", lambda model, tasks: asked.append((model, [t.metadata.name for t in tasks])))
    (snippet,) = [each for each in snippets("py") if "mteb" in packages(each)]
    namespace: dict[str, object] = {}
    exec(compile(snippet, "README.md, the MTEB snippet", "exec"), namespace)
    assert asked == [(namespace["model"], ["NevIR"])]


@pytest.fixture(scope="module")
def as_in_the_first_snippet() -> dict[str, object]:
    """What the snippets about other frameworks go on from."""
    return {"model": Rank1(device="cpu"), "query": "what carries the weight of an aircraft in flight"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework(framework: str, as_in_the_first_snippet: dict[str, object], capsys: pytest.CaptureFixture[str]):
    snippet = FRAMEWORKS[framework]
    for package in packages(snippet):
        pytest.importorskip(package)
    exec(compile(snippet, f"README.md, the snippet for {framework}", "exec"), dict(as_in_the_first_snippet))
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command(in_a_folder_with_passages: Path, command: list[str]):
    target = None
    if ">" in command:
        at = command.index(">")
        command, target = command[:at], Path(command[at + 1])
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout
    if target is not None:
        assert [json.loads(line)["rank"] for line in result.stdout.splitlines()] == [1, 2]


def test_scripts_and_files_that_are_named_exist():
    for name in set(re.findall(r"`?((?:scripts|tests|rank1_hf)/[\w/.-]+\.\w+)`?", README)):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"^\| `((?:\w+/)?\w+\.py)`", README, flags=re.MULTILINE):
        assert (ROOT / "rank1_hf" / name).is_file(), name
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= set(re.findall(r"scripts/\w+\.sh", README))
