"""What the files of a job are written from, besides its judgments."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from rank1_hf.evaluation.candidates import Candidate, candidates
from rank1_hf.evaluation.metrics import Values, coverage, measure, of_run
from rank1_hf.files.trec import TAG, Qrels, Run


@dataclass(frozen=True, slots=True)
class Task:
    """What is ranked, and what is to be said of it.

    Attributes:
        run, qrels, top_k: as in `Inputs`.
        measures: what to measure, as ir_measures names it; nothing without qrels.
        run_json: whether to write the new run as run.json too.
        tag: the last column of the new run.
        only_run_queries: whether judged queries that the run lacks are left out of the measures; else they count as 0.
    """

    run: Run
    qrels: Qrels | None
    top_k: int
    measures: Sequence[str]
    run_json: bool
    tag: str = TAG
    only_run_queries: bool = False

    @property
    def n_places(self) -> int:
        """One more than the largest index of a pair can be."""
        return sum(map(len, self.run.values()))

    def candidates(self) -> Iterator[Candidate]:
        """The pairs to judge."""
        return candidates(self.run, self.top_k)

    @property
    def measured_qrels(self) -> Qrels | None:
        """The qrels that are measured by; None: nothing is."""
        return of_run(self.qrels, self.run) if self.only_run_queries and self.qrels is not None else self.qrels

    def coverage(self) -> list[str]:
        """Which queries only the run or only the qrels have, a sentence each."""
        if self.qrels is None:
            return []
        return list(coverage(self.qrels, self.run, only_run_queries=self.only_run_queries))

    def before(self) -> Values:
        """The measures of the run as it was given.

        Raises:
            InputError: one cannot be computed.
        """
        qrels = self.measured_qrels
        return {} if qrels is None else measure(qrels, self.run, self.measures)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self) | {"measures": list(self.measures)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` made."""
        return cls(**fields)
