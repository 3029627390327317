"""How a job was made: `environment.json` in its folder, and what differs when it is made again.

    {"environment": 1, "command": [...], "options": {...}, "versions": {...}, "device": {...}, "weights": "...",
     "date": "...", "inputs": {option: {file: digest}}, "content": {part: digest}, "dtype": "...", "decoding": {...},
     "limits": {...}, "earlier": [...]}

"date" is when the job was begun. "earlier" has what else a job was made with that was stopped and went on elsewhere, or
was measured again with other options.
Environment variables, which may hold tokens, are not in it, and the command has the options of `evaluate` alone.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rank1_hf import __version__
from rank1_hf.evaluation.writing import replacing
from rank1_hf.files import beir
from rank1_hf.files.inputs import InputError, read_text
from rank1_hf.files.trec import Qrels, read_qrels
from rank1_hf.inputs.textfiles import parse_json
from rank1_hf.models.hub import CheckpointError
from rank1_hf.models.identity import checkpoint_identity

if TYPE_CHECKING:
    import torch

NAME = "environment.json"
FORMAT = 1
"""The version of the file's layout."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "bitsandbytes", "triton", "ir-measures", "scipy")
_DECIDED_BY = {"corpus": {"corpus", "subset"}, "qrels": {"corpus", "qrels", "split"}, "prompts": {"prompts", "task"}}
"""The options that decide which files an option has; of the others it is they themselves."""
_CHOICES_OF_INPUTS = {
    *("corpus", "run", "qrels", "split", "subset"),
    *("queries", "only_judged_queries", "ignore_identical_ids"),
}
_OF_MEASURING = ("command", "options", "inputs", "content")
"""What is another where a finished job is measured again; all else says how it was judged."""
_BY_FREE_MEMORY = "kv_cache_tokens"  # differs from process to process
_SHOWN = 60  # characters of a value in a sentence


class Provenance:
    """What is known of a job before it runs, and the job that it repeats.

    Args:
        command: the command line, in words.
        options: those in force by their names, as JSON has them; paths are absolute.
        weights: what `models.identity` says of the model.
        device: where it will run.
        like: what `read` gave for the job to repeat; None: there is none.
        given: which options were given anew, and so may differ from that job's.

    Raises:
        InputError: a file cannot be read; or one that was not given anew is missing, or is another than it was.
    """

    def __init__(
        self,
        command: Sequence[str],
        options: Mapping[str, Any],
        weights: str,
        device: "torch.device",
        *,
        like: Mapping[str, Any] | None = None,
        given: frozenset[str] = frozenset(),
    ) -> None:
        self._like, self._given = like, given
        self._facts: dict[str, Any] = {
            "environment": FORMAT,
            "command": list(command),
            "options": dict(options),
            "versions": versions(),
            "device": describe(device),
            "weights": weights,
            "date": now(),
            "inputs": {
                option: {name: _digest(file) for name, file in files.items()}
                for option, files in input_files(options).items()
            },
        }
        if like is not None:
            self._refuse_other_files(like)

    def differences(self) -> Iterator[str]:
        """What differs from the job to repeat, a sentence each."""
        if self._like is not None:
            for what, before, now in differences(self._like, self._facts):
                yield f"{what} was {before}, now {now}"

    def check(self, content: Mapping[str, str | None]) -> None:
        """Note what was read, and refuse what the job to repeat did not have; of a collection that is no file, such as
        one of the hub, this is all that can be compared.

        Args:
            content: a digest of each part of the inputs; None: there is none.

        Raises:
            InputError: something that was not given anew is another than it was.
        """
        self._facts["content"] = dict(content)
        if self._like is None or not self._given.isdisjoint(_CHOICES_OF_INPUTS):
            return
        before = self._like.get("content") or {}
        for part, digest in content.items():
            if part in before and before[part] != digest:
                raise InputError(
                    f"the {part} of {self._facts['options'].get('corpus')} are others than those of the job to repeat; "
                    "give --corpus to go on with what is there now"
                )

    def write(self, folder: Path, reranker: object) -> None:
        """Write `environment.json`, once the model is loaded.

        Raises:
            OSError: it cannot be written.
        """
        before, facts = _before(folder), {**self._facts, **_loaded(reranker)}
        facts["date"] = before.get("date", facts["date"])
        _write(folder, before, facts)

    def write_measured(self, folder: Path) -> None:
        """Write `environment.json` of a finished job that is measured again: what it was judged with stays, such as its
        dtype, device and versions. Where the folder has none, this is not known, and nothing is written.

        Raises:
            OSError: it cannot be written.
        """
        if before := _before(folder):
            _write(folder, before, before | {name: self._facts[name] for name in _OF_MEASURING if name in self._facts})

    def _refuse_other_files(self, like: Mapping[str, Any]) -> None:
        for option in like["inputs"].keys() | self._facts["inputs"].keys():
            if not self._given.isdisjoint(_DECIDED_BY.get(option, {option})):
                continue
            before, now = (each["inputs"].get(option, {}) for each in (like, self._facts))
            source = like["options"].get(option) or like["options"].get("corpus")
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    how = (
                        "is not there now" if name not in now else "was not there" if name not in before else "differs"
                    )
                    raise InputError(
                        f"{name}, the {option} of the job to repeat ({source}), {how}; give {_flag(option)} to go on "
                        "with what is there now"
                    )


