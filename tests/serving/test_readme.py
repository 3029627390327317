"""The server's page: its command starts one, and its snippets get answers from it."""

import json
import shlex

import cohere
import pytest
import uvicorn
from typer.testing import CliRunner

from rank1_hf import Rank1
from rank1_hf.commands.cli import app
from tests.pages import ROOT, name, snippets
from tests.serving.conftest import Running

PAGE = ROOT / "rank1_hf" / "serving" / "README.md"
ADDRESS = "localhost:8000"


@pytest.fixture
def server(serve) -> Running:
    return serve(Rank1(device="cpu", max_new_tokens=64))


def lines(first_word: str) -> list[list[str]]:
    """The words of the page's commands."""
    joined = "".join(snippets(PAGE, "sh")).replace("\\\n", "")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if line.startswith(first_word + " ")]


def test_the_command_serves(monkeypatch: pytest.MonkeyPatch):
    served: list[uvicorn.Server] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append(server))
    monkeypatch.setenv("RANK1_API_KEY", "any")
    commands = lines("rank1-hf")
    assert commands
    for command in commands:
        result = CliRunner().invoke(app, [*command[1:], "--port", "0"])
        assert result.exit_code == 0, result.output
    assert len(served) == len(commands)


def test_the_requests_are_answered(server: Running):
    commands = lines("curl")
    assert commands
    with server.client(headers={"Content-Type": "application/json"}) as client:
        for command in commands:
            (url,) = (word for word in command if word.startswith(ADDRESS))
            body = command[command.index("-d") + 1]
            response = client.post(url.removeprefix(ADDRESS), content=body)
            assert response.status_code == 200
            last = json.loads(response.text.splitlines()[-1])
            assert [result["index"] for result in last["results"]] == [0, 1]


def test_the_client_gets_its_ranking(server: Running, capsys: pytest.CaptureFixture[str]):
    (snippet,) = snippets(PAGE, "python3")
    namespace: dict[str, object] = {}
    exec(compile(snippet.replace(f"http://{ADDRESS}", server.url), f"{name(PAGE)}, the client", "exec"), namespace)
    assert isinstance(namespace["client"], cohere.ClientV2)
    assert capsys.readouterr().out.startswith("0 0.9")
