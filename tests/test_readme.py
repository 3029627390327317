"""Every snippet of every README runs, in order, as a reader would type it; and what the pages name and link exists.

The snippets of the server's page run in tests/serving/test_readme.py, that of Ray in tests/integrations/test_ray.py,
those of scripts/reproduce.md in tests/scripts/test_reproduce.py.
"""

import ast
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from transformers import AutoConfig, PretrainedConfig
from typer.testing import CliRunner

from rank1_hf import Rank1
from rank1_hf.commands.cli import app
from rank1_hf.decoding.kernels.contract import Kernels
from rank1_hf.decoding.options import FIELDS
from rank1_hf.files.beir import SAMPLE, read_queries, stream_documents
from rank1_hf.files.inputs import Document
from rank1_hf.files.trec import read_run
from rank1_hf.inputs.textfiles import refuse
from rank1_hf.models.cards import parse_gpu
from rank1_hf.models.family import AWQ_FAMILY, FAMILY
from rank1_hf.models.planning import GIB, MemoryPlan, Size, plan
from rank1_hf.models.recommendation import Way, best_that_fits
from rank1_hf.results.judgment import Judgment
from tests.pages import FRONT_PAGE, PAGES, ROOT, anchors, fences, links, name, prose, snippets, text_of

PACKAGE = ROOT / "rank1_hf"
DECODING, INTEGRATIONS, MODELS, SERVING = (
    PACKAGE / folder / "README.md" for folder in ("decoding", "integrations", "models", "serving")
)
REPRODUCE = ROOT / "scripts" / "reproduce.md"
RUN_HERE = [page for page in PAGES if page != REPRODUCE]

NOTHING_DEPRECATED = pytest.mark.filterwarnings("error:.*is now .*DecodingOptions:DeprecationWarning")


def packages(snippet: str) -> list[str]:
    """What a snippet imports."""
    return re.findall(r"^(?:from|import) (\w+)", snippet, flags=re.MULTILINE)


OWN_TESTS = {"mteb", "ray"}
FRAMEWORKS = {packages(each)[0]: each for each in snippets(INTEGRATIONS, "py") if not OWN_TESTS & set(packages(each))}


def shell_lines() -> list[list[str]]:
    """The words of every command, without comments, each once."""
    lines = [line for page in RUN_HERE for snippet in snippets(page, "bash") for line in snippet.splitlines()]
    return [shlex.split(line, comments=True) for line in dict.fromkeys(lines) if line]


def commands() -> list[list[str]]:
    """What follows `rank1-hf`."""
    return [words[1:] for words in shell_lines() if words[0] == "rank1-hf"]


def shorter(command: list[str]) -> list[str]:
    """A command with options that save most of its time; under RANK1_SLOW=1 as it stands in the page."""
    if "RANK1_SLOW" in os.environ:
        return command
    if command[0] == "demo" and not {"-m", "--model"} & set(command):
        return [*command, "--queries", "1", "--max-new-tokens", "48"]
    thinks = command[0] in ("evaluate", "judge") and "--like" not in command
    few = ["--run", "few.trec"] if "--run" in command else []
    return [*command, *few, "--max-new-tokens", "8"] if thinks else command


def other_lines() -> list[list[str]]:
    """Commands of other programs, without the variables before them."""
    lines = [words for words in shell_lines() if words[0] != "rank1-hf"]
    return [[word for word in words if not re.match(r"[A-Z0-9_]+=", word)] for words in lines]


