"""One secret, given wherever a token or a key can be given, is in nothing that is written, logged, shown or raised."""

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rank1_hf import Rank1
from rank1_hf.commands.cli import app
from rank1_hf.files.beir import SAMPLE
from rank1_hf.models.identity import checkpoint_identity
from rank1_hf.models.loading import open_checkpoint
from tests.hub import Hub

SECRET = "hf_planted0secret1of2the3test"
PAIR = ("what carries an aircraft", "The wing carries the aircraft.")

PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.INFO)
logging.getLogger("rank1_hf").setLevel(logging.DEBUG)

from rank1_hf.models.identity import checkpoint_identity
from rank1_hf.integrations.official import rank1 as official
from rank1_hf.reranker import Rank1

folder, token, pair = sys.argv[1], sys.argv[2], sys.argv[3:]
options = {"device": "cpu", "max_new_tokens": 4, "token": token}

model = Rank1("us/qwen2", **options)
judgments = model.judge([pair], trace=True)
judgments.to_html(folder + "/report.html")
model.model.config.save_pretrained(folder + "/model")
model.model.generation_config.save_pretrained(folder + "/model")
model.tokenizer.save_pretrained(folder + "/model")
print(model, vars(model), vars(model.encoder), vars(model.decoder), model.model, model.model.config, model.tokenizer)
print(judgments, model.rank(pair[0], [pair[1]]), checkpoint_identity("us/qwen2", token=token))
print(vars(official("us/qwen2", context_size=500, max_output_tokens=4, device="cpu", token=token)))

try:
    Rank1("us/nowhere", token=token)
except ValueError as error:
    logging.exception("as a program logs it")
"""


def written(folder: Path) -> bytes:
    """Every file under a folder, with its name."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return b"\n".join(str(file).encode() + file.read_bytes() for file in files)


def raised(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    """The traceback of an error as the interpreter prints it, its causes included, and the arguments of each."""
    with pytest.raises(kind) as caught:
        call()
    arguments, error = "", caught.value
    while error is not None:
        arguments += repr(error)
        error = error.__cause__ or error.__context__
    return "".join(traceback.format_exception(caught.value)) + arguments


@pytest.fixture(scope="module")
def hub(checkpoint: Callable[..., Path]) -> Hub:
    return Hub({("us/qwen2", "main"): checkpoint("qwen2")})


def test_a_token_reaches_the_hub_and_nothing_that_is_written(hub: Hub, tmp_path: Path) -> None:
    here, output = Path(__file__).parents[1], tmp_path / "output"
    output.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(here),
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(output / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": SECRET,
    }
    arguments = [sys.executable, "-c", PROGRAM, str(output), SECRET, *PAIR]
    done = subprocess.run(arguments, env=environment, cwd=output, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert f"Bearer {SECRET}" in {authorization for _, authorization in hub.asked}
    assert b"as a program logs it" in done.stderr
    for found in (written(output), done.stdout, done.stderr):
        assert SECRET.encode() not in found


def test_mteb_writes_no_token(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any, capfd: Any
) -> None:
    """Neither its results and predictions nor what it logs and prints of the model."""
    mteb = pytest.importorskip("mteb")
    from rank1_hf.integrations import mteb as integration
    from tests.integrations.test_mteb import QRELS, QUERIES, data, task

    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "rank1_hf")
    folder, options = checkpoint("qwen2"), {"device": "cpu", "max_new_tokens": 4, "token": SECRET}
    monkeypatch.setattr(integration, "Rank1", lambda name, *, revision, **given: Rank1(folder, **given))
    monkeypatch.setattr(integration, "checkpoint_identity", lambda name, **given: checkpoint_identity(folder))
    loaded = integration.model_meta("us/qwen2", "main").load_model(**options)
    local = task("LocalReranking", "Reranking", data(QUERIES, QRELS))
    for number, evaluated in enumerate([integration.rank1("us/qwen2", **options), loaded]):
        cache = mteb.ResultCache(tmp_path / f"mteb{number}")
        found = mteb.evaluate(
            evaluated, local, cache=cache, co2_tracker=False, prediction_folder=tmp_path / "predictions"
        )
        print(evaluated, vars(evaluated), evaluated.mteb_model_meta, found)
    assert list(tmp_path.rglob("model_meta.json"))
    assert SECRET not in "".join([*capfd.readouterr(), caplog.text])
    assert SECRET.encode() not in written(tmp_path)


def test_haystack_writes_no_token(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any
) -> None:
    pytest.importorskip("haystack")
    from haystack import Pipeline
    from haystack.utils import Secret

    from rank1_hf.integrations.haystack import Rank1Ranker

    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "rank1_hf")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    pipeline = Pipeline()
    pipeline.add_component("ranker", Rank1Ranker(str(checkpoint("qwen2")), token=Secret.from_env_var("HF_TOKEN")))
    ranker = pipeline.get_component("ranker")
    ranker.warm_up()
    said = [pipeline.dumps(), repr(pipeline), str(vars(ranker))]
    assert "HF_TOKEN" in said[0]
    assert SECRET not in "".join([*said, *capfd.readouterr(), caplog.text])


