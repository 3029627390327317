"""The documents of a run, kept on disk."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from rank1_hf.files.documents import DocumentStore
from rank1_hf.files.inputs import Document
from rank1_hf.inputs.textfiles import InputError, Skip, refuse

CORPUS = [
    Document("one", "T", "d1", "line 1"),
    Document("lone \ud800 surrogate", "", "d2"),
    Document("three", "", "d3"),
    Document("one again", "", "d1", "line 4"),
]


def ignore(problem: InputError) -> None:
    """What is told elsewhere."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "documents.sqlite"


def store(
    path: Path, corpus: list[Document], wanted: str = "d1 d2", named: str = "d1 d2 d3", skip: Skip = ignore
) -> DocumentStore:
    return DocumentStore(path, corpus, wanted=set(wanted.split()), named=set(named.split()), skip=skip)


def test_equal_repetitions_of_a_document_pass(path: Path) -> None:
    assert store(path, [CORPUS[0], CORPUS[1], CORPUS[0]], skip=refuse).get("d1") == CORPUS[0]


def test_what_is_wanted_is_kept_as_it_is_and_the_first_of_equal_ids_counts(path: Path) -> None:
    problems: list[InputError] = []
    kept = store(path, CORPUS, skip=problems.append)
    assert kept.get("d1") == CORPUS[0]
    assert [str(problem) for problem in problems] == [
        "line 4: document d1 with another content than at line 1, which counts"
    ]
    assert kept.get("d2") == CORPUS[1]
    assert kept.get("d3") is None
    assert kept.get("unknown") is None
    assert kept.n_kept == 3


def test_what_a_crash_left_is_replaced_and_nothing_stays(path: Path) -> None:
    path.write_bytes(b"half a database")
    kept = store(path, CORPUS)
    kept.close()
    assert not path.exists()


def test_where_there_is_no_room_an_oserror_says_so_and_nothing_stays(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = [Document("x" * 10_000, "", f"d{n}") for n in range(100)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot keep the documents"):
            DocumentStore(path, large, wanted={d.id for d in large}, named={d.id for d in large})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()


def test_the_digest_is_about_what_is_named_wanted_or_not(path: Path) -> None:
    digest = store(path, CORPUS).digest
    assert store(path, [*CORPUS, Document("more", "", "d9")], wanted="d3").digest == digest
    assert store(path, [*CORPUS[:2], Document("other", "", "d3"), CORPUS[3]]).digest != digest
    assert store(path, CORPUS, named="d1 d2").digest != digest


def test_a_corpus_is_read_one_document_at_a_time(path: Path) -> None:
    alive = 0

    class Counted(str):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def corpus() -> Iterator[Document]:
        nonlocal alive
        for number in range(1000):
            alive += 1
            assert alive < 10
            yield Document(Counted("text"), "", str(number))

    kept = DocumentStore(path, corpus(), wanted={"7", "999"}, named={"7", "999"})
    assert kept.get("999") == Document("text", "", "999")
