"""The forms of other engines' records, each read for what it says, and what is wrong with one said with its place."""

import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rank1_hf.files.completions import completion_of, read_completions
from rank1_hf.inputs.textfiles import InputError
from rank1_hf.prompts.pair_text import PairError, passage_text

PAIR = {"query": "wings?", "passage": "A wing."}


def test_a_flat_record():
    found = completion_of(
        {
            **PAIR,
            "dataset_prompt": "About FILL_QUERY_HERE",
            "max_output_tokens": 40,
            "completion": " It is",
            "score": 0.9,
        }
        | {"finish": "length", "stop": None, "query_id": 7, "doc_id": "d1", "title": "Wings"},
        "FILE, line 1",
    )
    assert (found.query, found.passage) == ("wings?", {"text": "A wing.", "title": "Wings"})
    assert (found.template, found.n_chain_tokens, found.chain, found.score) == (
        "About FILL_QUERY_HERE",
        40,
        " It is",
        0.9,
    )
    assert (found.is_closed, found.query_id, found.document_id, found.where) == (False, "7", "d1", "FILE, line 1")


@pytest.mark.parametrize(
    ("fields", "is_closed"),
    [
        ({"finish": "stop", "stop": "</think> true"}, True),
        ({"finish": "stop", "stop": None}, False),
        ({"finish_reason": "stop"}, None),
        ({"finish_reason": "length"}, False),
        ({"completion": "So.</think> true"}, True),
        ({"ended": "closed"}, True),
        ({"ended": "eos"}, False),
        ({}, None),
    ],
)
def test_how_a_chain_was_closed(fields: dict, is_closed: bool | None):
    found = completion_of({**PAIR, "completion": "So.", **fields}, "x")
    assert (found.is_closed, found.chain) == (is_closed, "So.")


@pytest.mark.parametrize("title", [None, math.nan, ""])
def test_an_empty_title_is_none(title: object):
    assert completion_of({**PAIR, "title": title}, "x").passage == "A wing."


def test_a_title_that_is_no_text_is_not_passed_over():
    with pytest.raises(PairError, match="the passage's 'title' must be a string"):
        passage_text(completion_of({**PAIR, "title": 3}, "x").passage)


def test_an_output_of_vllm():
    places = [
        {"5": {"logprob": -0.1, "rank": 1, "decoded_token": "So"}},
        {"6": {"logprob": -0.2, "rank": 1, "decoded_token": "</think>"}},
        {
            "8": {"logprob": -0.3, "rank": 1, "decoded_token": " true"},
            "9": {"logprob": -1.5, "decoded_token": " false"},
        },
    ]
    output = {"index": 0, "text": "So", "token_ids": [5, 6, 8], "finish_reason": "stop", "stop_reason": "</think> true"}
    found = completion_of(
        {"request_id": "1", "prompt": "P", "prompt_token_ids": [1, 2], "outputs": [{**output, "logprobs": places}]}, "x"
    )
    assert (found.prompt, found.prompt_ids, found.chain, found.token_ids) == ("P", (1, 2), "So", (5, 6, 8))
    assert (found.is_closed, found.score, found.answers) == (True, None, {8: -0.3, 9: -1.5})


def test_a_completion_and_a_chat_completion_of_openais_api():
    logprobs = {"tokens": ["So", "</think>", " true"], "token_logprobs": [-1, -1, -0.2]}
    logprobs["top_logprobs"] = [{}, {}, {" true": -0.2, " false": -2.0}]
    body = {"object": "text_completion", "usage": {"prompt_tokens": 12}}
    body["choices"] = [{"index": 0, "text": "So</think> true", "finish_reason": "length", "logprobs": logprobs}]
    content = [{"token": token, "logprob": -0.2, "top_logprobs": []} for token in ("</think>",)]
    content.append({"token": " true", "logprob": -0.2, "top_logprobs": [{"token": " false", "logprob": -2.0}]})
    chat = {"choices": [{"message": {"reasoning_content": "So", "content": " true"}, "logprobs": {"content": content}}]}
    for record in (
        {**PAIR, **body},
        {**PAIR, "response": body},
        {**PAIR, "response": {"status_code": 200, "body": body}},
    ):
        found = completion_of(record, "x")
        assert (found.chain, found.is_closed, found.n_prompt_tokens) == ("So", True, 12)
        assert found.answers == {" true": -0.2, " false": -2.0}
        assert (found.query, found.passage) == ("wings?", "A wing.")
    found = completion_of({**PAIR, **chat}, "x")
    assert (found.chain, found.is_closed, found.answers) == ("So", True, {" true": -0.2, " false": -2.0})


def test_judgments_of_evaluate_have_ids_for_texts(tmp_path: Path):
    judgment = {
        "query": "q1",
        "document": "d1",
        "score": None,
        "log_odds": None,
        "label": None,
        "chain": "",
        "ended": None,
    }
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"journal": 1, "settings": {}}) + "\n" + json.dumps(judgment | {"error": "too long"}))
    (found,) = read_completions(journal)
    assert (found.query, found.query_id, found.document_id, found.error) == (None, "q1", "d1", "too long")
    assert math.isnan(found.score)


def test_names_of_ones_own_as_paths():
    record = {"q": {"text": "wings?"}, "p": ["A wing."], "out.text": "So.", "s": "0.5"}
    names = {"query": "q.text", "passage": "p.0", "completion": "out.text", "score": "s"}
    found = completion_of(record, "x", names)
    assert (found.query, found.passage, found.chain, found.score) == ("wings?", "A wing.", "So.", 0.5)
    with pytest.raises(InputError, match=r"no 'p\.3'"):
        completion_of(record, "x", {"passage": "p.3"})
    with pytest.raises(InputError, match="no 'colour' to map"):
        list(read_completions(Path("x.jsonl"), {"colour": "p"}))


def test_jsonl_gzipped_jsonl_and_parquet_are_read_alike(tmp_path: Path):
    records = [
        {**PAIR, "completion": "So.", "score": 0.25, "token_ids": [1, 2]},
        {**PAIR, "completion": "No.", "score": None},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        first, second = read_completions(tmp_path / name)
        assert (first.chain, first.score, first.token_ids) == ("So.", 0.25, (1, 2))
        assert second.chain == "No."
        assert math.isnan(second.score)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (["query"], "must be an object, not list"),
        ({**PAIR, "completion": 7}, '"completion" must be a string, not 7'),
        ({**PAIR, "completion": "So.", "score": "high"}, "a score must be a number, not 'high'"),
        ({**PAIR, "completion": "So.", "token_ids": [1, -2]}, "must be a list of token ids"),
        ({**PAIR, "completion": "So.", "max_tokens": 1.5}, "must be a whole number, not 1.5"),
        ({**PAIR, "completion": "So.", "logprobs": [7]}, '"logprobs" are neither'),
    ],
)
def test_what_is_wrong_with_a_record_is_said_with_its_place(tmp_path: Path, record: object, reason: str):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{json.dumps(record)}\nnot json\n{json.dumps({**PAIR, 'completion': 'So.'})}\n")
    problems: list[InputError] = []
    (good,) = read_completions(path, skip=problems.append)
    assert good.chain == "So."
    assert reason in str(problems[0])
    assert [str(problem).startswith(f"{path}, line {n}") for n, problem in enumerate(problems, start=1)] == [True, True]


def test_a_parquet_file_that_is_none(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_text("no")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read"):
        list(read_completions(path))