@pytest.fixture
def in_a_folder_with_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the root of the repository is, but writable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank1_hf").symlink_to(PACKAGE)
    lines = [json.dumps({"text": text}) for text in ("The wing carries the aircraft.", "Bread is made of flour.")]
    (tmp_path / "passages.jsonl").write_text("\n".join(lines), encoding="utf-8")
    document = {"title": "Wings", "text": "The wing carries the aircraft."}
    pair = {"id": 7, "query": "what carries it", "passage": "Bread is made of flour.", "document": document}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair), encoding="utf-8")
    (tmp_path / "completions.jsonl").write_text(completions(), encoding="utf-8")
    (tmp_path / "few.trec").write_text(few_candidates(), encoding="utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "corpus.tsv").write_text('_id\ttitle\ttext\n007\t"W"ings\tIt flies.\n', encoding="utf-8")
    (tmp_path / "own" / "queries.tsv").write_text("_id\ttext\nq1\twhat flies?\n", encoding="utf-8")
    return tmp_path


@cache
def few_candidates() -> str:
    """The run of the sample, with its first three queries."""
    run = read_run(SAMPLE / "bm25.trec")
    return "".join(
        f"{query} Q0 {document} {rank} {score} bm25\n"
        for query in list(run)[:3]
        for rank, (document, score) in enumerate(run[query].items(), start=1)
    )


@cache
def completions() -> str:
    """What another engine might have made of two pairs."""
    pairs = [("what carries it", "The wing carries the aircraft."), ("what carries it", "Bread is made of flour.")]
    records = [
        {"query": pairs[each.index][0], "passage": pairs[each.index][1], "completion": each.chain, "score": each.score}
        for each in Rank1(device="cpu", max_new_tokens=96).judge(pairs)
    ]
    return "".join(json.dumps(record) + "\n" for record in records)


def test_every_snippet_is_of_a_kind_that_a_test_runs():
    for page in RUN_HERE:
        kinds = {"python", "bash", "bibtex"}
        kinds |= {"sh", "python3"} if page == SERVING else {"py"} if page == INTEGRATIONS else set()
        assert {language for language, _ in fences(page)} <= kinds, name(page)
        assert text_of(page).count("```") == 2 * len(fences(page)), name(page)
        assert not re.search(r"^ {4}(\$ |python |bash |rank1-hf |pip )", prose(page), flags=re.MULTILINE), name(page)
    assert {package for each in snippets(INTEGRATIONS, "py") for package in packages(each)} >= OWN_TESTS
    assert len(FRAMEWORKS) + len(OWN_TESTS) == len(snippets(INTEGRATIONS, "py"))


def test_a_table_becomes_a_collection_that_is_read(in_a_folder_with_passages: Path):
    (snippet,) = (each for each in snippets(PACKAGE / "evaluation" / "README.md", "python") if "DictReader" in each)
    exec(snippet, {})
    assert read_queries(Path("own"), refuse) == {"q1": "what flies?"}
    assert list(stream_documents(Path("own"), refuse)) == [Document("It flies.", '"W"ings', "007")]


@NOTHING_DEPRECATED
@pytest.mark.parametrize("page", [page for page in RUN_HERE if snippets(page, "python")], ids=name)
def test_python(in_a_folder_with_passages: Path, page: Path):
    namespace: dict[str, object] = {}
    for number, snippet in enumerate(snippets(page, "python"), start=1):
        exec(compile(snippet, f"{name(page)}, python snippet {number}", "exec"), namespace)
    assert "Rank1" in namespace


def test_mteb(monkeypatch: pytest.MonkeyPatch):
    """Without the hub: a small model in the place of the large one, and what MTEB is asked for, not its results."""
    mteb = pytest.importorskip("mteb")
    asked: list[tuple[object, list[str]]] = []
    small = Rank1(device="cpu")
    monkeypatch.setattr("rank1_hf.integrations.mteb.Rank1", lambda *args, **options: small)
    monkeypatch.setattr("rank1_hf.integrations.mteb.checkpoint_identity", lambda name, **options: f"{name}@main")
    monkeypatch.setattr("rank1_hf.integrations.mteb.substituted_dtype", lambda name, **options: None)
    monkeypatch.setattr(mteb, "evaluate", lambda model, tasks: asked.append((model, [t.metadata.name for t in tasks])))
    (snippet,) = [each for each in snippets(INTEGRATIONS, "py") if "mteb" in packages(each)]
    namespace: dict[str, object] = {}
    exec(compile(snippet, f"{name(INTEGRATIONS)}, the MTEB snippet", "exec"), namespace)
    assert asked == [(namespace["model"], ["NevIR"])]


@pytest.fixture(scope="module")
def as_in_the_first_snippet() -> dict[str, object]:
    """What the snippets about other frameworks go on from."""
    namespace: dict[str, object] = {}
    exec(compile(snippets(INTEGRATIONS, "python")[0], f"{name(INTEGRATIONS)}, the first snippet", "exec"), namespace)
    return namespace


@NOTHING_DEPRECATED
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework(framework: str, as_in_the_first_snippet: dict[str, object], capsys: pytest.CaptureFixture[str]):
    snippet = FRAMEWORKS[framework]
    for package in packages(snippet):
        pytest.importorskip(package)
    exec(compile(snippet, f"{name(INTEGRATIONS)}, {framework}", "exec"), dict(as_in_the_first_snippet))
    assert capsys.readouterr().out


OUTPUTS = ("bf16", "float32")
"""The output folders of evaluate that commands of the page about evaluation take."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    for name_, more in zip(OUTPUTS, ([], ["--dtype", "float32"]), strict=True):
        (run := folder / "few.trec").write_text(few_candidates(), encoding="utf-8")
        options = ["--corpus", str(SAMPLE), "--run", str(run), "--top-k", "1", "--max-new-tokens", "8"]
        result = CliRunner().invoke(app, ["evaluate", *options, *more, "--output", str(folder / name_)])
        assert result.exit_code == 0, result.output
    return folder


@pytest.mark.usefixtures("sizes_are_known")
@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command(in_a_folder_with_passages: Path, command: list[str], request: pytest.FixtureRequest):
    used = [each for each in OUTPUTS if any(word.split("/")[0] == each for word in command)]
    if command[0] in ("compare", "explain", "measure") or "--like" in command:
        for each in set(used) - {command[command.index("--output") + 1] if "--output" in command else None}:
            shutil.copytree(request.getfixturevalue("outputs") / each, in_a_folder_with_passages / each)
    target = None
    if ">" in command:
        at = command.index(">")
        command, target = command[:at], Path(command[at + 1])
    for earlier in commands() if command[0] == "merge" else []:
        if "--shard" in earlier:
            assert CliRunner().invoke(app, shorter(earlier)).exit_code == 0
    result = CliRunner().invoke(app, shorter(command))
    assert result.exit_code == 0, result.output
    assert result.stdout or Path(command[command.index("--html") + 1]).is_file()
    if target is not None:
        assert [json.loads(line)["rank"] for line in result.stdout.splitlines()] == [1, 2]


@cache
def help_of(script: str) -> str:
    """In this process, which has imported already what takes a new one seconds."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown):
        patch.setattr(sys, "argv", [script, "--help"])
        patch.syspath_prepend(ROOT / "scripts")
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 0
    return shown.getvalue()


@pytest.mark.parametrize("line", other_lines(), ids=" ".join)
def test_other_command(in_a_folder_with_passages: Path, line: list[str]):
    """What takes minutes or a GPU is not run: the script is there, and has the options."""
    match line:
        case ["bash", script, *_]:
            subprocess.run(["bash", "-n", ROOT / script], check=True)
        case ["python", script, *options]:
            known = set(re.findall(r"--[\w-]+", help_of(script)))
            assert {option for option in options if option.startswith("--")} <= known
        case [".venv/bin/pytest", tests]:
            assert (ROOT / tests).is_file()
        case ["pip", "install", "-e", "."]:
            assert (ROOT / "pyproject.toml").is_file()
        case ["accelerate", "launch", *arguments]:
            launched = launch_command_parser().parse_args(arguments)
            assert launched.num_processes == 4
            if launched.module:
                assert launched.training_script == "rank1_hf"
                assert CliRunner().invoke(app, launched.training_script_args).exit_code == 0
        case _:
            pytest.fail(f"no test runs {' '.join(line)}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_reached_from_the_first():
    reached, waiting = set(), [FRONT_PAGE]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link)
        waiting += [target for target in targets if target in PAGES and target not in reached]
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path):
    for path in set(re.findall(r"\b((?:scripts|tests|rank1_hf)/[\w/.-]+\.\w+)\b", text_of(page))):
        if not path.startswith("scripts/reports/gpu/"):  # which gpu_check.sh writes
            assert (ROOT / path).is_file(), path
    if page not in (FRONT_PAGE, REPRODUCE):  # whose tables name files by folder, and others' files
        for path in set(re.findall(r"`((?:[\w-]+/)*\w+\.(?:py|sh))`", prose(page))):
            assert any((folder / path).is_file() for folder in (page.parent, PACKAGE, ROOT)), path


