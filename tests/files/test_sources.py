"""Collections from folders, `datasets` and `ir_datasets`: the same content, read from each."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rank1_hf.files.inputs import Document, InputError
from rank1_hf.files.sources import Source, open_source
from tests.evaluation.repository import write_repository

QUERIES = [{"_id": "q1", "text": "what?"}, {"_id": "q2", "text": "who?"}]
CORPUS = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "title": "", "text": "two"}]
QRELS = [{"query-id": "q1", "corpus-id": "d1", "score": 2}]
RANKED = [{"query-id": "q1", "corpus-ids": ["d2", "d1"]}]


def refuse(problem: InputError) -> None:
    raise AssertionError(problem)


def check(source: Source) -> None:
    assert source.queries(refuse) == {"q1": "what?", "q2": "who?"}
    assert list(source.documents(refuse)) == [Document("one", "T", "d1"), Document("two", "", "d2")]
    assert source.qrels() == {"q1": {"d1": 2}}


def write_jsonl(path: Path, rows: list[dict]) -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_beir_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    assert open_source(str(tmp_path)).qrels() is None
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    source = open_source(str(tmp_path), split="dev")
    check(source)
    assert source.run() is None


def save_to_disk(path: Path, rows: list[dict]) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(path)


def save_parquet(path: Path, rows: list[dict]) -> None:
    datasets = pytest.importorskip("datasets")
    path.mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(path / "test.parquet")


@pytest.mark.parametrize("save", [save_to_disk, save_parquet])
def test_a_dataset_on_disk(tmp_path: Path, save: Callable[[Path, list[dict]], None]) -> None:
    for part, rows in (("queries", QUERIES), ("corpus", CORPUS), ("default", QRELS), ("top_ranked", RANKED)):
        save(tmp_path / part, rows)
    source = open_source(str(tmp_path))
    check(source)
    run = source.run()
    assert run is not None
    assert list(run["q1"]) == ["d2", "d1"]
    assert run["q1"]["d2"] > run["q1"]["d1"]
    save(tmp_path / "instruction", [{"query-id": "q2", "instruction": "Name one."}])
    queries = open_source(str(tmp_path)).queries(refuse)
    assert queries == {"q1": "what?", "q2": {"text": "who?", "instruction": "Name one."}}


@pytest.mark.parametrize("naming", ["{content}", "{content}-fas", "fas-{content}"])
def test_a_repository_of_the_hub(tmp_path: Path, naming: str) -> None:
    """A downloaded one, which `datasets` streams by its configs, as it does over the network."""
    pytest.importorskip("datasets")
    qrels = "default" if naming != "fas-{content}" else "qrels"  # as MTEB's two layouts of subsets have them
    parts = {"corpus": CORPUS, "queries": QUERIES, qrels: QRELS, "top_ranked": RANKED}
    splits = {qrels: "test"}
    write_repository(
        tmp_path, {naming.format(content=name): (splits.get(name, name), rows) for name, rows in parts.items()}
    )
    source = open_source(str(tmp_path), subset=None if naming == "{content}" else "fas")
    check(source)
    run = source.run()
    assert run is not None
    assert list(run["q1"]) == ["d2", "d1"]
    said = "has no subsets, and so no 'fsa'" if naming == "{content}" else "--subset must be one of fas, not 'fsa'; did"
    with pytest.raises(InputError, match=said):
        open_source(str(tmp_path), subset="fsa")
    if naming == "{content}":
        check(open_source(str(tmp_path), subset="fsa", of_run=True))
    else:
        with pytest.raises(InputError, match=r"--subset must be one of fas$"):
            open_source(str(tmp_path))


def test_a_collection_of_the_hub_says_how_to_keep_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["corpus", "queries"])
    with caplog.at_level("INFO", "rank1_hf"):
        open_source("some/collection")
    assert "hf download some/collection --repo-type dataset --local-dir FOLDER" in caplog.text


def test_a_home_folder_may_stand_in_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_jsonl(tmp_path / "beir" / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "beir" / "corpus.jsonl", CORPUS)
    assert open_source("~/beir").queries(refuse) == {"q1": "what?", "q2": "who?"}


def test_subsets_are_for_datasets_only(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    for name in (str(tmp_path), "ir_datasets:some"):
        with pytest.raises(InputError, match="has no subsets"):
            open_source(name, subset="fas")


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for part, rows in (("queries", QUERIES), ("corpus", CORPUS)):
        save_to_disk(tmp_path / part, rows)
    for split in ("validation", "train"):
        write_jsonl(tmp_path / "qrels" / f"{split}.jsonl", QRELS)
    assert open_source(str(tmp_path), split="train").qrels() == {"q1": {"d1": 2}}
    source = open_source(str(tmp_path))  # whose judgments may come from elsewhere
    with pytest.raises(InputError, match=r"qrels: --split must be one of (train|validation), \w+$"):
        source.qrels()
    for split, meant in (("valid", "not 'valid'; did you mean 'validation'"), ("x", "not 'x'$")):
        with pytest.raises(InputError, match=rf"qrels: --split must be one of (train|validation), \w+, {meant}"):
            open_source(str(tmp_path), split=split)


def test_the_only_split_is_taken_where_none_was_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for part, rows in (("queries", QUERIES), ("corpus", CORPUS)):
        save_to_disk(tmp_path / part, rows)
    for part, rows in (("qrels", QRELS), ("top_ranked", RANKED)):
        write_jsonl(tmp_path / part / "train.jsonl", rows)
    check(open_source(str(tmp_path)))
    check(open_source(str(tmp_path), split="train"))
    for part in ("qrels", "top_ranked"):
        with pytest.raises(InputError, match=f"{part}: --split must be one of train, not 'test'"):
            open_source(str(tmp_path), split="test")
        shutil.rmtree(tmp_path / part)
    save_to_disk(tmp_path / "qrels", QRELS)  # of no split
    check(open_source(str(tmp_path), split="test"))
    with pytest.raises(InputError, match="qrels: --split must be one of test, not 'dev'"):
        open_source(str(tmp_path), split="dev")
    check(open_source(str(tmp_path), split="dev", of_run=True))


def test_splits_of_a_beir_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    with pytest.raises(InputError, match="no qrels, and so no split 'dev'; leave out --split"):
        open_source(str(tmp_path), split="dev")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    for split in (None, "test"):
        check(open_source(str(tmp_path), split=split))
    with pytest.raises(InputError, match=r"qrels of no split, in qrels\.tsv, and so no split 'dev'"):
        open_source(str(tmp_path), split="dev")
    check(open_source(str(tmp_path), split="dev", of_run=True))  # the split of a run that has several
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    check(open_source(str(tmp_path)))
    assert open_source(str(tmp_path), split="dev").qrels() == {"q1": {"d1": 1}}
    for split in ("dve", "../qrels", "train"):
        with pytest.raises(InputError, match=f"--split must be one of dev, not '{split}'"):
            open_source(str(tmp_path), split=split, of_run=split == "train").qrels()


def test_what_is_wrong_with_a_row_costs_no_other(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "corpus", [{"_id": "d1", "text": None}, {"_id": "d2", "text": "two"}])
    problems: list[InputError] = []
    assert list(open_source(str(tmp_path)).documents(problems.append)) == [Document("two", "", "d2")]
    assert "corpus, row 1" in str(*problems)


def test_an_id_of_ir_datasets(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("d1\tone\nd2\ttwo\n")
    (tmp_path / "queries.tsv").write_text("q1\twhat?\nq2\twho?\n")
    (tmp_path / "qrels").write_text("q1 0 d1 2\n")
    dataset = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels"),
    )
    ir_datasets.registry.register("rank1-test", dataset)
    source = open_source("ir_datasets:rank1-test")
    assert source.queries(refuse) == {"q1": "what?", "q2": "who?"}
    assert list(source.documents(refuse)) == [Document("one", "", "d1"), Document("two", "", "d2")]
    assert source.qrels() == {"q1": {"d1": 2}}
    assert source.run() is None


def test_queries_of_ir_datasets_that_have_no_default_text() -> None:
    """As BRIGHT's, whose other fields hold the answer."""
    ir_datasets = pytest.importorskip("ir_datasets")

    class Query(NamedTuple):
        query_id: str
        text: str
        gold_answer: str

    class Queries(ir_datasets.formats.BaseQueries):
        def queries_iter(self) -> Iterator[Query]:
            yield Query("q1", "what?", "that")

    dataset = ir_datasets.Dataset(Queries(), ir_datasets.formats.BaseDocs())
    ir_datasets.registry.register("rank1-test-plain", dataset)
    assert open_source("ir_datasets:rank1-test-plain").queries(refuse) == {"q1": "what?"}


