"""The head of a page: how its runs were made, and nothing of who made them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.viewing.provenance import provenance_table, without_folders

ENVIRONMENT = {
    "environment": 1,
    "command": ["rank1-hf", "evaluate", "--corpus", "/home/alice/data/sci fact", "--task", "SciFact"],
    "options": {
        "model": "/home/alice/models/rank1-7b",
        "revision": "v1",
        "quantization": "4bit",
        "run": "/home/alice/bm25.trec",
        "only_judged_queries": True,
        "top_k": 20,
        "prompt_template": "@/home/alice/template.txt",
        "reproducible": False,
        "run_format": "trec",
    },
    "limits": {"max_length": 16000, "max_new_tokens": 8192},
    "versions": {"numpy": "2.3", "python": "3.12", "rank1_hf": "0.1.0", "torch": "2.13.0", "transformers": "5.17"},
    "device": {"type": "cpu", "name": "AMD EPYC", "capability": "AVX512", "threads": 2},
    "weights": "sha256:12ab",
    "dtype": "bfloat16",
    "date": "2026-11-28T19:30:05+01:00",
    "earlier": [],
}


def test_everything_that_a_result_depends_on_is_in_the_table():
    table = provenance_table([ENVIRONMENT | {"earlier": [{"dtype": "float16"}]}], ["this run"])
    assert table is not None
    assert dict(table.rows) == {
        "model": "rank1-7b",
        "revision": "v1",
        "weights": "sha256:12ab",
        "dtype": "bfloat16",
        "quantization": "4bit",
        "device": "cpu, AMD EPYC, AVX512, 2 threads",
        "started": "2026-11-28 18:30 UTC",
        "command": "rank1-hf evaluate --corpus 'sci fact' --task SciFact",
        "options": "run bm25.trec, only-judged-queries, top-k 20, prompt-template @template.txt, "
        "max-length 16000, max-new-tokens 8192",
        "versions": "rank1_hf 0.1.0, torch 2.13.0, transformers 5.17, numpy 2.3, python 3.12",
        "also made": "in part with other versions, options or devices: see environment.json",
    }


def test_two_runs_have_a_column_each_also_where_one_is_not_known():
    known = {name: value for name, value in ENVIRONMENT.items() if name not in ("options", "date")}
    table = provenance_table([None, known], ["a", "b"])
    assert table is not None
    assert (table.columns, table.rows[0]) == (("", "a", "b"), ("model", "", "the demonstration model of the package"))
    assert "started" not in {row[0] for row in table.rows}
    assert provenance_table([None, None], ["a", "b"]) is provenance_table([], []) is None


@pytest.mark.parametrize(
    "odd", [{}, {"options": [], "versions": 7, "device": "cpu", "date": 3, "command": "x", "limits": 5}]
)
def test_what_is_odd_does_no_harm(odd: dict):
    table = provenance_table([odd], ["a"])
    assert table is not None
    assert [row[0] for row in table.rows] == ["model"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/data/corpus.jsonl", "corpus.jsonl"),
        ("/home/alice/data/", "data"),
        ("/home/alice", "~"),
        ("/Users/alice/", "~"),
        ("~", "~"),
        ("~alice", "~"),
        ("~/runs/bf16", "bf16"),
        ("~alice/runs/bf16", "bf16"),
        ("C:\\Users\\alice\\run.trec", "run.trec"),
        ("c:/Users/alice/run.trec", "run.trec"),
        ("\\\\server\\alice\\run.trec", "run.trec"),
        ("../../alice/run.trec", "run.trec"),
        ("runs/../../alice/run.trec", "run.trec"),
        ("home/alice/run.trec", "run.trec"),
        ("..", "…"),
        ("@/home/alice/template.txt", "@template.txt"),
        ("cache=/home/alice/cache", "cache=cache"),
        ("file:///home/alice/x", "x"),
        ("/home/alice smith/my runs/x", "x"),
        ("as in /home/alice/notes.txt, please", "as in notes.txt, please"),
        ("['/home/alice/a', '/mnt/alice/b']", "['a', 'b']"),
        ("C:\\Users\\alice\\x is it", "x is it"),
        ("jhu-clsp/rank1-7b", "jhu-clsp/rank1-7b"),
        ("ir_datasets:beir/scifact/test", "ir_datasets:beir/scifact/test"),
        ("results/bf16", "results/bf16"),
        ("3/16", "3/16"),
        ("FILL_QUERY_HERE and/or its opposite </think>", "FILL_QUERY_HERE and/or its opposite </think>"),
        ("sha256:12ab", "sha256:12ab"),
        ("", ""),
    ],
)
def test_paths_lose_the_folders_that_tell_who_somebody_is(text: str, shown: str):
    assert without_folders(text) == shown


@given(
    st.lists(st.text(st.characters(categories=["L", "N"], exclude_characters="~"), min_size=1), min_size=1),
    st.sampled_from(["/home/", "/Users/", "~", "C:\\Users\\", "/mnt/homes/", "../", "file:/home/"]),
)
def test_no_user_is_named_however_the_path_goes_on(folders: list[str], start: str):
    separator = "\\" if "\\" in start else "/"
    path = start + separator.join(["Zoë-the-user", *folders])
    assert "Zoë" not in without_folders(path)
