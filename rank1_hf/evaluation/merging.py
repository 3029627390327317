"""The shards of a job, put together: the files of one job that was never divided.

shard folders -> checked against each other -> one journal -> run.trec, judgments.jsonl, metrics.json, ...
"""

import filecmp
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rank1_hf.evaluation import outputs, provenance
from rank1_hf.evaluation.journal import Journal, differences, lock, read_records, read_settings
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.evaluation.shards import Finished, Shard
from rank1_hf.evaluation.task import Task
from rank1_hf.files.inputs import InputError
from rank1_hf.inputs.textfiles import read_jsonl
from rank1_hf.viewing.printable import counted

_OF_ONE_SHARD = ("shard", "places")
"""The settings that are not the same for all shards of a job."""
_SHOWN = 20  # shards that an error names


class MergeError(ValueError):
    """Folders cannot be merged; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The folder of one shard.

    Attributes:
        path: where it is.
        shard: which one it holds.
        settings: what decides its judgments.
        finished: what it left for the whole job; None where it has not judged all of its pairs yet.
    """

    path: Path
    shard: Shard
    settings: dict[str, Any]
    finished: Finished | None

    @classmethod
    def open(cls, path: Path) -> "ShardFolder":
        """Read what a folder says of itself.

        Raises:
            MergeError: it holds no shard.
            InputError, JournalError, OSError: it cannot be read.
        """
        journal = path / "journal.jsonl"
        if not journal.exists():
            raise MergeError(f"{path} holds no shard: it has no journal.jsonl; was its job ever begun?")
        settings = read_settings(journal)
        if settings.get("shard") is None:
            raise MergeError(f"{path} holds a whole job and no shard of one; there is nothing to merge it with")
        return cls(path, Shard.parse(settings["shard"]), settings, Finished.read(path))

    @property
    def places(self) -> range:
        """Which of the candidates are its own."""
        return range(*self.settings["places"])

    def n_judged(self) -> int:
        """How many of its pairs are in the journal."""
        return len({record["index"] for record in read_records(self.path / "journal.jsonl", 1 << 62)})


def merge(folders: Iterable[Path], output: Path) -> Outcome:
    """Write the files of the job that was divided into these shards.

    Args:
        folders: one for each shard, in any order; the same folder twice counts once.
        output: the folder of the whole job, which can go on from there; made where there is none.

    Raises:
        MergeError: the shards do not belong together, are not all there, or are not all finished; all that is missing
            is named. Or the output folder holds another job.
        InputError, JournalError: a file cannot be read, or the output folder is in use.
        OSError: a file cannot be read or written.
    """
    shards = sorted(map(ShardFolder.open, _distinct(folders)), key=lambda each: each.shard.number)
    if not shards:
        raise MergeError("there are no shards to merge")
    finished = _check(shards)
    task = finished.task
    output.mkdir(parents=True, exist_ok=True)
    with lock(output), outputs.ErrorList(output / "errors.jsonl") as errors:
        for problem in _problems(shards[0], finished.n_problems):
            errors.add_input(InputError(problem["error"]), problem.get("query"))
        _write_journal(shards, task, output / "journal.jsonl")
        with Journal(output / "journal.jsonl", _common(shards[0]), task.n_places) as journal:
            provenance.merge([each.path for each in shards], output)
            measured, unmeasured = outputs.write(output, task, journal, errors, task.before())
            n_pairs = sum(1 for _ in task.candidates())
            said = task.coverage() if measured else ()
            return Outcome(n_pairs, journal.n_scored, errors.n_pairs, errors.n_inputs, None, measured, unmeasured, said)


def _distinct(folders: Iterable[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in folders}.values())


def _common(folder: ShardFolder) -> dict[str, Any]:
    """The settings of the whole job."""
    kept = {name: value for name, value in folder.settings.items() if name not in (*_OF_ONE_SHARD, "top_k")}
    return kept | {"shard": None}