@pytest.mark.parametrize("load", [Rank1, open_checkpoint, checkpoint_identity])
@pytest.mark.parametrize("form", ["{}é", "{} {}", "{}\x00", "{}\nX-Header: 1"])
def test_a_token_that_cannot_be_sent_is_refused_without_its_text(load: Callable[..., Any], form: str) -> None:
    """Sent all the same it would be in the message of a library, which quotes the header that it cannot send."""
    said = raised(lambda: load("us/qwen2", token=form.format(SECRET, SECRET)))
    assert "the token is not one of the hub's" in said
    assert SECRET not in said
    assert SECRET not in raised(lambda: load("us/qwen2", token=SECRET.encode()))


def test_a_token_from_a_file_may_end_in_a_line_break() -> None:
    opened = open_checkpoint(token=f"{SECRET}\n")
    assert opened.source["token"] == SECRET
    assert SECRET not in repr(opened)
    assert open_checkpoint(token="").source["token"] is None
    assert open_checkpoint(token=False).source["token"] is False


def test_haystack_files_take_no_text() -> None:
    pytest.importorskip("haystack")
    from haystack.utils import Secret

    from rank1_hf.integrations.haystack import Rank1Ranker

    for call, kind in (
        (lambda: Rank1Ranker(token=SECRET), TypeError),
        (lambda: Rank1Ranker(model_kwargs={"token": SECRET}), ValueError),
        (lambda: Rank1Ranker(token=Secret.from_token(SECRET)).to_dict(), ValueError),
    ):
        assert SECRET not in raised(call, kind)


def test_ray_takes_no_text() -> None:
    pytest.importorskip("ray")
    from rank1_hf.integrations.ray import rerank

    said = raised(lambda: rerank(None, num_gpus=0, token=SECRET))
    assert "set HF_TOKEN in the environment of each machine" in said
    assert SECRET not in said


def test_the_key_of_a_server_is_in_no_answer_and_no_log(
    checkpoint: Callable[..., Path], caplog: Any, capfd: Any
) -> None:
    pytest.importorskip("uvicorn")
    from tests.serving.conftest import running

    for name in ("rank1_hf", "uvicorn"):
        caplog.set_level(logging.DEBUG, name)
    quick = Rank1(checkpoint("qwen2"), device="cpu", dtype="float32", max_new_tokens=4)
    body = {"query": PAIR[0], "documents": [PAIR[1]]}
    said: list[str] = []
    with running(quick, model="tiny", api_key=SECRET) as server, server.client() as client:
        said += [repr(server), repr(server.server.config.app), repr(vars(server.engine))]
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {SECRET}"}):
            for content in (body, {**body, "documents": []}, {**body, "top_n": "x"}, {"query": 1}):
                said.append(client.post("/v1/rerank", json=content, headers=headers).text)
            for path in ("/health", "/metrics", "/docs", "/openapi.json", "/nothing"):
                said.append(client.get(path, headers=headers).text)
    assert any('"relevance_score"' in answer for answer in said)
    assert SECRET not in "".join([*said, caplog.text, *capfd.readouterr()])


def commands(folder: Path) -> Iterable[list[str]]:
    brief = ["--max-new-tokens", "4", "--device", "cpu"]
    run = folder / "run.trec"
    run.write_text("".join((SAMPLE / "bm25.trec").read_text().splitlines(keepends=True)[:3]))
    yield ["rerank", *PAIR, *brief, "--json"]
    yield ["rerank", *PAIR, *brief, "--model", str(folder / "nowhere")]
    yield ["info", "--json"]
    yield ["plan", "--gpu", "24GiB"]
    yield ["explain", *PAIR, *brief, "--html", str(folder / "report.html")]
    yield ["evaluate", "--corpus", str(SAMPLE), "--run", str(run), *brief, "--output", str(folder / "results")]
    yield ["serve", "--help"]
    yield ["serve", "--port", "0", "--model", str(folder / "nowhere")]


def test_no_command_writes_what_its_environment_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RANK1_API_KEY", "COHERE_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.chdir(tmp_path)
    for command in commands(tmp_path):
        result = CliRunner().invoke(app, command)
        assert result.exception is None or isinstance(result.exception, SystemExit), command
        assert SECRET not in result.output + result.stderr, command
    assert {"journal.jsonl", "run.trec", "metrics.json"} <= {file.name for file in (tmp_path / "results").iterdir()}
    assert json.loads((tmp_path / "results" / "journal.jsonl").read_text().splitlines()[0])
    assert SECRET.encode() not in written(tmp_path)
