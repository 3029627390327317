"""What can be compared, read from where it is: an output folder of `evaluate`, a run, or judgments, ours or others'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rank1_hf.evaluation import provenance
from rank1_hf.evaluation.metrics import Values
from rank1_hf.evaluation.outputs import read_values
from rank1_hf.files.inputs import InputError
from rank1_hf.files.sources import Source
from rank1_hf.files.trec import Run, best_first, read_run
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import Judgments
from rank1_hf.viewing.saved import FILES, Places, holds_judgments, judgments_file, pairs_of, read_judgments
from rank1_hf.viewing.texts import pair_texts


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two things that are compared.

    Attributes:
        run: its rankings, best first.
        judged: the log-odds of the documents that have a judgment with a score, best first.
        judgments: what was thought about each pair, by index; empty where a run is all there is.
        finished: whether it has all its judgments; a folder's job may have been stopped.
        values: what its folder says was measured; None elsewhere, and where nothing was.
        environment: what its folder says of how it was made; None where it does not.
    """

    run: Run
    judged: Run = field(default_factory=dict)
    judgments: Mapping[int, Judgment] = field(default_factory=dict)
    finished: bool = True
    values: Values | None = None
    environment: Mapping[str, Any] | None = None


def read_side(given: str | Path | Run | Sequence[Judgment], places: Places) -> Side:
    """Read one side.

    Args:
        given: an output folder of `evaluate`; a file with a run or with judgments; a run; or the judgments of a call.
        places: gives each pair its index, so that two sides agree; pairs that it lacks are added.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    if isinstance(given, Mapping):
        return Side({query: best_first(dict(scores)) for query, scores in given.items()})
    if not isinstance(given, str | Path):
        return _of_judgments(_placed(given, places), places)
    path = Path(given)
    if path.is_dir():
        return _of_folder(path, places)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file but a pipe or a device, which cannot be read twice; write it to a file")
    if holds_judgments(path):
        return _of_judgments(read_judgments(path, places), places)
    run = read_run(path)
    if not run:
        raise InputError(f"{path} is empty")
    return Side(run)


def by_ids(side: Side, places: Places, corpus: Source) -> Side:
    """The same side with ids in the place of texts, where another side's pairs have these ids.

    Raises:
        InputError: the collection cannot be read.
    """
    ids: dict[tuple[str | None, str | None], int] = {}
    pairs = pairs_of(places, corpus)
    for (key, index), pair in zip(places.items(), pairs, strict=True):
        if pair != key:  # the collection knows it
            ids.setdefault(pair_texts(pairs, index), index)
    moved = {index: ids[key] for key, index in places.items() if key in ids}
    if moved.keys().isdisjoint(side.judgments):
        return side
    return _of_judgments([judgment.at(moved.get(index, index)) for index, judgment in side.judgments.items()], places)


def _of_folder(folder: Path, places: Places) -> Side:
    file, run = judgments_file(folder), folder / "run.trec"
    side = _of_judgments(read_judgments(file, places), places)
    return replace(
        side,
        run=read_run(run) if run.is_file() else side.run,
        finished=file.name == FILES[0],
        values=read_values(folder),
        environment=provenance.read(folder),
    )


def _of_judgments(judgments: Sequence[Judgment], places: Places) -> Side:
    if not judgments:
        raise InputError("there are no judgments to compare")
    keys = {index: key for key, index in places.items()}
    run: Run = {}
    for judgment in judgments:
        if judgment.error is None:
            query, document = keys[judgment.index]
            run.setdefault(query, {})[document] = judgment.log_odds
    judged = {query: best_first(scores) for query, scores in run.items()}
    return Side(judged, judged, {judgment.index: judgment for judgment in judgments})


def _placed(judgments: Sequence[Judgment], places: Places) -> list[Judgment]:
    """The judgments of a call under the indices of their pairs, whose texts stand for ids."""
    pairs = judgments.pairs if isinstance(judgments, Judgments) else None
    placed = []
    for judgment in judgments:
        query, passage = pair_texts(pairs, judgment.index)
        key = query or "", f"pair {judgment.index}" if passage is None else passage
        placed.append(judgment.at(places.setdefault(key, len(places))))
    return placed