def _check(shards: Sequence[ShardFolder]) -> Finished:
    """What all shards say of the whole job.

    Raises:
        MergeError: they do not belong together, or are not all there or not all finished.
    """
    first = shards[0]
    for each in shards[1:]:
        if each.shard.n != first.shard.n:
            raise MergeError(
                f"{first.path} is one of {first.shard.n} shards and {each.path} one of {each.shard.n}; merge those of "
                "one job"
            )
        if others := differences(_shared(first), _shared(each)):
            said = "; ".join(f"{name} is {one} and {other}" for name, one, other in others)
            raise MergeError(
                f"{first.path} and {each.path} are not of one job ({said}); merge those that were made with the same "
                "inputs and options"
            )
    for one, other in pairwise(shards):
        if one.shard == other.shard:
            raise MergeError(f"shard {one.shard} is both in {one.path} and in {other.path}; give one of them")
    if missing := _missing(shards):
        raise MergeError(missing)
    finished = [each.finished for each in shards if each.finished is not None]
    for each, of_whole in zip(shards, finished, strict=True):
        if others := differences(finished[0].task.to_dict(), of_whole.task.to_dict()):
            names = ", ".join(name for name, _, _ in others)
            raise MergeError(
                f"{first.path} and {each.path} are not of one job ({names}); run one of them again with the other's "
                "options, which judges nothing anew"
            )
    n_pairs = sum(1 for _ in finished[0].task.candidates())
    bounds = [range(0), *(each.places for each in shards), range(n_pairs, n_pairs)]
    for before, after in pairwise(bounds):
        if before.stop != after.start:
            raise MergeError(
                f"the shards leave a gap or overlap at pair {before.stop}: they were divided by different versions of "
                "the tokenizer; judge them with one version"
            )
    return finished[0]


def _shared(folder: ShardFolder) -> dict[str, Any]:
    return {name: value for name, value in folder.settings.items() if name not in _OF_ONE_SHARD}


def _missing(shards: Sequence[ShardFolder]) -> str:
    """What is not there yet, and what to run; empty where all is there."""
    n = shards[0].shard.n
    there = {each.shard.number for each in shards}
    absent = [str(Shard(number, n)) for number in range(1, n + 1) if number not in there]
    unfinished = [
        f"{each.shard} in {each.path} ({each.n_judged()} of {counted(len(each.places), 'pair')} judged)"
        for each in shards
        if each.finished is None
    ]
    said = []
    if len(absent) == 1:
        said.append(f"shard {absent[0]} is missing; run evaluate with --shard {absent[0]}, or give its folder too")
    elif absent:
        said.append(
            f"shards {_listed(absent)} are missing; run evaluate with --shard for each, or give their folders too"
        )
    if len(unfinished) == 1:
        said.append(f"shard {unfinished[0]} is not finished; run its command again")
    elif unfinished:
        said.append(f"shards {_listed(unfinished)} are not finished; run their commands again")
    return "; ".join(said)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _problems(shard: ShardFolder, n: int) -> list[dict[str, Any]]:
    """What was wrong with queries and documents, of which every shard has the same list.

    Raises:
        MergeError: the list is not there.
    """
    path = shard.path / "errors.jsonl"
    rows = [row for _, row in read_jsonl(path)][:n] if n else []
    if len(rows) != n:
        raise MergeError(f"{path} is not whole; run shard {shard.shard} again, which judges nothing anew")
    return rows


def _write_journal(shards: Sequence[ShardFolder], task: Task, path: Path) -> None:
    """Put the judgments of all shards into one journal, always in the same order.

    Raises:
        MergeError: a judgment is missing, or there is another journal.
    """
    new = path.with_name(f"{path.name}.merging")
    new.unlink(missing_ok=True)
    try:
        with Journal(new, _common(shards[0]), task.n_places) as journal:
            for each in shards:
                for record in read_records(each.path / "journal.jsonl", task.n_places):
                    if not journal.has_score(record["index"]):
                        journal.append(record)
            lost = [each for each in task.candidates() if journal.read(each.index) is None]
        if lost:
            raise MergeError(
                f"a journal has lost {counted(len(lost), 'judgment')}, the first that of query {lost[0].query} and "
                f"document {lost[0].document}; run the shards again, which judges nothing else"
            )
        if path.exists() and not filecmp.cmp(path, new, shallow=False):
            raise MergeError(f"{path.parent} holds another job already; give another output folder")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
