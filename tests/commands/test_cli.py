"""The command line: what goes in, what comes out on which stream, and the exit codes."""

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from transformers import AutoModelForCausalLM
from typer.core import TyperGroup
from typer.testing import CliRunner

from rank1_hf import Markers, Rank1, reranker
from rank1_hf.commands import cli, judging, options
from rank1_hf.decoding.options import FIELDS, DecodingOptions
from rank1_hf.evaluation.metrics import ndcg
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.inputs import InputError
from rank1_hf.files.trec import read_run
from rank1_hf.models import loading
from rank1_hf.results.judgment import Interrupted, Judgment, sigmoid

QUERY = "how do wings carry an aeroplane?"
DOCS = ["The wing is carried by the pressure of the air.", "Bread needs flour.", "A river ends in a sea."]


class Result:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, SystemExit):
            raise error
        self.code, self.out, self.err = code, out, err

    @property
    def objects(self) -> list[dict[str, Any]]:
        """All of stdout, which must be strict JSON, an object a line."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return [json.loads(line, parse_constant=refuse) for line in self.out.splitlines()]


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    # Wide, so that what is looked for is not broken over two lines.
    result = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, [str(argument) for argument in arguments], input=stdin)
    return Result(result.exit_code, result.stdout, result.stderr, result.exception)


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> Path:
    """A random-weight checkpoint."""
    return checkpoint("qwen2")


class Script:
    """Stands in for Rank1: gives scripted judgments and remembers what it was asked."""

    def __init__(self) -> None:
        self.log_odds: list[float | None] = []  # one a pair; None: it fails
        self.chain = "It is about wings."
        self.interrupt_after: int | None = None
        self.error: Exception | None = None
        self.model: Any = None
        self.options: dict[str, Any] = {}
        self.pairs: list[Any] = []
        self.judge_options: dict[str, Any] = {}

    def __call__(self, model: Any = None, **options: Any) -> "Script":
        self.model, self.options = model, options
        return self

    def judge(self, pairs: list[Any], **options: Any) -> list[Judgment]:
        self.pairs, self.judge_options = pairs, options
        log_odds = self.log_odds or [0.0] * len(pairs)
        judgments = [self._judgment(index, value) for index, value in enumerate(log_odds)]
        if self.interrupt_after is not None:
            raise Interrupted(judgments[: self.interrupt_after])
        if self.error is not None:
            raise self.error
        return judgments

    def _judgment(self, index: int, log_odds: float | None) -> Judgment:
        if log_odds is None:
            return Judgment.failed(index, "the logits are not finite")
        return Judgment(index, sigmoid(log_odds), log_odds, log_odds > 0, self.chain, 30, 5, "closed", False)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(reranker, "Rank1", script)
    return script


# ---- what is imported ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["rank1_hf", "rank1_hf.commands.cli"])
def test_importing_does_not_import_what_takes_seconds(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'ir_measures'}} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_imports_neither_torch_nor_transformers_and_states_the_exit_codes() -> None:
    code = (
        "import sys; from rank1_hf.commands.cli import main; sys.argv = ['rank1-hf', 'rerank', '--help']\n"
        "try: main()\n"
        "except SystemExit as exit: print(exit.code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.strip().endswith("0 []")
    assert "Exit codes: 0" in out
    assert "130 interrupted" in out


def test_help_cuts_no_name_and_no_summary_on_a_narrow_terminal() -> None:
    narrow, group = CliRunner(env={"COLUMNS": "80"}), typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    summaries = narrow.invoke(cli.app, ["--help"]).stdout
    assert not re.search(r"^  .*\.\.\.$", summaries, re.MULTILINE)
    for name, command in group.commands.items():
        out = narrow.invoke(cli.app, [name, "--help"]).stdout
        assert max(map(len, out.splitlines())) <= 80
        assert all(option in out for parameter in command.params for option in parameter.opts if option[0] == "-")
        assert name in summaries


def test_the_package_runs_as_a_module() -> None:
    out = subprocess.check_output([sys.executable, "-m", "rank1_hf", "--help"], text=True)
    assert all(command in out for command in ("rerank", "info", "demo"))


# ---- rerank: what comes out ------------------------------------------------------------------------------------------


def test_passages_are_ranked_as_the_library_ranks_them(model: Path) -> None:
    result = run("rerank", QUERY, *DOCS, "--model", model, "--max-new-tokens", 8, "--json")
    expected = Rank1(model, max_new_tokens=8).rank(QUERY, DOCS, return_documents=True)
    assert result.code == 0
    assert [line["rank"] for line in result.objects] == [1, 2, 3]
    for line, want in zip(result.objects, expected, strict=True):
        assert line["index"] == want["corpus_id"]
        assert line["log_odds"] == pytest.approx(want["log_odds"], abs=1e-4)
        assert {key: line[key] for key in ("chain", "text", "ended", "n_chain_tokens")} == {
            key: want[key] for key in ("chain", "text", "ended", "n_chain_tokens")
        }


def test_the_table_shows_rank_score_tokens_chain_and_passage(script: Script) -> None:
    script.log_odds = [-1.0, 2.0]
    result = run("rerank", QUERY, "a passage about bread", "a passage about wings")
    heading, first, second = result.out.splitlines()
    assert heading.split() == ["rank", "score", "tokens", "chain", "passage"]
    assert " ".join(first.split()) == "1 0.8808 5 It is about wings. a passage about wings"
    assert " ".join(second.split()) == "2 0.2689 5 It is about wings. a passage about bread"
    assert result.code == 0


def test_a_long_chain_is_cut_unless_it_is_asked_for_whole(script: Script) -> None:
    script.chain = "\n" + "wings and air, " * 40 + "\nend of the chain"
    assert "end of the chain" not in run("rerank", QUERY, "doc").out
    assert "end of the chain" in run("rerank", QUERY, "doc", "--show-chain").out
    assert run("rerank", QUERY, "doc", "--json").objects[0]["chain"] == script.chain


def test_top_k_keeps_the_best(script: Script) -> None:
    script.log_odds = [0.0, 3.0, 1.0]
    result = run("rerank", QUERY, *DOCS, "--top-k", 2, "--json")
    assert [line["index"] for line in result.objects] == [1, 2]


def test_scores_that_round_to_one_are_ranked_by_log_odds_and_ties_by_place(script: Script) -> None:
    script.log_odds = [50.0, 60.0, 50.0]
    assert [line["index"] for line in run("rerank", QUERY, *DOCS, "--json").objects] == [1, 0, 2]


def test_json_says_everything_and_is_utf8(script: Script) -> None:
    result = run(
        "rerank", "東京", "--format", "jsonl", "--json", stdin='{"text": "駅 🙂", "title": "T", "_id": "d1"}\n'
    )
    assert result.objects == [
        {
            "rank": 1,
            "index": 0,
            "id": "d1",
            "title": "T",
            "text": "駅 🙂",
            "score": 0.5,
            "log_odds": 0.0,
            "label": False,
            "chain": "It is about wings.",
            "n_prompt_tokens": 30,
            "n_chain_tokens": 5,
            "ended": "closed",
            "truncated": False,
            "error": None,
            "cached": False,
        }
    ]
    assert "駅 🙂" in result.out


def test_a_failed_passage_is_told_with_its_reason_and_costs_no_other(script: Script) -> None:
    script.log_odds = [None, 1.0]
    result = run("rerank", QUERY, "the bad one", "the good one")
    assert result.code == 1
    assert "1  0.7311" in result.out
    assert "passage 1 (the bad one): the logits are not finite" in result.out
    assert "1 of 2 passages" in result.err


def test_a_failed_passage_is_valid_json_without_a_rank_and_comes_last(script: Script) -> None:
    script.log_odds = [None, 1.0, 2.0]
    result = run("rerank", QUERY, *DOCS, "--json", "--top-k", 1)
    assert result.code == 1
    assert [(line["rank"], line["index"]) for line in result.objects] == [(1, 2), (None, 0)]
    failed = result.objects[1]
    assert failed["score"] is failed["log_odds"] is failed["label"] is None
    assert failed["error"] == "the logits are not finite"


def test_a_lone_surrogate_fails_alone_and_is_still_printed(model: Path) -> None:
    stdin = '"good"\n"bad \\ud800"\n'
    options = ("--model", model, "--max-new-tokens", 2, "--format", "jsonl")
    as_json = run("rerank", QUERY, *options, "--json", stdin=stdin)
    assert as_json.code == 1
    assert [line["text"] for line in as_json.objects] == ["good", "bad \ud800"]
    assert "surrogate" in as_json.objects[1]["error"]
    assert "surrogate" in run("rerank", QUERY, *options, stdin=stdin).out


def test_text_cannot_steer_the_terminal(script: Script) -> None:
    evil = "\x1b[31mred\x1b[0m \x07 \x9b2J \r over \u202e turned [bold]markup[/bold] [/] :smile:"
    script.chain = evil
    script.log_odds = [1.0, None]
    for option in ("--show-chain", "--quiet"):
        out = run("rerank", QUERY, evil, evil, option).out
        assert not set(out) & set("\x1b\x07\x9b\r\u202e")
        assert out.count("[bold]markup[/bold] [/] :smile:") >= 2


def test_text_that_combines_or_runs_right_to_left_stays_as_it_is(script: Script) -> None:
    text = "e\u0301 שלום \u200dمی\u200cخواهم 👩\u200d👩\u200d👧"
    assert text in run("rerank", QUERY, text).out


def test_what_is_logged_is_said_on_stderr_while_the_command_runs(model: Path) -> None:
    options = ("--model", model, "--max-new-tokens", 4, "--device", "cpu")
    logger = logging.getLogger("rank1_hf")
    before = logger.level, list(logger.handlers)
    said = run("rerank", QUERY, *DOCS, *options).err.splitlines()
    assert said[0].startswith(f"rank1-hf: model {model.name}, dtype float32, device cpu")
    assert said[-1].startswith("rank1-hf: 3 of 3 pairs done in ")
    assert run("rerank", QUERY, *DOCS, *options, "--quiet").err == ""
    assert (logger.level, logger.handlers) == before


def test_quiet_says_nothing_on_stderr(script: Script) -> None:
    script.log_odds = [None]
    assert run("rerank", QUERY, "doc", "--quiet").err == ""
    assert script.judge_options["show_progress_bar"] is False


def test_the_demonstration_model_is_named_as_one(script: Script) -> None:
    assert "demonstration model, not a reranker" in run("rerank", QUERY, "doc").err
    assert "demonstration" not in run("rerank", QUERY, "doc", "--model", "some/model").err


# ---- rerank: what goes in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("docs.txt", "one\n\ntwo\n"),
        ("docs.jsonl", '"one"\n{"text": "two"}\n'),
        ("docs.csv", "text\none\ntwo\n"),
    ],
)
def test_passages_come_from_a_file(script: Script, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert run("rerank", QUERY, "--file", tmp_path / name).code == 0
    assert [passage["text"] for _, passage in script.pairs] == ["one", "two"]


@pytest.mark.parametrize(
    ("file_format", "stdin"), [(None, "one\n\ntwo"), ("txt", "one\ntwo"), ("csv", "text\none\ntwo")]
)
def test_passages_come_from_stdin(script: Script, file_format: str | None, stdin: str) -> None:
    assert run("rerank", QUERY, *(["--format", file_format] if file_format else []), stdin=stdin).code == 0
    assert [passage["text"] for _, passage in script.pairs] == ["one", "two"]


def test_an_empty_passage_is_judged(model: Path) -> None:
    result = run("rerank", QUERY, "", "--model", model, "--max-new-tokens", 2, "--json")
    assert result.code == 0
    assert result.objects[0]["score"] is not None


def test_no_passages_are_no_error(script: Script) -> None:
    for option in ([], ["--json"]):
        result = run("rerank", QUERY, *option, stdin="\n")
        assert (result.code, result.out) == (0, "")
        assert "no passages" in result.err
    assert script.pairs == []


def test_every_option_reaches_the_reranker(script: Script) -> None:
    options = (
        "--max-new-tokens",
        7,
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--quantization",
        "4bit",
        "--prompt-template",
        "Find FILL_QUERY_HERE",
        "--reproducible",
        "--decoding",
        "speculate=off",
        "--marker",
        "true= yes",
    )
    run("rerank", "q", "d", "-m", "some/model", *options, "--instruction", "only new ones", "--batch-size", 3)
    assert script.model == "some/model"
    assert script.options == {
        "max_new_tokens": 7,
        "dtype": "float32",
        "device": "cpu",
        "quantization": "4bit",
        "prompt_template": "Find FILL_QUERY_HERE only new ones",
        "markers": Markers(true=" yes"),
        "decoding": DecodingOptions(reproducible=True, speculate=False, batch_size=3),
        "num_gpus": 1,
    }
    assert script.pairs == [("q", {"title": "", "text": "d"})]
    assert script.judge_options == {"show_progress_bar": None}


def test_a_prompt_template_comes_from_a_file(script: Script, tmp_path: Path) -> None:
    (tmp_path / "template.txt").write_text("Find\nFILL_QUERY_HERE\n")
    run("rerank", QUERY, "doc", "--prompt-template", f"@{tmp_path / 'template.txt'}")
    assert script.options["prompt_template"] == "Find\nFILL_QUERY_HERE"


def test_a_prompt_template_changes_what_is_thought(model: Path) -> None:
    options = ("rerank", QUERY, "doc", "-m", model, "--max-new-tokens", 4, "--json")
    plain, templated = run(*options), run(*options, "--prompt-template", "A passage about FILL_QUERY_HERE is wanted.")
    assert templated.objects[0]["n_prompt_tokens"] > plain.objects[0]["n_prompt_tokens"]


# ---- rerank: what is refused -----------------------------------------------------------------------------------------


def check_refusal(result: Result, code: int, *said: str) -> None:
    """One sentence on stderr, nothing on stdout, the right exit code."""
    assert result.code == code
    assert result.out == ""
    assert result.err.startswith("rank1-hf: ")
    assert result.err.count("\n") == 1
    for part in said:
        assert part in result.err


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_malformed_line_is_named_before_any_model_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.jsonl", '{"text": "good"}\n{"text": \n')
    result = run("rerank", QUERY, "--file", path, "--model", "/there/is/no/such/model")  # which would exit with 3
    check_refusal(result, 2, "docs.jsonl, line 2", "not valid JSON")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("docs.txt", "caf\xe9\n".encode("latin-1"), "docs.txt, line 1: not UTF-8"),
        ("docs.csv", "body\nx\n", 'no column "text"'),
        ("docs.pdf", "%PDF", "txt, jsonl, csv or tsv"),
        ("missing/docs.txt", None, "cannot read"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: str | bytes | None, said: str) -> None:
    path = tmp_path / name if content is None else write(tmp_path / name, content)
    check_refusal(run("rerank", QUERY, "--file", path), 2, said)


def test_stdin_that_cannot_be_read() -> None:
    check_refusal(run("rerank", QUERY, stdin=b"\xff\xff"), 2, "standard input, line 1: not UTF-8")
    check_refusal(run("rerank", QUERY, "--format", "jsonl", stdin="{"), 2, "standard input, line 1: not valid JSON")
    check_refusal(run("rerank", QUERY, "--format", "xml", stdin="<a/>"), 2, "txt, jsonl, csv or tsv")


@pytest.mark.parametrize("query", ["", "  \n"])
def test_a_blank_query(query: str) -> None:
    check_refusal(run("rerank", query, "doc"), 2, "the query is blank")


def test_passages_from_two_places(tmp_path: Path) -> None:
    check_refusal(run("rerank", QUERY, "doc", "--file", write(tmp_path / "docs.txt", "x")), 2, "not both")


def test_nothing_to_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(InputError, match="--file"):
        judging.read_passages([], None, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dtype", "int3"], "dtype must be one of"),
        (["--device", "abacus"], "is not a device"),
        (["--prompt-template", "no place for the query"], "FILL_QUERY_HERE"),
        (["--prompt-template", "@/no/such/file"], "cannot read /no/such/file"),
        (["--max-new-tokens", "1000000"], "does not fit"),
    ],
)
def test_an_option_that_makes_no_sense(model: Path, options: list[str], said: str) -> None:
    check_refusal(run("rerank", QUERY, "doc", "--model", model, *options), 2, said)


@pytest.mark.parametrize("option", ["--max-new-tokens", "--batch-size", "--top-k"])
def test_a_count_below_one(option: str) -> None:
    result = run("rerank", QUERY, "doc", option, 0)
    assert result.code == 2
    assert option in result.err


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    check_refusal(run("rerank", QUERY, "doc", "--model", tmp_path / "nothing"), 3, "there is no folder")


def test_a_model_whose_tokenizer_does_not_meet_the_contract(without_answers: Path) -> None:
    check_refusal(run("rerank", QUERY, "doc", "--model", without_answers), 3, "start with the same token")


def test_what_a_library_says_over_several_lines_is_said_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> None:
        raise loading.CheckpointError("cannot load the weights:\n\n  of this\x1b[1m model")

    monkeypatch.setattr(reranker, "Rank1", load)
    check_refusal(run("rerank", QUERY, "doc", "--model", "some/model"), 3, "cannot load the weights: of this")


@pytest.fixture
def without_answers(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint whose tokenizer starts both answers with the same token: the space."""
    source = checkpoint("qwen2")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spec = json.loads((source / "tokenizer.json").read_text())
    spec["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    return tmp_path


def test_memory_that_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def load(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(reranker, "Rank1", load)
    check_refusal(
        run("rerank", QUERY, "doc", "--model", "huge"), 3, "not enough memory for huge", "--quantization 4bit"
    )


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_and_shows_what_was_finished(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Rank1._judge

    def interrupted(self: Rank1, *args: Any) -> Iterator[Judgment]:
        judgments = stream(self, *args)
        yield next(judgments)
        yield next(judgments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Rank1, "_judge", interrupted)
    result = run("rerank", QUERY, *DOCS, "--model", model, "--max-new-tokens", 4, "--json")
    assert result.code == 130
    assert [line["rank"] for line in result.objects] == [1, 2]
    assert "2 of 3 passages were judged" in result.err


def test_ctrl_c_before_the_first_result_shows_nothing(script: Script) -> None:
    script.interrupt_after = 0
    result = run("rerank", QUERY, *DOCS)
    assert (result.code, result.out) == (130, "")


def test_ctrl_c_while_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reranker, "Rank1", load)
    assert run("rerank", QUERY, "doc").code == 130


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_says_what_a_checkpoint_is(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("llama")
    loaded = Rank1(folder, decoding="pack=off")  # which fills panels up with zeros
    result = run("info", folder, "--json")
    assert result.code == 0
    assert result.objects == [
        {
            "model": str(folder),
            "architecture": "llama",
            "parameters": AutoModelForCausalLM.from_pretrained(folder).num_parameters(),
            "layers": 2,
            "hidden_size": 64,
            "attention_heads": 4,
            "kv_heads": 2,
            "dtype": "float32",
            "quantization": None,
            "context": 2048,
            "kv_bytes_per_token": 2 * 2 * 2 * 16 * 4,  # keys and values, layers, KV heads, head size, float32
            "think_ids": list(loaded.encoder.think_ids),
            "close_ids": list(loaded.encoder.close_ids),
            "true_id": loaded.encoder.true_id,
            "false_id": loaded.encoder.false_id,
            "bos_ids": [loaded.tokenizer.bos_token_id],
            "contract_error": None,
            "decoding": result.objects[0]["decoding"],
        }
    ]


@pytest.mark.parametrize("text", ["", "speculate=off,batch_size=7,kv_cache_tokens=4096", "reproducible=on"])
@pytest.mark.parametrize("folder", [None, "llama"])
def test_info_says_what_is_in_force_here(checkpoint: Callable[..., Path], folder: str | None, text: str) -> None:
    path = checkpoint(folder) if folder else loading.EMBEDDED_MODEL
    told = DecodingOptions(**run("info", path, "--json", "--decoding", text).objects[0]["decoding"])
    in_force = Rank1(path, decoding=text).decoder.options
    assert told.kv_cache_tokens == pytest.approx(in_force.kv_cache_tokens, rel=0.3)  # free memory comes and goes
    assert replace(told, kv_cache_tokens=1) == replace(in_force, kv_cache_tokens=1)


def test_info_prints_the_options_as_decoding_takes_them(model: Path) -> None:
    out = run("info", model, "--decoding", "speculate=off,kv_cache_tokens=4096").out
    _, _, listed = out.partition("decoding in force on this machine:\n")
    lines = listed.splitlines()
    assert [line.partition("=")[0] for line in lines] == list(FIELDS)
    assert {"speculate=off", "kv_cache_tokens=4096", "share_prefixes=on"} <= set(lines)
    assert run("info", model, "--decoding", ",".join(lines)).out == out


@pytest.mark.parametrize("quantization", ["8bit", "nf4"])
def test_info_of_weights_that_are_quantized_as_they_are_read(model: Path, quantization: str) -> None:
    given = ("--quantization", quantization, "--dtype", "bfloat16", "--batch-size", 5)
    (facts,) = run("info", model, "--json", *given).objects
    loaded = Rank1(model, quantization=quantization, dtype="bfloat16", decoding="batch_size=5")
    assert facts["quantization"] == {"8bit": "8bit", "nf4": "4bit"}[quantization]
    told = DecodingOptions(**facts["decoding"])
    assert replace(told, kv_cache_tokens=1) == replace(loaded.decoder.options, kv_cache_tokens=1)


@pytest.mark.parametrize(
    "command", [("rerank", QUERY, "doc"), ("explain", QUERY, "doc"), ("info",), ("demo",), ("serve",)]
)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("specualte=off", "'specualte=off' is no decoding option; write NAME=VALUE, with one of batch_size, "),
        ("graphs=maybe", "graphs=maybe: write on or off"),
        ("page_size=48", "page_size must be a power of two"),
    ],
)
def test_decoding_that_makes_no_sense_is_refused_before_anything_is_loaded(
    script: Script, command: tuple[str, ...], text: str, said: str
) -> None:
    check_refusal(run(*command, "--decoding", text), 2, said)
    assert script.options == {}


def test_reproducible_is_short_for_decoding(script: Script) -> None:
    for arguments in (["--reproducible"], ["--decoding", "reproducible=on"]):
        run("rerank", QUERY, "doc", *arguments)
        assert script.options["decoding"] == DecodingOptions(reproducible=True)
    run("rerank", QUERY, "doc", "--reproducible", "--decoding", "reproducible=on,batch_size=2")
    assert script.options["decoding"] == DecodingOptions(reproducible=True, batch_size=2)
    result = run("rerank", QUERY, "doc", "--reproducible", "--decoding", "reproducible=off")
    check_refusal(result, 2, "--reproducible contradicts --decoding reproducible=off")


def test_decoding_changes_how_a_model_decodes_and_nothing_that_it_says(model: Path) -> None:
    told = [
        run("rerank", QUERY, *DOCS, "-m", model, "--max-new-tokens", 6, "--json", "--decoding", text).objects
        for text in ("", "speculate=off,share_prefixes=off,pack=off,batch_size=1,page_size=16")
    ]
    for one, other in zip(*told, strict=True):
        assert one["log_odds"] == pytest.approx(other["log_odds"], abs=1e-4)
        assert (one["chain"], one["index"]) == (other["chain"], other["index"])


def test_info_counts_the_ids_of_a_marker_in_pieces(checkpoint: Callable[..., Path]) -> None:
    facts = run("info", checkpoint("pieces"), "--json").objects[0]
    assert len(facts["close_ids"]) > 1
    assert facts["bos_ids"] == []


def test_info_of_a_model_with_answers_of_its_own(checkpoint: Callable[..., Path], without_answers: Path) -> None:
    """A reranker that says yes or no."""
    folder = checkpoint("qwen2")
    facts = run("info", folder, "--json", "--marker", "true= yes", "--marker", "false= no").objects[0]
    tokenizer = loading.open_checkpoint(folder).tokenizer
    assert facts["true_id"] == tokenizer(" yes", add_special_tokens=False).input_ids[0]
    assert facts["false_id"] == tokenizer(" no", add_special_tokens=False).input_ids[0]
    assert run("info", without_answers, "--marker", "true=a", "--marker", "false=b").code == 0
    check_refusal(run("info", folder, "--marker", "yes"), 2, "NAME is one of think, close, wait, true, false")


def test_info_for_people_names_the_same_facts(model: Path) -> None:
    facts, result = run("info", model, "--json").objects[0], run("info", model)
    assert result.code == 0
    for name in facts:
        assert name.replace("_", " ") in result.out
    assert f"{facts['parameters']:,}" in result.out


def test_info_does_not_read_weights(model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        content = b"" if file.suffix == ".safetensors" else file.read_bytes()
        (tmp_path / file.name).write_bytes(content)
    assert run("info", tmp_path).code == 0


def test_info_exits_with_3_where_the_contract_is_not_met(without_answers: Path) -> None:
    result = run("info", without_answers, "--json")
    assert result.code == 3
    assert result.objects[0]["layers"] == 2
    assert "start with the same token" in result.objects[0]["contract_error"]
    assert "does not meet the prompt contract" in result.err


def test_info_of_what_is_no_checkpoint(tmp_path: Path) -> None:
    check_refusal(run("info", tmp_path), 3, "config.json")


def test_info_without_a_name_is_about_the_model_that_ships(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "EMBEDDED_MODEL", model)
    assert run("info", "--json").objects[0]["model"] == str(model)


# ---- demo ------------------------------------------------------------------------------------------------------------


def test_demo_ranks_the_sample_and_measures_it(script: Script) -> None:
    collection, bm25 = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    qrels = {query: collection.qrels[query] for query in list(bm25)[:3]}
    grades = [qrels[query].get(document, 0) for query in qrels for document in bm25[query]]
    script.log_odds = [float(grade) for grade in grades]  # a perfect judge
    result = run("demo", "--queries", 3, "--max-new-tokens", 9, "--batch-size", 4)
    perfect = {query: {document: float(qrels[query].get(document, 0)) for document in bm25[query]} for query in qrels}
    assert result.code == 0
    assert "demonstration model, not a reranker" in result.err
    given = {name: value for name, value in script.options.items() if value is not None}
    assert given == {"max_new_tokens": 9, "num_gpus": 1, "decoding": DecodingOptions(batch_size=4)}
    assert len(script.pairs) == 3 * 20
    for query in list(qrels)[:2]:
        assert collection.queries[query] in result.out
    assert f"<think>\n{script.chain.strip()}\n</think>\ntrue, score " in result.out
    assert result.out.count("<think>") == 1, "one whole chain"
    figures = demo_figures(result.out)
    assert figures["BM25"] == pytest.approx(ndcg(qrels, {query: bm25[query] for query in qrels}), abs=1e-4)
    assert figures["reranked"] == pytest.approx(ndcg(qrels, perfect), abs=1e-4)
    assert figures["at random"] < figures["BM25"] < figures["reranked"]
    assert "--model jhu-clsp/rank1-0.5b" in result.out.splitlines()[-1]


def test_what_to_type_next_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "of mine" / ".venv" / "bin" / "rank1-hf"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o755)
    other = tmp_path / "elsewhere" / "rank1-hf"
    other.parent.mkdir()
    shutil.copy(script, other)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(script.parent))
    for folder, path, expected in [
        (tmp_path, script.parent, "rank1-hf"),
        (script.parents[2], other.parent, ".venv/bin/rank1-hf"),
        (script.parent, "/nowhere", "./rank1-hf"),
        (Path("/"), "/nowhere", shlex.quote(str(script).removeprefix("/"))),
    ]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
        assert options.program() == expected
        assert subprocess.check_output(["/bin/sh", "-c", options.program()], text=True) == "it runs\n"


