"""`environment.json`, and `rank1-hf evaluate --like`."""

import gzip
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rank1_hf import __version__
from rank1_hf.evaluation import provenance
from rank1_hf.evaluation.merging import merge
from rank1_hf.files.trec import read_run
from rank1_hf.models import identity
from tests.commands.test_evaluate import Result, given
from tests.evaluation.repository import write_repository
from tests.evaluation.stub import results


def environment(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "environment.json").read_text())
    return found


def digest(file: Path) -> str:
    return "sha256:" + sha256(file.read_bytes()).hexdigest()


# ---- what is written -------------------------------------------------------------------------------------------------


def test_it_says_what_the_job_was_made_with(checkpoint: Callable[..., Path], collection: Path, tmp_path: Path) -> None:
    weights = checkpoint("qwen2")
    options = ("-m", weights, "--top-k", 2, "--max-new-tokens", 4, "--dtype", "float32", "--device", "cpu")
    assert Result(*given(collection, tmp_path / "output", *options, "--decoding", "batch_size=3")).code == 0
    found = environment(tmp_path / "output")
    assert (
        found["versions"] | {"torch": torch.__version__, "transformers": transformers.__version__} == found["versions"]
    )
    assert found["versions"]["rank1_hf"] == __version__
    assert (found["device"]["type"], found["dtype"]) == ("cpu", "float32")
    assert found["device"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["weights"] == identity.checkpoint_identity(weights)
    assert (found["decoding"]["batch_size"], found["decoding"]["reproducible"]) == (3, False)
    assert found["decoding"]["prefill_chunk"] is not None  # as the engine has chosen
    assert found["limits"] == {"max_length": 2048, "max_new_tokens": 4}
    for name, value in (("top_k", 2), ("max_new_tokens", 4), ("run", str(collection / "run.trec"))):
        assert found["options"][name] == value
    assert found["inputs"] == {
        "corpus": {name: digest(collection / name) for name in ("corpus.jsonl", "queries.jsonl")},
        "qrels": {"qrels.tsv": digest(collection / "qrels.tsv")},
        "run": {"run.trec": digest(collection / "run.trec")},
    }
    journal = json.loads((tmp_path / "output" / "journal.jsonl").read_text().splitlines()[0])["settings"]
    assert {name: journal[name] for name in ("queries", "run", "documents")}.items() <= found["content"].items()
    assert found["earlier"] == []
    assert datetime.now(UTC) - datetime.fromisoformat(found["date"]) < timedelta(minutes=5)
    folder = tmp_path / "output"
    (folder / "environment.json").write_text(json.dumps(found | {"date": "2001-02-03T04:05:06+00:00"}))
    (folder / "journal.jsonl").unlink()
    assert Result(*given(collection, folder, *options, "--decoding", "batch_size=3")).code == 0
    assert environment(folder)["date"] == "2001-02-03T04:05:06+00:00"  # when it was begun


def test_the_command_can_be_given_again(collection: Path, tmp_path: Path, model: Any) -> None:
    more = (
        "--measure",
        "AP",
        "--measure",
        "nDCG(dcg='exp-log2')@10",
        "--no-ignore-identical-ids",
        "-k",
        3,
        "--reproducible",
    )
    assert Result(*given(collection, tmp_path / "output", "--quiet", *more)).code == 0
    program, command, *words = environment(tmp_path / "output")["command"]
    assert (program, command) == ("rank1-hf", "evaluate")
    assert words.count("--measure") == 2
    assert {"--no-ignore-identical-ids", "--reproducible", "--quiet"} <= set(words)
    shutil.move(tmp_path / "output", tmp_path / "first")
    assert Result(*words).code == 0
    assert results(tmp_path / "output") == results(tmp_path / "first")
    begun = {"date": environment(tmp_path / "first")["date"]}
    assert environment(tmp_path / "output") | begun == environment(tmp_path / "first")


def test_nothing_of_the_environment_s_variables_is_in_it(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setattr("sys.argv", ["program", "--token", "hf_planted"])
    assert Result(*given(collection, tmp_path / "output")).code == 0
    assert "hf_planted" not in (tmp_path / "output" / "environment.json").read_text()


def test_a_job_that_is_refused_leaves_it_as_it_was(collection: Path, tmp_path: Path, model: Any) -> None:
    assert Result(*given(collection, tmp_path / "output")).code == 0
    before = environment(tmp_path / "output")
    assert Result(*given(collection, tmp_path / "output", "--max-new-tokens", 7)).code == 2
    assert Result(*given(collection, tmp_path / "output")).code == 0  # and so does one that has nothing left to judge
    assert environment(tmp_path / "output") == before


def test_a_job_that_goes_on_elsewhere_has_both(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(n_judged: int) -> None:
        if n_judged == 30:
            signal.raise_signal(signal.SIGINT)

    output = tmp_path / "output"
    with monkeypatch.context() as patch:
        patch.setattr(model, "_before_each", interrupt)
        assert Result(*given(collection, output)).code == 130
    first = environment(output)
    monkeypatch.setattr(provenance, "versions", lambda: first["versions"] | {"torch": "1.0"})
    assert Result(*given(collection, output)).code == 0
    found = environment(output)
    assert found["versions"]["torch"] == "1.0"
    assert [each["versions"] for each in found["earlier"]] == [first["versions"]]


def test_a_job_that_is_measured_again_says_how_it_was_judged_and_how_measured(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    assert Result(*given(collection, output, "--top-k", 4)).code == 0
    first = environment(output) | {"dtype": "float16", "limits": {"max_new_tokens": 9}}  # as a loaded model knows
    (output / "environment.json").write_text(json.dumps(first))
    del model.options
    monkeypatch.setattr(provenance, "versions", lambda: first["versions"] | {"torch": "1.0"})
    (collection / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\n")
    again = ("--top-k", 3, "--tag", "mine", "--measure", "AP")
    assert Result(*given(collection, output, *again)).code == 0
    assert not hasattr(model, "options")  # nothing was judged
    found = environment(output)
    assert {name: found["options"][name] for name in ("top_k", "tag", "measure")} == {
        "top_k": 3,
        "tag": "mine",
        "measure": ["AP"],
    }
    assert {"--tag", "--measure"} <= set(found["command"])
    assert found["inputs"]["qrels"] == {"qrels.tsv": digest(collection / "qrels.tsv")}
    of_judging = ("versions", "device", "weights", "dtype", "limits", "date")
    assert {name: found[name] for name in of_judging} == {name: first[name] for name in of_judging}
    assert found["earlier"] == [{name: value for name, value in first.items() if name != "earlier"}]
    assert Result("--like", output, "-o", tmp_path / "second").code == 0
    assert results(tmp_path / "second") == results(output)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"environment": 0}', '{"environment": 1, "options": 3}'])
def test_one_that_cannot_be_read_stops_no_job(collection: Path, tmp_path: Path, model: Any, text: str) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "environment.json").write_text(text)
    assert Result(*given(collection, tmp_path / "output")).code == 0
    assert environment(tmp_path / "output")["earlier"] == []


def test_a_run_from_a_pipe_is_read_once(collection: Path, tmp_path: Path, model: Any) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[(collection / "run.trec").read_bytes()], daemon=True)
    writer.start()
    assert Result("--corpus", collection, "--run", pipe, "--output", tmp_path / "output").code == 0
    assert "run" not in environment(tmp_path / "output")["inputs"]


# ---- the same again --------------------------------------------------------------------------------------------------


def test_the_same_is_run_again_from_anywhere(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "template.txt").write_text("Find FILL_QUERY_HERE")
    monkeypatch.chdir(tmp_path)
    options = (
        "-k",
        4,
        "--max-new-tokens",
        9,
        "--dtype",
        "float32",
        "--prompt-template",
        "@template.txt",
        "--reproducible",
    )
    measures = ("--measure", "P@3", "--measure", "AP", "--run-format", "json", "--no-ignore-identical-ids")
    files = ("--corpus", "collection", "--run", "collection/run.trec", "-o", "first")
    assert Result(*files, *options, *measures).code == 0
    loaded = model.options
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = Result("--like", tmp_path / "first", "-o", "second")
    assert (result.code, model.options) == (0, loaded)
    assert str(tmp_path / "first") not in result.err  # nothing differs
    assert results(tmp_path / "elsewhere" / "second") == results(tmp_path / "first")
    assert environment(tmp_path / "elsewhere" / "second")["options"] == environment(tmp_path / "first")["options"]


def test_options_on_the_command_line_count_and_are_told(collection: Path, tmp_path: Path, model: Any) -> None:
    assert Result(*given(collection, tmp_path / "first", "--max-new-tokens", 9, "--top-k", 4)).code == 0
    result = Result("--like", tmp_path / "first", "-o", tmp_path / "second", "--max-new-tokens", 5, "--reproducible")
    assert (result.code, model.options["max_new_tokens"]) == (0, 5)
    said = [line for line in result.err.splitlines() if str(tmp_path / "first") in line]
    assert said == [
        f"rank1-hf: {tmp_path / 'first'}: --max-new-tokens was 9, now 5",
        f"rank1-hf: {tmp_path / 'first'}: --reproducible was false, now true",
    ]
    assert sum(len(scores) for scores in read_run(tmp_path / "second" / "run.trec").values()) == 120
    assert len((tmp_path / "second" / "judgments.jsonl").read_text().splitlines()) == 24
    assert Result("--like", tmp_path / "first", "-o", tmp_path / "third", "--max-new-tokens", 5, "--quiet").err == ""


def test_other_versions_weights_and_devices_are_told(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Result(*given(collection, tmp_path / "first")).code == 0
    found = environment(tmp_path / "first")
    found["versions"] |= {"torch": "1.0", "gone": "2"}
    found["device"]["name"] = "a\x1b[31mbacus"
    (tmp_path / "first" / "environment.json").write_text(json.dumps(found))
    monkeypatch.setattr(identity, "checkpoint_identity", lambda name: "sha256:other")
    result = Result("--like", tmp_path / "first", "-o", tmp_path / "second")
    assert result.code == 0
    for line in (f"torch was 1.0, now {torch.__version__}", "gone was 2, now not installed"):
        assert f"{tmp_path / 'first'}: {line}\n" in result.err
    assert "weights was None, now sha256:other" in result.err
    assert "device name was a" in result.err
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    ("file", "option"),
    [
        ("corpus.jsonl", "--corpus"),
        ("queries.jsonl", "--corpus"),
        ("qrels.tsv", "--qrels"),
        ("run.trec", "--run"),
        ("template.txt", "--prompt-template"),
    ],
)
@pytest.mark.parametrize("change", ["changed", "missing"])
def test_an_input_that_changed_is_an_error_that_names_it_unless_it_is_given(
    collection: Path, tmp_path: Path, model: Any, file: str, option: str, change: str
) -> None:
    template = collection / "template.txt"
    template.write_text("Find FILL_QUERY_HERE")
    assert Result(*given(collection, tmp_path / "first", "--prompt-template", f"@{template}")).code == 0
    copy = Path(shutil.copytree(collection, tmp_path / "copy"))
    if change == "missing":
        (collection / file).unlink()
    else:
        lines = (collection / file).read_text().splitlines(keepends=True)
        (collection / file).write_text("".join(lines[:-1]) + lines[-1].rstrip() + " \n")
    del model.options
    result = Result("--like", tmp_path / "first", "-o", tmp_path / "second")
    assert (result.code, hasattr(model, "options")) == (2, False)
    assert file in result.err
    assert not (tmp_path / "second").exists()
    new = {"--corpus": copy, "--prompt-template": f"@{copy / file}"}.get(option, copy / file)
    assert Result("--like", tmp_path / "first", "-o", tmp_path / "second", option, new).code == 0
    assert hasattr(model, "options")


def test_a_collection_that_is_elsewhere_but_the_same_is_no_difference(
    collection: Path, tmp_path: Path, model: Any
) -> None:
    assert Result(*given(collection, tmp_path / "first")).code == 0
    moved = Path(shutil.move(collection, tmp_path / "moved"))
    (moved / "run.trec").rename(moved / "other-name.trec")
    again = (
        "--like",
        tmp_path / "first",
        "-o",
        tmp_path / "second",
        "--corpus",
        moved,
        "--run",
        moved / "other-name.trec",
    )
    result = Result(*again)
    assert result.code == 0
    assert f"{tmp_path / 'first'}:" not in result.err
    (moved / "corpus.jsonl.gz").write_bytes(gzip.compress((moved / "corpus.jsonl").read_bytes() + b"\n"))
    (moved / "corpus.jsonl").unlink()
    result = Result(*again[:2], "-o", tmp_path / "third", *again[4:])
    assert "--corpus corpus.jsonl was sha256:" in result.err
    assert "now not there" in result.err


def test_a_collection_without_files_is_known_by_what_it_says(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of the hub is, whose files are not looked at."""
    pytest.importorskip("datasets")
    monkeypatch.setattr(provenance, "input_files", lambda options: {})

    def write(text: str) -> Path:
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        parts: dict[str, tuple[str, list[dict[str, Any]]]] = {
            "corpus": ("corpus", [{"_id": f"d{n}", "text": f"{text} {n}"} for n in range(3)]),
            "queries": ("queries", [{"_id": "q", "text": "what?"}]),
            "top_ranked": ("top_ranked", [{"query-id": "q", "corpus-ids": ["d0", "d1", "d2"]}]),
        }
        return write_repository(tmp_path / "hub", parts)

    assert Result("--corpus", write("one"), "--output", tmp_path / "first").code == 0
    assert Result("--like", tmp_path / "first", "-o", tmp_path / "second").code == 0
    del model.options
    folder = write("other")
    result = Result("--like", tmp_path / "first", "-o", tmp_path / "third")
    assert (result.code, hasattr(model, "options")) == (2, False)
    assert f"the documents of {folder} are others than those of the job to repeat; give --corpus" in result.err
    assert Result("--like", tmp_path / "first", "-o", tmp_path / "fourth", "--corpus", folder).code == 0


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "environment.json, which evaluate writes"),
        (
            '{"environment": 1, "command": ["rank1-hf", "judge"], "options": {}, "versions": {}, "inputs": {}}',
            "was made by judge; --like repeats evaluate alone",
        ),
        ("{", "environment.json: not valid JSON"),
        ('{"environment": 99}', "not of this version"),
        ('{"environment": 1, "options": [], "versions": {}, "inputs": {}}', '"options" must be an object'),
        ('{"environment": 1, "options": {}, "versions": {}, "inputs": {"run": 3}}', "an object for each option"),
        ('{"environment": 1, "options": {"no_such": 1}, "versions": {}, "inputs": {}}', "--no-such"),
        ('{"environment": 1, "options": {"output": "elsewhere"}, "versions": {}, "inputs": {}}', "--output"),
        ('{"environment": 1, "options": {"top_k": "x"}, "versions": {}, "inputs": {}}', "--top-k"),
        ('{"environment": 1, "options": {"measure": 3}, "versions": {}, "inputs": {}}', "measure"),
        ('{"environment": 1, "options": {"top_k": [1]}, "versions": {}, "inputs": {}}', "--top-k"),
        ('{"environment": 1, "options": {"run": {"a": 1}}, "versions": {}, "inputs": {}}', "run"),
    ],
)
def test_a_folder_that_says_nothing_useful(tmp_path: Path, model: Any, written: str | None, said: str) -> None:
    (tmp_path / "first").mkdir()
    if written is not None:
        (tmp_path / "first" / "environment.json").write_text(written)
    result = Result("--like", tmp_path / "first", "-o", tmp_path / "second", "--corpus", "x")
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "second").exists()


def test_without_it_a_collection_is_still_needed(tmp_path: Path, model: Any) -> None:
    result = Result("-o", tmp_path / "output")
    assert (result.code, "--corpus" in result.err) == (2, True)


# ---- shards ----------------------------------------------------------------------------------------------------------


def test_a_merged_job_was_made_as_its_shards_and_can_be_repeated(
    checkpoint: Callable[..., Path], collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("-m", checkpoint("qwen2"), "--top-k", 2, "--max-new-tokens", 4, "--device", "cpu")
    for shard in ("1/2", "2/2"):
        if shard == "2/2":  # on a machine with another version
            monkeypatch.setattr(provenance, "versions", lambda: {"python": "3.99"})
        folder = tmp_path / shard.replace("/", "-")
        assert Result(*given(collection, folder, *options, "--shard", shard)).code == 0
    merged = tmp_path / "merged"
    merge([tmp_path / "1-2", tmp_path / "2-2"], merged)
    first, found = environment(tmp_path / "1-2"), environment(merged)
    assert "--shard" not in found["command"]
    assert found["options"] == {name: value for name, value in first["options"].items() if name != "shard"}
    assert [each["versions"] for each in found["earlier"]] == [{"python": "3.99"}]
    assert {name: found[name] for name in ("weights", "inputs", "content", "versions")}.items() <= first.items()
    assert Result("--like", merged, "--output", tmp_path / "again").code == 0
    assert (tmp_path / "again" / "run.trec").read_bytes() == (merged / "run.trec").read_bytes()


def test_qrels_whose_file_has_gone_are_none(collection: Path) -> None:
    (collection / "qrels").mkdir()
    (collection / "qrels.tsv").rename(collection / "qrels" / "test.tsv")
    options = {"corpus": str(collection), "split": "dev"}  # beside whose file was that of another split
    assert provenance.own_qrels({"options": options, "inputs": {"qrels": {"qrels/dev.tsv": "sha256:"}}}) is None
