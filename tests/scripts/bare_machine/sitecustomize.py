"""An environment with the packages of a bare GPU machine: put this folder on PYTHONPATH, for a test.

Python runs this file as it starts. From then on what is neither in the standard library, nor one of these packages, nor
needed by one of them, is neither found by an import nor by its metadata, in this process and in those it starts.
"""

import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder, distributions

PACKAGES = ("torch", "transformers", "accelerate", "typer", "rich", "tqdm", "pytest", "hypothesis", "pyyaml", "psutil")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(names: tuple[str, ...], installed: dict[str, Distribution]) -> set[str]:
    """These packages and, without extras, all that they need."""
    found: set[str] = set()
    waiting = [name for name in map(normalized, names) if name in installed]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = [line for line in installed[name].requires or [] if "extra ==" not in line]
            named = (normalized(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements)
            waiting += [one for one in named if one in installed]
    return found


def modules(distribution: Distribution) -> set[str]:
    """What a package lets one import, at the top."""
    return {file.parts[0].split(".")[0] for file in distribution.files or [] if file.suffix in (".py", ".so")}


class BareMachine(PathFinder):
    """Finds as Python does, but not what is refused."""

    refused_modules: frozenset[str] = frozenset()
    refused_packages: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname.split(".")[0] in cls.refused_modules:
            return None
        return super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        found = super().find_distributions(context or DistributionFinder.Context())
        return (one for one in found if normalized(one.name) not in cls.refused_packages)


installed = {normalized(one.name): one for one in distributions() if one.name}
kept = needed(PACKAGES, installed)
there = {module for name in kept for module in modules(installed[name])} | {"rank1_hf"} | set(sys.stdlib_module_names)
refused = {module for name, one in installed.items() if name not in kept for module in modules(one)}
BareMachine.refused_modules = frozenset(refused - there)
BareMachine.refused_packages = frozenset(set(installed) - kept)
sys.meta_path = [BareMachine if finder is PathFinder else finder for finder in sys.meta_path]
