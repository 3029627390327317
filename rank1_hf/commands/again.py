"""`evaluate --like`: the options of an earlier job, and what is recorded of those in force."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from rank1_hf.commands.options import BAD_INPUT, fail
from rank1_hf.files.inputs import InputError
from rank1_hf.models.hub import with_home
from rank1_hf.viewing.printable import printable

_NOT_RECORDED = {"output", "like", "as_json", "quiet"}  # which decide nothing of a result
_NAMES_OR_PATHS = {"corpus", "model"}


def take_options(context: typer.Context, folder: Path | None) -> Path | None:
    """The callback of `--like`: what was in force there is in force here, unless the command line says otherwise."""
    if folder is not None:
        found = environment(folder)["options"]
        known = {parameter.name for parameter in context.command.params} - _NOT_RECORDED
        if unknown := found.keys() - known:
            fail(f"{folder} was made with --{min(unknown)}, which this version has not".replace("_", "-"), BAD_INPUT)
        context.default_map = found
    return folder


def environment(folder: Path) -> dict[str, Any]:
    """What a folder says of how it was made, or the end of the command."""
    try:
        from rank1_hf.evaluation import provenance

        found = provenance.read(folder)
    except (ImportError, InputError) as error:
        fail(str(error), BAD_INPUT)
    if found is None:
        fail(f"there is no {folder / provenance.NAME}, which evaluate writes; give another folder to --like", BAD_INPUT)
    match found.get("command"):
        case [_, str(maker), *_] if maker != "evaluate":
            fail(f"{folder} was made by {printable(maker)}; --like repeats evaluate alone", BAD_INPUT)
    return found


def given_options(context: typer.Context) -> frozenset[str]:
    """The names of the options that the command line has."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def command_line(context: typer.Context) -> list[str]:
    """The command line in words, each option under its long name. (`sys.argv` is another program's where this one is
    called from Python, and may hold what nobody gave to this one.)
    """
    return ["rank1-hf", str(context.info_name), *_words(context)]


def _words(context: typer.Context) -> Iterator[str]:
    given = given_options(context)
    for parameter in context.command.params:
        if parameter.name not in given:
            continue
        value = context.params[parameter.name]
        if isinstance(value, bool):
            yield (parameter.opts if value else parameter.secondary_opts)[0]
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            if parameter.param_type_name == "option":
                yield parameter.opts[0]
            yield str(_plain(each))


def options_in_force(context: typer.Context) -> dict[str, Any]:
    """The options that have a value, given or not, as JSON has them, with absolute paths."""
    return {
        name: _absolute(name, value)
        for name, value in context.params.items()
        if value not in (None, [], ()) and name not in _NOT_RECORDED
    }


def _absolute(name: str, value: Any) -> Any:  # noqa: ANN401
    if name in _NAMES_OR_PATHS:
        value = with_home(value)
    if isinstance(value, Path) or (name in _NAMES_OR_PATHS and Path(value).exists()):
        return str(Path(value).absolute())
    if name == "prompt_template" and value.startswith("@"):
        return f"@{Path(value[1:]).absolute()}"
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> Any:  # noqa: ANN401
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
