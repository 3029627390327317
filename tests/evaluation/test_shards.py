"""A job divided into shards: which pairs each has, and the files of all of them put together."""

import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.journal import JournalError, lock
from rank1_hf.evaluation.merging import MergeError, merge
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.evaluation.shards import Shard
from rank1_hf.files.inputs import InputError
from rank1_hf.models.loading import open_checkpoint
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.prompts.pair_text import Pair, passage_text
from rank1_hf.prompts.shares import pair_costs
from rank1_hf.results.judgment import Judgment
from tests.evaluation.stub import SETTINGS, Stub, Traced, inputs, results, run, write_collection
from tests.evaluation.tiny import run_tiny

N = 4


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a line that cannot be read in its corpus and one in its queries."""
    folder = write_collection(tmp_path_factory.mktemp("collection"))
    for name in ("corpus.jsonl", "queries.jsonl"):
        with (folder / name).open("a") as file:
            file.write("nonsense\n")
    return folder


def costs(pairs: Iterable[Pair]) -> list[int]:
    return [len(passage_text(passage)) for _, passage in pairs]


def run_shard(collection: Path, output: Path, text: str, stub: Stub | None = None, **more: Any) -> Outcome:
    options = {"measures": ("AP", "nDCG@10"), "costs": costs, "show_progress": False, "shard": Shard.parse(text)} | more
    top_k = options.pop("top_k", 15)
    settings = SETTINGS | options.pop("settings", {})
    return run_job(inputs(collection, top_k), output, settings, lambda: stub or Stub(), **options)


def run_all(collection: Path, folder: Path, n: int = N, **more: Any) -> list[Path]:
    """All shards of a job, counted from 1."""
    folders = [folder / str(number) for number in range(1, n + 1)]
    for number, output in enumerate(folders, start=1):
        assert run_shard(collection, output, f"{number}/{n}", **more).stopped is None
    return folders


@pytest.fixture(scope="module")
def shards(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Not to be written into."""
    return run_all(collection, tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def whole(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job that was never divided."""
    output = tmp_path_factory.mktemp("whole")
    run_shard(collection, output, "1/1", shard=None)
    return output


def indices(folder: Path) -> list[int]:
    return [json.loads(line)["index"] for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]


# ---- which shard -----------------------------------------------------------------------------------------------------


def test_an_array_of_tasks_is_each_shard_once_whether_it_counts_from_0_or_from_1():
    from_one = [Shard.parse(f"{number}/16") for number in range(1, 17)]
    from_zero = [Shard.parse(f"{number}/16") for number in range(16)]
    assert set(from_one) == set(from_zero) == {Shard(number, 16) for number in range(1, 17)}
    assert Shard.parse("0/16") == Shard.parse("16/16")
    assert str(Shard.parse("3/16")) == "3/16"


@pytest.mark.parametrize("text", ["", "3", "/16", "3/", "17/16", "0/0", "-1/16", "1.0/4", "a/b", "1/2/3", "٣/16"])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


def test_shards_are_of_about_as_many_tokens_and_each_pair_is_in_one(collection: Path):
    """Passages of very different lengths, as the embedded model's tokenizer counts them."""
    pairs = [("what?", "wing " * (200 if number % 10 == 0 else 2)) for number in range(300)]
    pairs = [(f"query {number // 30}", f"{text} {number}") for number, (_, text) in enumerate(pairs)]
    encoder = PairEncoder.of(open_checkpoint(), max_new_tokens=8)
    found = pair_costs(pairs, encoder)
    assert found == [len(encoder.encode(*pair).ids) + 8 for pair in pairs]
    places = [Shard(number, 7).places(found) for number in range(1, 8)]
    assert [place for each in places for place in each] == list(range(300))
    for each in places:
        assert abs(sum(found[place] for place in each) - sum(found) / 7) <= max(found)


def test_a_shard_judges_its_own_pairs_and_writes_no_ranking(collection: Path, shards: list[Path]):
    judged = [sorted(indices(folder)) for folder in shards]
    assert sorted(index for each in judged for index in each) == [
        20 * q + place for q in range(6) for place in range(15)
    ]
    for before, after in pairwise(judged):
        assert before[-1] < after[0]
    for folder in shards:
        assert sorted(results(folder)) == ["errors.jsonl", "shard.json"]


# ---- merging ---------------------------------------------------------------------------------------------------------


def test_merged_shards_are_the_files_of_one_job(shards: list[Path], whole: Path, tmp_path: Path):
    outcome = merge(shards, tmp_path)
    assert results(tmp_path) == results(whole)
    (header, *judged), (expected_header, *expected) = (
        (folder / "journal.jsonl").read_bytes().splitlines() for folder in (tmp_path, whole)
    )
    assert (header, sorted(judged)) == (expected_header, sorted(expected))
    assert (outcome.n_pairs, outcome.n_scored, outcome.n_failed, outcome.n_problems) == (90, 90, 0, 2)
    assert [row.measure for row in outcome.metrics] == ["AP", "nDCG@10"]


def test_merged_shards_of_a_traced_job_have_its_belief_curves(collection: Path, tmp_path: Path):
    run_shard(collection, tmp_path / "whole", "1/1", Traced(), shard=None, trace=True)
    folders = run_all(collection, tmp_path / "shards", 2, stub=Traced(), trace=True)
    merge(folders, tmp_path / "merged")
    assert results(tmp_path / "merged") == results(tmp_path / "whole")
    assert '"belief": [{"n_tokens": 0' in (tmp_path / "merged" / "judgments.jsonl").read_text()
    run_shard(collection, tmp_path / "plain", "2/2")
    with pytest.raises(MergeError, match=r'are not of one job .*trace is "sentences" and null'):
        merge([folders[0], tmp_path / "plain"], tmp_path / "mixed")


def test_the_order_of_the_folders_and_one_given_twice_change_nothing(shards: list[Path], whole: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(shards[2])
    given = [*reversed(shards), shards[0], tmp_path / "link", Path(os.path.relpath(shards[1]))]
    for _ in range(2):  # and again into the same folder
        merge(given, tmp_path / "merged")
        assert results(tmp_path / "merged") == results(whole)


@pytest.mark.parametrize("n", [1, 7, 95])
def test_as_many_shards_as_one_likes_also_more_than_pairs(collection: Path, whole: Path, tmp_path: Path, n: int):
    merge(run_all(collection, tmp_path, n), tmp_path / "merged")
    assert results(tmp_path / "merged") == results(whole)


def test_a_merged_job_goes_on_with_more_candidates(collection: Path, shards: list[Path], tmp_path: Path):
    merge(shards, tmp_path)
    more = Stub()
    assert run(collection, tmp_path, more, top_k=18).n_scored == 6 * 18
    assert len(more.seen) == 6 * 3


def test_what_could_not_be_judged_and_what_could_not_be_read_is_told_as_by_one_job(tmp_path: Path):
    class Failing(Stub):
        def judgment(self, index: int, query: str, passage: str) -> Judgment:
            return (
                Judgment.failed(index, "no memory") if "text 7" in passage else super().judgment(index, query, passage)
            )

    folder = write_collection(tmp_path / "collection")
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join([*lines[:3], "{", *lines[4:]]))
    queries = (folder / "queries.jsonl").read_text().splitlines()
    (folder / "queries.jsonl").write_text("\n".join(queries[1:]))
    expected = run_shard(folder, tmp_path / "whole", "1/1", Failing(), shard=None, run_json=True)
    folders = [tmp_path / str(number) for number in range(N)]
    for number, output in enumerate(folders):  # counted from 0
        run_shard(folder, output, f"{number}/{N}", Failing(), run_json=True)
    found = merge(folders, tmp_path / "merged")
    assert found.n_failed == expected.n_failed > 0
    assert found == expected
    assert results(tmp_path / "merged") == results(tmp_path / "whole")
    assert {"errors.jsonl", "run.json"} <= results(tmp_path / "merged").keys()


def test_all_that_is_missing_is_named(collection: Path, shards: list[Path], tmp_path: Path):
    def interrupt(n_judged: int) -> None:
        if n_judged == 5:
            signal.raise_signal(signal.SIGINT)

    stopped = run_shard(collection, tmp_path / "2", f"2/{N}", Stub(before_each=interrupt))
    with pytest.raises(MergeError) as refused:
        merge([shards[0], tmp_path / "2"], tmp_path / "merged")
    said = str(refused.value)
    assert said == (
        "shards 3/4, 4/4 are missing; run evaluate with --shard for each, or give their folders too; "
        f"shard 2/4 in {tmp_path / '2'} ({stopped.n_scored} of {stopped.n_pairs} pairs judged) is not finished; "
        "run its command again"
    )
    assert not (tmp_path / "merged").exists()
    run_shard(collection, tmp_path / "2", f"2/{N}")
    merge([shards[0], tmp_path / "2", *shards[2:]], tmp_path / "merged")


def test_a_shard_in_two_folders_is_refused(collection: Path, shards: list[Path], tmp_path: Path):
    run_shard(collection, tmp_path / "again", f"0/{N}")
    with pytest.raises(MergeError, match=r"shard 4/4 is both in .* and in .*; give one"):
        merge([*shards, tmp_path / "again"], tmp_path / "merged")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {"model": "other"}}, 'model is "stub" and "other"'),
        ({"settings": {"max_new_tokens": 7}}, "max_new_tokens is 256 and 7"),
        ({"top_k": 12}, "top_k is 15 and 12"),
        ({"measures": ("AP",)}, "(measures)"),
        ({"run_json": True}, "(run_json)"),
        ({"costs": lambda pairs: [1 if number < 80 else 50 for number, _ in enumerate(pairs)]}, "gap or overlap"),
    ],
)
def test_shards_of_different_jobs_are_refused(
    collection: Path, shards: list[Path], tmp_path: Path, change: dict[str, Any], said: str
):
    run_shard(collection, tmp_path / "other", f"2/{N}", **change)
    with pytest.raises(MergeError) as refused:
        merge([shards[0], tmp_path / "other", *shards[2:]], tmp_path / "merged")
    assert said in str(refused.value)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("part", ["run.trec", "queries.jsonl", "corpus.jsonl", "qrels.tsv"])