def read(folder: Path) -> dict[str, Any] | None:
    """What a folder's `environment.json` holds; None where it has none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    found = parse_json(read_text(path), str(path), "is the file whole?")
    if not isinstance(found, dict) or found.get("environment") != FORMAT:
        raise InputError(f"{path} is not of this version of rank1_hf")
    for name in ("options", "versions", "inputs"):
        if not isinstance(found.get(name), dict):
            raise InputError(f'{path}: "{name}" must be an object')
    if not all(isinstance(files, dict) for files in found["inputs"].values()):
        raise InputError(f'{path}: "inputs" must have an object for each option')
    return found


def own_qrels(environment: Mapping[str, Any] | None) -> Qrels | None:
    """The qrels that a job had, where their file is still there and the same; None elsewhere."""
    if environment is None:
        return None
    with suppress(InputError):
        for name, file in input_files(environment["options"]).get("qrels", {}).items():
            if _digest(file) == environment["inputs"].get("qrels", {}).get(name):
                return read_qrels(file)
    return None


def of_call(command: Sequence[str], options: Mapping[str, Any], reranker: object) -> dict[str, Any]:
    """What `environment.json` would say of judgments that no job has made.

    Args:
        command: the command line, in words.
        options: those in force by their names.
        reranker: the model, which is loaded.
    """
    found = {"environment": FORMAT, "command": list(command), "options": dict(options), "versions": versions()}
    loaded = _loaded(reranker)
    with suppress(CheckpointError):
        if loaded:
            source = {name: options[name] for name in ("revision", "subfolder", "allow_pickles") if name in options}
            loaded["weights"] = checkpoint_identity(options.get("model"), **source)
    return {**found, "date": now(), "inputs": {}, **loaded}


def merge(folders: Sequence[Path], output: Path) -> None:
    """Write how a job was made whose shards are in these folders: as the first shard was, without `--shard`. What
    another shard was made with besides is in "earlier".

    Raises:
        InputError: a file cannot be read.
        OSError: it cannot be written.
    """
    found = [_undivided(facts) for facts in map(read, folders) if facts is not None]
    if not found:
        return
    first, *others = found
    earlier = first["earlier"]
    for each in others:
        for one in (*each["earlier"], {name: value for name, value in each.items() if name != "earlier"}):
            if all(any(differences(known, one)) for known in (first, *earlier)):
                earlier.append(one)
    with replacing(output / NAME) as file:
        file.write(json.dumps(first, indent=2).encode() + b"\n")


def _undivided(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what only one shard has."""
    shard = facts["options"].get("shard")
    command = [word for word in facts["command"] if word not in ("--shard", shard)]
    options = {name: value for name, value in facts["options"].items() if name not in ("shard", "output")}
    return {"earlier": [], **facts, "command": command, "options": options}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What differs between two environments: a name, and the two values in short. What only one has known is none."""
    for package in sorted(before["versions"].keys() | now["versions"].keys()):
        yield from _difference(package, *(each["versions"].get(package, "not installed") for each in (before, now)))
    for name in ("device", "weights", "dtype", "decoding"):
        first, second = before.get(name), now.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            for part in sorted((first.keys() | second.keys()) - {_BY_FREE_MEMORY}):
                yield from _difference(f"{name} {part}", first.get(part), second.get(part))
        elif first is not None and second is not None:
            yield from _difference(name, first, second)
    for option in sorted({name for each in (before, now) for part in ("options", "inputs") for name in each[part]}):
        flag = _flag(option)
        files = before["inputs"].get(option, {}), now["inputs"].get(option, {})
        if all(files):  # wherever they are
            if len(files[0]) == len(files[1]) == 1:  # whatever it is called
                yield from _difference(f"the content of {flag}", *(next(iter(each.values())) for each in files))
                continue
            for name in sorted(files[0].keys() | files[1].keys()):
                yield from _difference(f"{flag} {name}", *(each.get(name, "not there") for each in files))
        else:
            yield from _difference(flag, *(each["options"].get(option, "not given") for each in (before, now)))


def versions() -> dict[str, str]:
    """What is installed of what decides a judgment or a measure."""
    found = {"python": platform.python_version(), "rank1_hf": __version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def now() -> str:
    """The date and the time, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(device: "torch.device") -> dict[str, Any]:
    """What a device is; of a CPU also what decides how its sums are rounded."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "capability": f"{major}.{minor}"}
    found: dict[str, Any] = {"type": device.type, "name": _processor()}
    if device.type == "cpu":
        found |= {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    return found


def input_files(options: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """The files that options name, by the option and by their names in its folder; a BEIR folder's own judgments are
    the qrels where the options name none. Pipes, which can be read only once, are left out.
    """
    found: dict[str, dict[str, Path]] = {}
    for option in ("corpus", "run", "qrels", "prompts", "prompt_template", "pairs"):
        value = options.get(option)
        if value is None or (option == "prompt_template" and not value.startswith("@")):
            continue
        path = Path(value.removeprefix("@") if option == "prompt_template" else value)
        if path.is_file():
            found[option] = {path.name: path}
        elif path.is_dir() and beir.find_file(path, "corpus.jsonl") is not None:
            found[option] = _named(path, beir.find_file(path, "corpus.jsonl"), beir.find_file(path, "queries.jsonl"))
            if "qrels" not in options:
                split = options.get("split") if beir.splits(path) else None  # else it is the run's
                found["qrels"] = _named(path, beir.qrels_file(path, split))
        elif path.is_dir():
            found[option] = _named(path, *sorted(file for file in path.rglob("*") if file.is_file()))
    return {option: files for option, files in found.items() if files}


def _before(folder: Path) -> dict[str, Any]:
    """What a folder's `environment.json` holds; nothing where it has none that can be read: a job goes on."""
    with suppress(InputError):
        return read(folder) or {}
    return {}


def _write(folder: Path, before: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write facts, and what was known before to "earlier" where it differs."""
    earlier = list(before.get("earlier", []))
    last, new = ({name: each[name] for name in each if name != "earlier"} for each in (before, facts))
    if last and any(differences(last, new)):
        earlier.append(last)
    with replacing(folder / NAME) as file:
        file.write(json.dumps({**new, "earlier": earlier}, indent=2).encode() + b"\n")


def _named(folder: Path, *files: Path | None) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in files if file is not None}


def _loaded(reranker: Any) -> dict[str, Any]:  # noqa: ANN401
    """What only a loaded model knows; nothing of a reranker that is no `Rank1`."""
    model, decoder = getattr(reranker, "model", None), getattr(reranker, "decoder", None)
    if model is None or decoder is None:
        return {}
    return {
        "device": describe(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "decoding": asdict(decoder.options),
        "limits": {
            "max_length": reranker.pair_encoder.context,
            "max_new_tokens": reranker.pair_encoder.max_new_tokens,
        },
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _difference(what: str, before: object, now: object) -> Iterator[tuple[str, str, str]]:
    if before != now:
        yield what, _short(before), _short(now)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
