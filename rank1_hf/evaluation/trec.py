"""TREC runs: a line `query Q0 document rank score tag` for each retrieved document."""

from pathlib import Path

from rank1_hf.inputs import InputError, read_text

Run = dict[str, dict[str, float]]
"""query id -> document id -> score; higher is better."""


def read_run(path: Path) -> Run:
    """Read a run, each query's documents best first.

    Raises:
        InputError: the file cannot be read, or a line of it.
    """
    run: Run = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            query, _, document, _, score, _ = line.split()
            run.setdefault(query, {})[document] = float(score)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: must be: query Q0 document rank score tag") from error
    return {query: _best_first(scores) for query, scores in run.items()}


def write_run(path: Path, run: Run, tag: str = "rank1-hf") -> None:
    """Write a run, each query's documents best first."""
    lines = [
        f"{query} Q0 {document} {rank} {score!r} {tag}\n"
        for query, scores in run.items()
        for rank, (document, score) in enumerate(_best_first(scores).items(), start=1)
    ]
    path.write_text("".join(lines), encoding="utf-8")


def _best_first(scores: dict[str, float]) -> dict[str, float]:
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