def test_shards_of_different_inputs_are_refused(tmp_path: Path, part: str):
    folder = write_collection(tmp_path / "collection")
    run_shard(folder, tmp_path / "1", "1/2")
    text = (folder / part).read_text()
    if part == "qrels.tsv":
        text = text.replace("\t2\n", "\t3\n")
    (folder / part).write_text(text.replace("d3 ", "d4x ").replace("query 3", "query three").replace("text 3", "other"))
    run_shard(folder, tmp_path / "2", "2/2")
    with pytest.raises(MergeError, match=part.split(".")[0].replace("corpus", "documents")):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")


def test_shards_of_another_number_a_whole_job_and_what_is_none_are_refused(
    collection: Path, shards: list[Path], whole: Path, tmp_path: Path
):
    run_shard(collection, tmp_path / "of 3", "2/3")
    for folders, said in (
        ([shards[0], tmp_path / "of 3"], "one of 4 shards and .* one of 3"),
        ([*shards, whole], "holds a whole job"),
        ([*shards, tmp_path / "nothing"], "holds no shard"),
        ([], "no shards"),
    ):
        with pytest.raises(MergeError, match=said):
            merge(folders, tmp_path / "merged")


def test_a_folder_that_holds_another_job_is_left_as_it_is(shards: list[Path], tmp_path: Path):
    other = write_collection(tmp_path / "collection", n_queries=3)
    with (other / "corpus.jsonl").open("a") as file:
        file.write("nonsense\n")
    run(other, tmp_path / "output")
    assert "errors.jsonl" in results(tmp_path / "output")
    before = results(tmp_path / "output")
    journal = (tmp_path / "output" / "journal.jsonl").read_bytes()
    with pytest.raises(MergeError, match="holds another job"):
        merge(shards, tmp_path / "output")
    assert (results(tmp_path / "output"), (tmp_path / "output" / "journal.jsonl").read_bytes()) == (before, journal)
    with pytest.raises(JournalError):  # a job that is refused does no harm either
        run_shard(other, tmp_path / "output", "1/2")
    assert results(tmp_path / "output") == before
    with lock(tmp_path / "output"), pytest.raises(JournalError, match="in use"):
        merge(shards, tmp_path / "output")