def test_a_name_that_means_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*nothing"):
        open_source(str(tmp_path / "nothing"))
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(InputError, match=r"corpus\.json is a file; give the folder"):
        open_source(str(tmp_path / "corpus.json"))
    pytest.importorskip("ir_datasets")
    with pytest.raises(InputError, match="ir_datasets has no dataset 'no-such-set'"):
        open_source("ir_datasets:no-such-set")
    with pytest.raises(InputError, match="did you mean 'beir/scifact/test'"):
        open_source("ir_datasets:beir/scifact/tset")
    with pytest.raises(InputError, match=r"beir has no documents of its own; the id must be one of beir/.* more$"):
        open_source("ir_datasets:beir")
    with pytest.raises(InputError, match=r"takes no --split: .* an id of its own, as ir_datasets:beir/scifact/train"):
        open_source("ir_datasets:beir/scifact/test", split="train")
    open_source("ir_datasets:beir/scifact/test", split="train", of_run=True)
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match=r"corpus\.jsonl nor a config or folder named corpus \(it has: none\)"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="cannot load nobody/nothing, which is no folder here, from the hub"):
        open_source("nobody/nothing")  # the tests are offline


@pytest.mark.parametrize("ending", ["tsv", "csv", "tsv.gz", "parquet"])
def test_a_table_in_the_place_of_json_lines_is_named(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("datasets")
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.{ending}").write_bytes(b"_id\ttext\n1\tone\n")
    said = rf'; corpus\.{ending} is not read: write corpus\.jsonl from it, JSON Lines with "_id", "title" and "text"$'
    with pytest.raises(InputError, match=said):
        open_source(str(tmp_path))
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    said = rf'has no queries\.jsonl; queries\.{ending} is not read: write queries\.jsonl from it, .* "_id" and "text"$'
    with pytest.raises(InputError, match=said):
        open_source(str(tmp_path)).queries(refuse)


@pytest.mark.parametrize("grade", [0.9, None, "high", True])
def test_a_grade_that_is_no_whole_number_is_named_with_dataset_part_and_row(tmp_path: Path, grade: object) -> None:
    pytest.importorskip("datasets")
    qrels = [{"query-id": "q1", "corpus-id": "d2", "score": grade if isinstance(grade, str | bool) else 1.0}]
    qrels.append({"query-id": "q1", "corpus-id": "d1", "score": grade})
    for part, rows in (("queries", QUERIES), ("corpus", CORPUS), ("default", qrels)):
        save_parquet(tmp_path / part, rows)
    with pytest.raises(InputError, match=rf"{tmp_path.name}, default, row [12]: a grade must be a whole number"):
        open_source(str(tmp_path)).qrels()


def test_other_names_are_understood_and_a_missing_one_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    queries = [{"query_id": 1.0, "query": "what?"}, {"query_id": 2.0, "query": "who?"}]
    corpus = [{"docid": 7, "contents": "one"}, {"docid": 8, "contents": "two"}]
    parts = {"queries": queries, "corpus": corpus, "default": [{"query_id": 1, "corpus_id": 7, "relevance": 2.0}]}
    for part, rows in parts.items():
        save_parquet(tmp_path / part, rows)
    source = open_source(str(tmp_path))
    assert source.queries(refuse) == {"1": "what?", "2": "who?"}
    assert list(source.documents(refuse)) == [Document("one", "", "7"), Document("two", "", "8")]
    assert source.qrels() == {"1": {"7": 2}}
    save_parquet(tmp_path / "qrels", [{"query_id": 1, "corpus_id": 7, "stars": 2}])
    (tmp_path / "default" / "test.parquet").unlink()
    (tmp_path / "default").rmdir()
    with pytest.raises(InputError, match=r"qrels, row 1: no \"relevance\" .*there is 'query_id', 'corpus_id', 'stars'"):
        open_source(str(tmp_path)).qrels()
