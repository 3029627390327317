"""How runs were made, as a page says it in its head: from their `environment.json`, without what is personal."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rank1_hf.viewing.printable import start
from rank1_hf.viewing.tables import Table

Environment = Mapping[str, Any]
"""What `environment.json` holds; see `rank1_hf.evaluation.provenance`."""

_VALUE = re.compile(r"([\w-]+=@?|@)?(.*)", re.DOTALL)  # of an option as in corpus=..., and of a template as in @...
_WHOLE = re.compile(  # absolute, upwards, or through the folder of all users
    r"(file:|~|[/\\]|[a-z]:[/\\])|(.*[/\\])?\.\.([/\\]|$)|([^\s\"']*[/\\])?(home|users)[/\\]",
    re.DOTALL | re.IGNORECASE,
)
_WITHIN = re.compile(r"(?<![\w<./:\\])(?:file:/*|~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s/\\\"'=]+[/\\])+[^\s/\\\"'=]*")
_SEPARATORS = re.compile(r"[/\\]+")
_LONGEST = 1000  # characters of a command, which may have all passages in it, and of options
_DECISIVE = (
    *("corpus", "subset", "split", "run", "queries", "only_judged_queries", "top_k"),
    *("task", "prompt_template", "instruction"),
    *("max_length", "max_new_tokens", "min_thinking_tokens", "rethink", "truncation", "reproducible", "batch_size"),
)
"""The options that decide what is judged and how, besides those that have a row of their own."""
_HOMES = ("home", "users")  # the folders whose folders are called as their users are


def provenance_table(environments: Sequence[Environment | None], names: Sequence[str]) -> Table | None:
    """A column for each run, a row for each thing that is known of one of them; None where nothing is.

    Args:
        environments: of each run; None: not known.
        names: what the runs are called.
    """
    rows = [
        (label, *(" ".join(read(each)) if each is not None else "" for each in environments))
        for label, read in _ROWS.items()
    ]
    known = [row for row in rows if any(row[1:])]
    return Table("How it was made", ("", *names), known, n_texts=1 + len(names)) if known else None


def without_folders(text: str) -> str:
    """The same without the folders of the paths in it, which may tell who somebody is: /home/me/x.jsonl is x.jsonl.

    Names on the hub, and paths that go down from where a command ran, stay as they are.
    """
    found = _VALUE.fullmatch(text)
    assert found is not None  # every text has this form
    option, value = found[1] or "", found[2]
    if _WHOLE.match(value):
        return option + _last_part(value)
    return _WITHIN.sub(lambda path: _last_part(path[0]), text)


def _last_part(path: str) -> str:
    *folders, last = [part for part in _SEPARATORS.split(path) if part] or [""]
    is_home = last.startswith("~") or (bool(folders) and folders[-1].lower() in _HOMES)
    return "~" if is_home else last if last != ".." else "…"


def _model(environment: Environment) -> Iterator[str]:
    yield without_folders(str(_options(environment).get("model") or "the demonstration model of the package"))


def _option(name: str) -> Callable[[Environment], Iterator[str]]:
    def read(environment: Environment) -> Iterator[str]:
        if (value := _options(environment).get(name)) is not None:
            yield without_folders(str(value))

    return read


def _fact(name: str) -> Callable[[Environment], Iterator[str]]:
    def read(environment: Environment) -> Iterator[str]:
        if environment.get(name):
            yield without_folders(str(environment[name]))

    return read


def _device(environment: Environment) -> Iterator[str]:
    device = environment.get("device")
    if isinstance(device, Mapping):
        threads = device.get("threads")
        known = (*(device.get(name) for name in ("type", "name", "capability")), threads and f"{threads} threads")
        yield ", ".join(str(each) for each in known if each)


def _versions(environment: Environment) -> Iterator[str]:
    versions = environment.get("versions")
    if isinstance(versions, Mapping):
        first = ("rank1_hf", "torch", "transformers")
        names = sorted(versions, key=lambda name: (first.index(name) if name in first else len(first), name))
        yield ", ".join(f"{name} {versions[name]}" for name in names)


def _date(environment: Environment) -> Iterator[str]:
    try:
        yield datetime.fromisoformat(environment["date"]).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (KeyError, TypeError, ValueError, OverflowError):
        return


def _command(environment: Environment) -> Iterator[str]:
    command = environment.get("command")
    if isinstance(command, list):
        yield start(shlex.join(without_folders(str(word)) for word in command), _LONGEST)


def _in_force(environment: Environment) -> Iterator[str]:
    """Options whether they were given or not; of a job like another the command has few of them."""
    limits = environment.get("limits")
    known = {**_options(environment), **(limits if isinstance(limits, Mapping) else {})}
    said = []
    for name in _DECISIVE:
        value = known.get(name)
        if value is not None and value is not False:
            said.append(name.replace("_", "-") + ("" if value is True else f" {without_folders(str(value))}"))
    yield start(", ".join(said), _LONGEST)


def _earlier(environment: Environment) -> Iterator[str]:
    if environment.get("earlier"):
        yield "in part with other versions, options or devices: see environment.json"


def _options(environment: Environment) -> Mapping[str, Any]:
    options = environment.get("options")
    return options if isinstance(options, Mapping) else {}


_ROWS: Mapping[str, Callable[[Environment], Iterator[str]]] = {
    "model": _model,
    "revision": _option("revision"),
    "weights": _fact("weights"),
    "dtype": _fact("dtype"),
    "quantization": _option("quantization"),
    "device": _device,
    "started": _date,
    "command": _command,
    "options": _in_force,
    "versions": _versions,
    "also made": _earlier,
}