def test_a_shard_s_folder_takes_no_other_shard_and_no_whole_job(collection: Path, shards: list[Path], tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(shards[0], copy)
    with pytest.raises(JournalError, match='shard was "1/4", now "2/4"'):
        run_shard(collection, copy, "2/4")
    with pytest.raises(JournalError, match='shard was "1/4", now null'):
        run(collection, copy)


def test_judgments_that_a_journal_has_lost_are_told_and_found_again(
    collection: Path, shards: list[Path], whole: Path, tmp_path: Path
):
    copy = tmp_path / "copy"
    shutil.copytree(shards[1], copy)
    lines = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "journal.jsonl").write_bytes(b"".join([*lines[:3], b"\0" * 20 + b"\n", *lines[5:]]))
    given = [shards[0], copy, *shards[2:]]
    with pytest.raises(MergeError, match="has lost 2 judgments, the first that of query q"):
        merge(given, tmp_path / "merged")
    again = Stub()
    run_shard(collection, copy, "2/4", again)
    assert len(again.seen) == 2
    merge(given, tmp_path / "merged")
    assert results(tmp_path / "merged") == results(whole)


def test_a_shard_that_is_being_written_is_not_touched(shards: list[Path], tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(shards[0], copy)
    with (copy / "journal.jsonl").open("ab") as file:
        file.write(b'{"index": 3, "half')
    before = (copy / "journal.jsonl").read_bytes()
    merge([copy, *shards[1:]], tmp_path / "merged")
    assert (copy / "journal.jsonl").read_bytes() == before


def test_damaged_files_of_a_shard_are_told(shards: list[Path], tmp_path: Path):
    for file, content, kind, said in (
        ("shard.json", "{", InputError, "run that shard again"),
        ("shard.json", "{}", InputError, "run that shard again"),
        ("errors.jsonl", "", MergeError, "not whole"),
        ("journal.jsonl", "{}\n", JournalError, "not a journal"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(shards[0], copy)
        (copy / file).write_text(content)
        with pytest.raises(kind, match=said):
            merge([copy, *shards[1:]], tmp_path / "merged")
        shutil.rmtree(copy)


# ---- kills -----------------------------------------------------------------------------------------------------------


def kill_some_and_merge(collection: Path, folder: Path, n: int, killed: Sequence[int], top_k: int) -> None:
    """Shards of rank1-tiny in reproducible mode, some of them killed at a random judgment and begun again; then the
    merged job beside one that was never divided.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.evaluation.tiny"])
    rng = random.Random(11)

    def run_in_a_process(number: int, killed_at: int | None = None) -> int | None:
        process = context.Process(
            target=run_tiny,
            args=(collection, folder / str(number), f"{number}/{n}"),
            kwargs={"top_k": top_k, "killed_at": killed_at},
        )
        process.start()
        process.join()
        return process.exitcode

    for number in range(n):  # counted from 0
        if number in killed:
            assert run_in_a_process(number, killed_at=rng.randrange(3)) == -signal.SIGKILL
            with pytest.raises(MergeError, match=r"missing|not finished"):
                merge([folder / str(each) for each in range(number + 1)], folder / "merged")
        assert run_in_a_process(number) == 0
    merge([folder / str(number) for number in range(n)], folder / "merged")
    run_tiny(collection, folder / "whole", top_k=top_k)
    assert results(folder / "merged") == results(folder / "whole")


def test_killed_shards_go_on_and_the_merged_files_are_those_of_one_job(tmp_path: Path):
    collection = write_collection(tmp_path / "collection", n_queries=3)
    kill_some_and_merge(collection, tmp_path, 2, killed=(0, 1), top_k=4)


@pytest.mark.skipif("RANK1_SLOW" not in os.environ, reason="takes minutes: RANK1_SLOW=1")
def test_sixteen_shards_of_which_five_were_killed(tmp_path: Path):
    collection = write_collection(tmp_path / "collection", n_queries=16)
    kill_some_and_merge(collection, tmp_path, 16, killed=random.Random(3).sample(range(16), 5), top_k=10)
