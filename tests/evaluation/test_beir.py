"""BEIR folders."""

from pathlib import Path

import pytest

from rank1_hf.evaluation.beir import SAMPLE, read_beir, read_qrels
from rank1_hf.evaluation.trec import read_run
from rank1_hf.inputs import Document, InputError

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "what?"}\n')
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "T", "text": "one"}\n{"_id": "d2", "text": "two", "metadata": {}}\n'
    )
    (tmp_path / "qrels.tsv").write_text(f"{HEADER}q1\td1\t2\nq1\td2\t0\n")
    return tmp_path


def test_a_folder_is_read(folder: Path) -> None:
    collection = read_beir(folder)
    assert collection.queries == {"q1": "what?"}
    assert collection.corpus == {"d1": Document("one", "T", "d1"), "d2": Document("two", "", "d2")}
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}}


def test_the_judgments_of_a_split_come_first(folder: Path) -> None:
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text(f"{HEADER}q1\td2\t1\n")
    assert read_beir(folder, split="dev").qrels == {"q1": {"d2": 1}}
    assert read_beir(folder, split="test").qrels == {"q1": {"d1": 2, "d2": 0}}


@pytest.mark.parametrize("name", ["queries.jsonl", "corpus.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_beir(folder)


@pytest.mark.parametrize(
    "content", [f"{HEADER}q1\td1\thigh\n", f"{HEADER}q1\td1\n", f"{HEADER}q1 d1 1\n", "q1\td1\t1\nq1\td2\t1\n"]
)
def test_a_bad_judgment_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"qrels\.tsv, line 2"):
        read_qrels(path)


def test_the_sample_that_ships_is_whole() -> None:
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    assert list(run) == list(collection.queries)
    for query, scores in run.items():
        assert len(scores) == 20
        assert scores.keys() <= collection.corpus.keys()
        assert any(grade > 0 for grade in collection.qrels[query].values())
