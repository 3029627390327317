"""The pages of documentation: README.md and the README.md of each folder, beside the code it describes."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FRONT_PAGE = ROOT / "README.md"
ASSETS = ROOT / "rank1_hf" / "assets"

PAGES = [FRONT_PAGE, *sorted((ROOT / "rank1_hf").rglob("README.md")), *sorted((ROOT / "scripts").rglob("*.md"))]
PAGES = [page for page in PAGES if page.parent.parent != ASSETS and (ROOT / "scripts" / "reports") not in page.parents]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    """From the root, with slashes."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fences(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each snippet."""
    return _FENCE.findall(text_of(page))


def snippets(page: Path, language: str) -> list[str]:
    return [snippet for written_in, snippet in fences(page) if written_in == language]


def prose(page: Path) -> str:
    """All but the snippets."""
    return _FENCE.sub("", text_of(page))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of `[text](target)`."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))
