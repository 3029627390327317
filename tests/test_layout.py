"""The structure: imports go down only, no circles, and nothing grows until it cannot be read."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rank1_hf"
FLOORS = (
    {"inputs", "models"},
    {"chains"},
    {"prompts", "decoding", "results"},
    {"files", "tracing"},
    {"viewing"},
    {"reranking", "evaluation"},
    {"reranker"},
    {"integrations", "serving"},
    {"commands", "__init__"},
)
"""From the bottom up: whatever a file imports, for its types too, stands below it or beside it in its own folder."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if names != {"rank1_hf.__version__"}:  # a constant: nothing is loaded for it
                found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys()


IMPORTS = {module: imported(path) - {module} for module, path in MODULES.items()}


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} == FLOOR_OF.keys()
    assert len(FLOORS) <= 9
    assert len(FLOOR_OF) - len({"__init__"}) <= 16


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str):
    up = [
        other
        for other in IMPORTS[module]
        if room(other) != room(module) and FLOOR_OF[room(other)] >= FLOOR_OF[room(module)]
    ]
    assert not up


def test_no_import_goes_round_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_a_file_can_be_read_in_one_sitting(module: str):
    most = {"rank1_hf.reranker": 350, "rank1_hf.decoding.plain": 80}.get(module, 400)
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= most
