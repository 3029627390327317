"""The command, in a process of its own, and what it refuses before a model is loaded."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from rank1_hf import Rank1
from rank1_hf.commands.cli import app
from rank1_hf.serving.app import make_app
from rank1_hf.serving.engine import Engine
from tests.serving.conftest import PATIENCE, wait_until

KEY = "a-key-of-the-test"


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rank1_hf.commands.options.load", lambda *args, **options: pytest.fail("a model is loaded"))


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_it_serves_until_it_is_told_to_stop_and_finishes_what_runs(tmp_path: Path):
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n")
    command = [sys.executable, "-m", "rank1_hf", "serve", "--port", "0", "--max-new-tokens", "64", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--api-key-file", str(key_file)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    plants = [
        {"headers": {"Authorization": KEY}},
        {"headers": {"X-Api-Key": KEY}},
        {"params": {"api_key": KEY, KEY: "1"}},
    ]
    answers: list[str] = []
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.extend(line.decode() for line in process.stderr))
    reading.start()
    try:
        wait_until(lambda: any("listening at" in line for line in said) or process.poll() is not None)
        (url,) = re.findall(r"listening at (http://127\.0\.0\.1:\d+)", "".join(said))
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            body = {
                "query": "what carries an aircraft",
                "documents": ["A wing."] * 1 + [f"{i} wings" for i in range(40)],
            }
            assert client.post("/rerank", json=body).status_code == 401
            headers = {"Authorization": f"Bearer {KEY}"}
            for plant in plants:  # where clients wrongly put it
                for path in ("/rerank", "/score", "/nowhere"):
                    answers.append(client.post(path, json={"query": KEY, "texts": 3, "api_key": KEY}, **plant).text)
            for path in ("/v1/models", "/info", "/openapi.json", "/health", "/metrics"):
                answers.append(client.get(path, headers=headers).text)
            answers.append(
                client.post("/rerank", json={"query": 3, "documents": [KEY], KEY: KEY}, headers=headers).text
            )
            with client.stream("POST", "/rerank", json={**body, "stream": True}, headers=headers) as response:
                lines = response.iter_lines()
                first = json.loads(next(lines))
                process.send_signal(signal.SIGTERM)
                *_, last = lines
            assert "index" in first
            assert len(json.loads(last)["results"]) == 41
        assert process.wait(PATIENCE) == -signal.SIGTERM  # which a shell calls 143
        reading.join(PATIENCE)
    finally:
        process.kill()
    log = "".join(said) + process.stdout.read().decode()
    assert "Traceback" not in log
    assert '"POST /nowhere HTTP/1.1" 404' in log
    assert KEY not in log + "".join(answers)


def test_an_address_that_is_taken(nothing_is_loaded):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in refusal("--port", port)


def test_an_address_of_no_machine(nothing_is_loaded):
    assert "cannot listen at 192.0.2.1" in refusal("--host", "192.0.2.1")


def test_a_queue_that_is_shorter_than_a_request(nothing_is_loaded):
    assert "--max-queue 10 has no room for a request of --max-documents 20" in refusal(
        "--max-queue", "10", "--max-documents", "20"
    )


@pytest.mark.parametrize("key", ["", " \n", "two words", "schlüssel"])
def test_a_key_that_no_client_could_send(nothing_is_loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str):
    (tmp_path / "key").write_text(key, encoding="utf-8")
    assert "holds no API key" in refusal("--port", "0", "--api-key-file", str(tmp_path / "key"))
    (tmp_path / "key").write_bytes(b"\xff\xfe\xff")
    for mistaken in (KEY, KEY * 50, f"Bearer {KEY}", str(tmp_path / "key")):  # a name too long, and no text
        said = refusal("--port", "0", "--api-key-file", mistaken)
        assert "cannot read the file of --api-key-file (" in said
        assert KEY not in said
        assert str(tmp_path) not in said
    monkeypatch.setenv("RANK1_API_KEY", key)
    assert "RANK1_API_KEY holds no API key" in refusal("--port", "0")


@pytest.mark.parametrize("content", [f"{KEY} {KEY}".encode(), f"{KEY}\xff".encode("latin-1"), f"{KEY}ü".encode()])
def test_a_key_that_cannot_be_used_is_not_shown(nothing_is_loaded, tmp_path: Path, content: bytes):
    (tmp_path / "key").write_bytes(content)
    assert KEY not in refusal("--port", "0", "--api-key-file", str(tmp_path / "key"))


def test_the_application_holds_its_key_hidden():
    with Engine(Rank1(device="cpu", max_new_tokens=4), max_pairs=1) as engine:
        app = make_app(engine, api_key=KEY)
    held = [
        cell.cell_contents
        for route in app.routes
        for given in getattr(route, "dependencies", ())
        for cell in given.dependency.__closure__
    ]
    assert held
    assert KEY not in repr(held) + repr(vars(app)) + repr([vars(route) for route in app.routes])


def test_the_extra_is_named_where_it_is_missing(nothing_is_loaded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'rank1-hf[serve]'" in refusal()


def test_help_does_not_show_the_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK1_API_KEY", KEY)
    assert KEY not in CliRunner().invoke(app, ["serve", "--help"]).output
