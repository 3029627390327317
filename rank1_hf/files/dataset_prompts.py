"""Dataset prompts: what counts as relevant in a dataset, by its name among MTEB's tasks.

A prompt is a template with `FILL_QUERY_HERE`; the filled template stands in the query's place. Those that ship say in
our own words what each dataset was judged by; the rank1 paper used others, which `read_prompts` takes from a file.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rank1_hf.inputs.textfiles import InputError, format_of, read_text
from rank1_hf.prompts.prompt import QUERY_PLACEHOLDER

BUILT_IN = Path(__file__).parents[1] / "assets" / "dataset_prompts.yaml"

Prompts = Mapping[str, str]
"""MTEB task name, or "TASK/SUBSET", or "TASK_SUBSET" as the rank1 authors write it -> template."""


@cache
def built_in_prompts() -> Prompts:
    """The prompts that ship with the package."""
    return read_prompts(BUILT_IN)


def dataset_prompt(prompts: Prompts, task: str, subset: str | None = None) -> str | None:
    """The template for a task: that of its subset, else that of the whole task, else None."""
    names = (f"{task}/{subset}", f"{task}_{subset}", task)
    return next((prompts[name] for name in names if name in prompts), None)


def fill(template: str | None, query: str) -> str:
    """A query in its template."""
    return query if template is None else template.replace(QUERY_PLACEHOLDER, query)


def read_prompts(path: Path) -> Prompts:
    """Read templates from a JSON or YAML file.

    Raises:
        InputError: it cannot be read, is not a mapping of names to strings, or a template lacks `FILL_QUERY_HERE`.
    """
    import yaml

    parse = json.loads if format_of(path) == "json" else yaml.safe_load
    try:
        prompts = parse(read_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(prompts, dict):
        raise InputError(f"{path} must map task names to templates")
    for name, template in prompts.items():
        if not isinstance(name, str) or not isinstance(template, str):
            raise InputError(f"{path}: the template of {name!r} must be a string, under a name")
        if QUERY_PLACEHOLDER not in template:
            raise InputError(f"{path}: the template of {name!r} has no {QUERY_PLACEHOLDER}, where the query would go")
    return prompts
