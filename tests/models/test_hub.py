"""Checkpoints by the names that a hub has for them, from a hub on this machine: fetched, cached, refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
from rich.filesize import decimal
from transformers import AutoModelForCausalLM

from rank1_hf import CheckpointError, Rank1
from rank1_hf.models import hub as hub_of_models
from rank1_hf.models.loading import open_checkpoint
from tests import tiny_models
from tests.hub import Hub

PAIR = ("how do wings carry?", "Air flows around them.")
KINDS = tiny_models.TOKENIZERS if "RANK1_SLOW" in os.environ else ("qwen2", "llama", "sentencepiece")
GOOD: dict[str, tuple[str, dict[str, Any]]] = {kind: (f"us/{kind}", {}) for kind in KINDS}
GOOD["sharded"] = ("us/llama", {"revision": "sharded", "token": "hf_secret"})
GOOD["inside"] = ("us/inside", {"subfolder": "a/b"})
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    name: (f"us/{name}", {}) for name in ("tricks", "code", "pickled", "nowhere")
}
PROGRAM = """
import json, logging, sys
from rank1_hf import CheckpointError, Rank1
found, said = {}, []
logger = logging.getLogger("rank1_hf.models.loading")
logger.setLevel("INFO")
logger.addFilter(lambda record: said.append(record.getMessage()))  # and drops it
pair, cases = json.loads(sys.argv[1])
for case, (name, source) in cases.items():
    try:
        found[case] = float(Rank1(name, device="cpu", dtype="float32", max_new_tokens=16, **source).predict(pair))
    except CheckpointError as error:
        found[case] = str(error)