def demo_figures(out: str) -> dict[str, float]:
    rows = re.findall(r"^  (at random|BM25|reranked) +(\d\.\d{4})$", out, re.MULTILINE)
    return {name: float(value) for name, value in rows}


def test_demo_keeps_the_order_of_passages_that_score_the_same(script: Script) -> None:
    figures = demo_figures(run("demo", "--queries", 2).out)
    assert figures["BM25"] == figures["reranked"]


def test_demo_puts_passages_that_cannot_be_judged_last(script: Script) -> None:
    script.log_odds = [None] * 20
    result = run("demo", "--queries", 1)
    assert "not judged: 20 passages, the first since the logits are not finite" in result.out
    assert "<think>" not in result.out


def test_demo_runs_with_a_model(model: Path) -> None:
    result = run("demo", "--queries", 1, "--max-new-tokens", 2, "--model", model)
    assert result.code == 0
    assert "rank   score  tokens thought  passage" in result.out
    assert len(demo_figures(result.out)) == 3
    assert "ships with the package" not in result.out
    assert f"--model {model}" in result.out


def test_what_was_judged_before_an_error_is_printed_and_the_error_is_not_hidden(script: Script) -> None:
    script.error = RuntimeError("CUDA error: device-side assert triggered")
    arguments = ["rerank", QUERY, *DOCS, "--json"]
    assert CliRunner().invoke(cli.app, arguments).exception is script.error
    vars(script.error)["judgments"] = [script._judgment(2, 1.0), script._judgment(0, 2.0)]
    result = CliRunner().invoke(cli.app, arguments)
    assert [json.loads(line)["index"] for line in result.stdout.splitlines()] == [0, 2]
    assert "an error ended the call: 2 of 3 passages were judged" in result.stderr
    assert result.exception is script.error


