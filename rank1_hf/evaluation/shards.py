"""The shards of a job: parts of its pairs, judged by as many processes on as many machines, and merged in the end.

A shard's folder holds its journal, its errors.jsonl, and once it is finished a shard.json with all that the files of
the whole job are written from, so that `merge` needs neither the collection nor the model.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rank1_hf.evaluation.task import Task
from rank1_hf.evaluation.writing import replacing
from rank1_hf.inputs.textfiles import InputError
from rank1_hf.prompts.shares import shares

FILE = "shard.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the parts that a job is divided into.

    Attributes:
        number: which one, from 1.
        n: how many there are.
    """

    number: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "3/16". 0/16 is 16/16, so that the tasks of an array are each shard once, whether it begins at 0 or 1.

        Raises:
            InputError: the text is no shard.
        """
        parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if parts is None:
            raise InputError(f"--shard takes K/N, as in 3/16, not {text!r}")
        number, n = map(int, parts.groups())
        if n < 1 or number > n:
            raise InputError(
                f"--shard {text}: K is from 1 to N, or from 0 to N - 1 (0/{max(n, 1)} is {max(n, 1)}/{max(n, 1)}), "
                "where N is how many shards there are"
            )
        return cls(number or n, n)

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def places(self, costs: Sequence[int]) -> range:
        """Which of the pairs are its own.

        Args:
            costs: about how many tokens each pair takes.
        """
        return shares(costs, self.n)[self.number - 1]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a shard says once it has judged all of its pairs. It is the same for all shards of a job.

    Attributes:
        task: what the files of the whole job are written from.
        n_problems: how many queries and documents could not be read; errors.jsonl begins with them.
    """

    task: Task
    n_problems: int

    def write(self, folder: Path) -> None:
        """Put it into the folder of a shard."""
        with replacing(folder / FILE) as file:
            file.write(json.dumps({"n_problems": self.n_problems, **self.task.to_dict()}).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of a shard's folder; None where the shard is not finished.

        Raises:
            InputError: the file cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            fields: dict[str, Any] = json.loads(path.read_bytes())
            n_problems = fields.pop("n_problems")
            return cls(Task.from_dict(fields), n_problems)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete it and run that shard again") from error