print(json.dumps(found | {"said": said}))
"""


def outcomes(cases: Mapping[str, object], **environment: str) -> dict[str, Any]:
    """What loading each case gave in a process with this environment: the score of `PAIR`, or what was said."""
    arguments = [sys.executable, "-c", PROGRAM, json.dumps([PAIR, cases])]
    path = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert done.stderr == "", "loading says nothing"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def hub(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Hub:
    there, llama = tmp_path_factory.mktemp("hub"), checkpoint("llama")
    sharded, _, tricks, code, pickled = (
        Path(shutil.copytree(llama, there / name)) for name in ("sharded", "inside/a/b", "tricks", "code", "pickled")
    )
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(sharded, max_shard_size="100KB")
    (tricks / "model.safetensors").rename(tricks / "x.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../../x.safetensors"}}
    (tricks / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((code / "config.json").read_text())
    (code / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Evil"}}))
    (code / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    others = {"inside": there / "inside", "tricks": tricks, "code": code, "pickled": pickled}
    folders = {kind: checkpoint(kind) for kind in KINDS} | others
    main = {(f"us/{name}", "main"): folder for name, folder in folders.items()}
    return Hub(main | {("us/llama", "sharded"): sharded})


@dataclass(frozen=True)
class Found:
    """What two processes found, one with the hub and then one without a network, and what the hub was asked by each."""

    online: dict[str, Any]
    offline: dict[str, Any]
    asked_online: list[tuple[str, str | None]]
    asked_offline: list[tuple[str, str | None]]


@pytest.fixture(scope="module")
def found(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Found:
    where = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path_factory.mktemp("cache"))}
    online = outcomes(GOOD | BAD, **where, HF_HUB_OFFLINE="0")
    asked_online = [*hub.asked]
    hub.asked.clear()
    offline = outcomes(GOOD | {"not cached": ("us/other", {})}, **where, HF_HUB_OFFLINE="1")
    return Found(online, offline, asked_online, [*hub.asked])


def test_a_name_is_as_good_as_a_folder_and_again_without_a_network(found: Found, checkpoint: Callable[..., Path]):
    kinds = {kind: Rank1(checkpoint(kind), device="cpu", dtype="float32", max_new_tokens=16) for kind in KINDS}
    expected = {kind: float(model.predict(PAIR)) for kind, model in kinds.items()}
    expected |= {"sharded": expected["llama"], "inside": expected["llama"]}
    for outcome in (found.online, found.offline):
        assert {name: outcome[name] for name in GOOD} == pytest.approx(expected, abs=1e-4)
    assert found.asked_offline == []


def test_a_download_is_said_with_its_size_and_what_is_cached_is_not(found: Found, hub: Hub):
    weights = {("us/inside", "main"): "a/b/model.safetensors", ("us/llama", "sharded"): "model-*.safetensors"}
    expected = [
        f"downloading the weights of {name}, {decimal(sum(file.stat().st_size for file in files))}"
        for name, source in GOOD.values()
        for key in [(name, source.get("revision", "main"))]
        for files in [hub.repositories[key].glob(weights.get(key, "model.safetensors"))]
    ]
    assert [said.partition(", to ")[0] for said in found.online["said"]] == expected
    assert found.offline["said"] == []


def test_a_token_goes_where_it_was_given_and_nowhere_else(found: Found):
    shards = [authorization for path, authorization in found.asked_online if "/model-0" in path]
    assert len(shards) > 1
    assert set(shards) == {"Bearer hf_secret"}
    assert {authorization for path, authorization in found.asked_online if "/us/qwen2/" in path} == {None}


def test_what_is_wrong_with_a_repository_is_said(found: Found):
    said = found.online
    assert "cannot load the weights of us/tricks" in said["tricks"]
    assert ".." in said["tricks"]
    assert "auto_map in config.json" in said["code"]
    assert "us/pickled has no safetensors weights" in said["pickled"]
    assert "allow_pickles=True" in said["pickled"]
    assert "cannot load the config of us/nowhere" in said["nowhere"]
    asked = [path for path, _ in found.asked_online]
    assert not [path for path in asked if path.endswith((".py", ".bin"))], "neither is even fetched"


def test_what_is_not_in_the_cache_is_said_without_a_network(found: Found):
    assert "cannot load the config of us/other" in found.offline["not cached"]


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_hub_and_cache_a_command_ends_before_torch_is_imported(environment: dict[str, str], tmp_path: Path):
    code = (
        "import sys; from rank1_hf.commands.cli import main\n"
        "sys.argv = ['rank1-hf', 'rerank', 'q', 'd', '-m', 'us/x']\n"
        "try: main()\n"
        "except SystemExit as exit: print(exit.code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    path = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)} | environment
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 []"
    assert "cannot load the config of us/x" in done.stderr
    assert "Retrying" not in done.stderr


@pytest.mark.parametrize(("given", "seconds"), [(None, 1.5), ("7", 7.0)])
def test_how_long_the_hub_is_waited_for(given: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch):
    asked: list[float] = []
    monkeypatch.setattr(
        huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda url, timeout: asked.append(timeout))
    )
    if given is None:
        monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    else:
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", given)
    assert hub_of_models._answers.__wrapped__("https://hub.example")
    assert asked == [seconds]


@pytest.mark.parametrize(
    ("error", "answers"), [(httpx.ReadTimeout("slow"), True), (httpx.ConnectError("refused"), False), (None, True)]
)
def test_a_slow_hub_is_not_taken_for_none(error: Exception | None, answers: bool, monkeypatch: pytest.MonkeyPatch):
    def head(url: str, timeout: float) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=head))
    assert hub_of_models._answers.__wrapped__("https://hub.example") == answers


@pytest.mark.parametrize("name", ["rank1-7b", "RANK1-7B", "jhu-clsp/Rank1-7B"])
def test_a_member_of_the_family_named_otherwise_is_asked_for_at_once(name: str) -> None:
    with pytest.raises(CheckpointError, match="did you mean 'jhu-clsp/rank1-7b'"):
        hub_of_models.check_available(name)


@pytest.mark.parametrize("name", ["rank1-9b", "RANK1-9B"])
def test_a_name_like_a_member_s_that_is_none_is_refused_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_of_models, "_answers", lambda endpoint: pytest.fail("the hub was asked"))
    said = rf"there is no {name}, .* the family, which is jhu-clsp/rank1-0\.5b, .*jhu-clsp/rank1-32b-awq"
    with pytest.raises(CheckpointError, match=said):
        hub_of_models.check_available(name)
    monkeypatch.setattr(hub_of_models, "_answers", lambda endpoint: False)
    for with_owner in ("someone/rank1-9b", "jhu-clsp/rank1-9b"):
        with pytest.raises(CheckpointError, match=f"cannot load the config of {with_owner}"):
            hub_of_models.check_available(with_owner)


@pytest.mark.parametrize("name", ["my model!", "--help", "a/b/c", "C:\\models\\rank1", "owner/", "w" * 300])
def test_what_is_neither_a_folder_nor_a_name_of_the_hub_is_said(name: str) -> None:
    assert not hub_of_models.is_hub_name(name)
    with pytest.raises(CheckpointError, match=r"there is no folder .*; give an existing folder or a hub name"):
        open_checkpoint(name)


def test_a_home_folder_may_stand_in_a_name(
    tmp_path: Path, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "wings").symlink_to(checkpoint("qwen2"))
    for name in ("~/wings", Path("~/wings")):
        assert open_checkpoint(name).path == tmp_path / "wings"
    with pytest.raises(CheckpointError, match="there is no folder ~nobody-of-this-name/wings"):
        open_checkpoint("~nobody-of-this-name/wings")


def test_a_folder_may_be_called_as_a_member_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank1-7b").mkdir()
    assert not hub_of_models.check_available("rank1-7b")