def test_demo_interrupted_shows_what_was_finished_and_measures_nothing(script: Script) -> None:
    script.interrupt_after = 35
    result = run("demo", "--queries", 2)
    assert result.code == 130
    assert "Query:" in result.out
    assert "nDCG" not in result.out


def test_demo_without_ir_measures_names_the_extra(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    monkeypatch.delitem(sys.modules, "rank1_hf.evaluation.metrics")
    check_refusal(run("demo"), 2, "pip install ir-measures")
    assert script.pairs == []


@pytest.mark.parametrize(
    "arguments",
    [("judge", "{}", "-o", "{}/out"), ("verify", "{}"), ("rerank", QUERY, "-f", "{}"), ("explain", QUERY, "-f", "{}")],
)
def test_a_folder_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(*(part.format(tmp_path) for part in arguments))
    assert result.code == 2
    assert "is a directory" in " ".join(result.err.split())
    assert not (tmp_path / "out").exists()


# ---- how soon --------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    commands = [
        "judge nowhere.jsonl -o out",
        "verify nowhere.jsonl",
        "compare nowhere nowhere",
        "explain --judgments nowhere --html page.html",
        "explain query passage --quantization 5bit",
        "rerank query --file nowhere.txt",
        "rerank query passage --dtype float17",
        "serve --decoding graphs=maybe",
    ]
    program = (
        "import sys; from rank1_hf.commands.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    sys.argv = ['rank1-hf', *command.split()]\n"
        "    try: main()\n"
        "    except SystemExit as exit: print(exit.code, sorted({'torch', 'transformers'} & set(sys.modules)), command)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, *commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"2 [] {command}" for command in commands]
    assert [line.startswith("rank1-hf: ") for line in done.stderr.splitlines()] == [True] * len(commands)
