"""BEIR folders."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from rank1_hf.files.beir import SAMPLE, read_beir, read_queries, stream_documents
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.files.records import check_documents
from rank1_hf.files.sources import open_source
from rank1_hf.files.trec import read_run
from rank1_hf.inputs.textfiles import Skip

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


def test_a_split_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    source = open_source(str(folder))
    assert source.qrels() is None
    (folder / "qrels" / "train.tsv").write_text(f"{HEADER}q1\td2\t1\n")
    (folder / "qrels" / "dev.tsv.gz").write_bytes(gzip.compress(f"{HEADER}q1\td2\t1\n".encode()))
    for read in (source.qrels, lambda: read_beir(folder)):
        with pytest.raises(InputError, match=r"qrels: --split must be one of dev, train$"):
            read()
    assert open_source(str(folder), split="dev").qrels() == {"q1": {"d2": 1}}


def test_the_only_split_is_taken_where_none_was_asked_for(folder: Path) -> None:
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv.gz").write_bytes(gzip.compress(f"{HEADER}q1\td2\t1\n".encode()))
    assert open_source(str(folder)).qrels() == {"q1": {"d1": 2, "d2": 0}}  # in qrels.tsv, of no split
    (folder / "qrels.tsv").unlink()
    assert open_source(str(folder)).qrels() == {"q1": {"d2": 1}}
    with pytest.raises(InputError, match=r"qrels: --split must be one of dev, not 'test'$"):
        open_source(str(folder), split="test")


@pytest.mark.parametrize("name", ["queries.jsonl", "corpus.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_beir(folder)


def test_a_corpus_is_streamed_past_what_is_wrong_with_it(folder: Path) -> None:
    bad = [b"{", b"\xff\xfe", b'{"_id": "d3"}', b'{"_id": "d4", "text": 5}', b"[]", b"[" * 100_000]
    with (folder / "corpus.jsonl").open("ab") as file:
        file.write(b"\n".join([*bad, b'{"_id": 5, "text": "five"}', b""]))
    problems: list[InputError] = []
    documents = list(stream_documents(folder, problems.append))
    assert [document.id for document in documents] == ["d1", "d2", "5"]
    assert [f"line {number}:" in str(problem) for number, problem in enumerate(problems, start=3)] == [True] * len(bad)


def test_a_corpus_with_another_name_for_its_text_is_refused_at_once(folder: Path) -> None:
    seen: list[InputError] = []

    def read(skip: Skip) -> Iterator[Document]:
        def note(problem: InputError) -> None:
            seen.append(problem)
            skip(problem)

        return stream_documents(folder, note)

    lines = ['{"_id": "d1", "title": "T", "texts": "one"}\n'] * 1500
    (folder / "corpus.jsonl").write_text("".join(lines) + "nonsense\n")
    with pytest.raises(InputError, match=r"line 1: .*it has '_id', 'title', 'texts'\); did you mean 'texts'\?"):
        check_documents(read)
    assert len(seen) == 1000  # and no more is read
    (folder / "corpus.jsonl").write_text("".join(lines[:999]) + '{"_id": "d2", "text": "two"}\n')
    check_documents(read)
    (folder / "corpus.jsonl").write_text("")
    with pytest.raises(InputError, match="no documents"):
        check_documents(read)


def test_queries_may_have_instructions(folder: Path) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q2", "text": "who?", "instruction": "Name one."}\nnonsense\n')
    problems: list[InputError] = []
    queries = read_queries(folder, problems.append)
    assert queries == {"q1": "what?", "q2": {"text": "who?", "instruction": "Name one."}}
    assert "queries.jsonl, line 3" in str(*problems)


def test_the_sample_that_ships_is_whole() -> None:
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    assert list(run) == list(collection.queries)
    for query, scores in run.items():
        assert len(scores) == 20
        assert scores.keys() <= collection.corpus.keys()
        assert any(grade > 0 for grade in collection.qrels[query].values())


def test_a_gzipped_folder_is_read(folder: Path) -> None:
    expected = read_beir(folder)
    for file in list(folder.iterdir()):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert read_beir(folder) == expected


def test_a_query_with_two_texts_is_refused_with_its_line_and_an_equal_one_passes(folder: Path) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q1", "text": "what?"}\n')
        file.flush()
        assert read_beir(folder).queries == {"q1": "what?"}
        file.write('{"_id": "q1", "text": "what?", "instruction": "Name one."}\n')
    with pytest.raises(InputError, match=r"queries\.jsonl, line 3: query q1 for the second time"):
        read_queries(folder, lambda problem: None)


def test_optional_fields_that_are_nan_or_null_are_none_and_ids_are_what_they_are(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text(
        '{"_id": 1.0, "title": NaN, "text": "a"}\n{"docid": 2, "title": null, "contents": "b"}\n'
        '{"text": "no id"}\n{"_id": "d4", "text": NaN}\n'
    )
    (folder / "queries.jsonl").write_text('{"qid": 7.0, "query": "what?", "instruction": NaN}\n')
    problems: list[InputError] = []
    documents = list(stream_documents(folder, problems.append))
    assert documents == [Document("a", "", "1"), Document("b", "", "2")]
    assert read_queries(folder, problems.append) == {"7": "what?"}
    assert ["line 3" in str(problems[0]), "line 4" in str(problems[1]), len(problems)] == [True, True, 2]