def test_extras_that_are_named_exist():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = {extra for page in PAGES for extra in re.findall(r'-e "\.\[([\w-]+)\]"', text_of(page))}
    assert {"serve", "ray", "langchain"} <= named <= set(extras)


def test_the_front_page_is_short_and_says_how_to_start():
    assert len(text_of(FRONT_PAGE).splitlines()) <= 300
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= set(re.findall(r"scripts/\w+\.sh", text_of(FRONT_PAGE)))


def test_the_folders_of_the_package_and_the_file_to_read_first():
    rows = re.findall(r"^\| `(\w+)/` \| .* \| `(\w+\.py)` \|$", text_of(FRONT_PAGE), flags=re.MULTILINE)
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert {folder for folder, _ in rows} == folders
    for folder, first in rows:
        assert (PACKAGE / folder / first).is_file(), f"{folder}/{first}"


def names_defined_by(statement: ast.stmt) -> list[str]:
    """Of a function, a class or an assignment."""
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [ast.unparse(target) for target in targets]
        case ast.AnnAssign(target=target):
            return [ast.unparse(target)]
    return []


def test_where_to_look_names_what_is_there():
    page = (PACKAGE / "decoding" / "README.md").read_text(encoding="utf-8")
    table = page.partition("## Where to look")[2].partition("\n## ")[0]
    named = {each for each in re.findall(r"`([A-Za-z_.]+)`", table) if not each.endswith((".py", ".h"))}
    assert len(named) > 15
    defined = {*FIELDS, *Judgment.__dataclass_fields__, *vars(Kernels), "predict", "rank"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            defined |= set(names_defined_by(node))
            if isinstance(node, ast.ClassDef):
                defined |= {f"{node.name}.{name}" for each in node.body for name in names_defined_by(each)}
    assert named <= defined


@cache
def size_of(model: str) -> tuple[PretrainedConfig, Size]:
    config = AutoConfig.for_model(**FAMILY[model])
    return config, Size.of(config)


def planned(model: str, memory: str, quantization: str | None) -> MemoryPlan:
    config, size = size_of(model)
    return plan(config, parse_gpu(memory), size=size, quantization=quantization)


def test_each_model_fits_where_the_front_page_has_it():
    rows = re.findall(
        r"^\| (\d+) GiB \| ([\w.-]+) \((\d+)\) \| ([\w.-]+) \((\d+)\) \|$", text_of(FRONT_PAGE), re.MULTILINE
    )
    assert len(rows) >= 6
    for memory, *found in rows:
        for quantization, model, n_pairs in ((None, *found[:2]), ("4bit", *found[2:])):
            plans = {each: planned(each, f"{memory}GiB", quantization) for each in FAMILY}
            ways = [
                Way(each, size_of(each)[1].total, quantization, way, max(0, way.kv_tokens // (400 + 300)))
                for each, way in plans.items()
            ]
            best = best_that_fits(ways)
            assert best is not None
            assert (best.model, best.plan.rows) == (f"jhu-clsp/{model}", int(n_pairs)), f"{memory} GiB"


def test_the_table_of_the_family():
    rows = re.findall(r"^\| (rank1-.*?) \|(.*) \|$", text_of(MODELS), flags=re.MULTILINE)
    rows = [row for row in rows if row[1].count("|") == 6]
    assert [f"jhu-clsp/{names.split(',')[0]}" for names, _ in rows] == list(FAMILY)
    assert {f"jhu-clsp/{names.split(',')[0]}-awq" for names, _ in rows if "-awq" in names} == set(AWQ_FAMILY)
    for (_, cells), model in zip(rows, FAMILY, strict=True):
        config, size = size_of(model)
        ways = [planned(model, "80GiB", quantization) for quantization in (None, "8bit", "4bit")]
        weights = [f"{way.weights / GIB:.1f}" for way in ways]
        expected = [config.num_hidden_layers, ways[0].kv_per_token // 1024, f"{config.max_position_embeddings:,}"]
        assert cells.replace(" ", "").split("|")[1:] == [*map(str, expected), *weights]
        assert float(cells.split("|")[0]) == pytest.approx((size.linear + size.others) / 1e9, abs=0.06)


def test_every_option_of_the_engine_is_explained():
    table = "\n".join(re.findall(r"^\|.*\|$", prose(DECODING), flags=re.MULTILINE))
    for field in FIELDS:
        assert f"`{field}`" in table or f"`{field}=" in table, field
    for what in re.findall(r"^\| ([A-Z][^|`]+?) \| `\w+`", table, flags=re.MULTILINE):
        assert f"**{what}.**" in prose(DECODING) or what.lower().replace(" ", "-") in anchors(DECODING), what


def test_every_page_of_the_package_stands_beside_code():
    for page in PAGES:
        if page.is_relative_to(PACKAGE):
            assert (page.parent / "__init__.py").is_file(), name(page)
