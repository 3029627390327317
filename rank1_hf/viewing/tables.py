"""Tables of results: in a terminal, in Markdown, LaTeX and CSV, and as the page takes them. Every text is escaped."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rank1_hf.viewing.printable import one_line

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # behind \\ it would begin an argument
        "]": "{]}",
        **{character: "\\" + character for character in "&%$#_{}"},
    }
)
_NEGATIVE = re.compile(r"-[0-9.]+")
_MARKDOWN = str.maketrans({character: "\\" + character for character in "\\`*_[]|~$#!"})
# CommonMark 0.31, 6.6 and 2.5: before anything else "<" begins no HTML, and "&" no character reference.
_MARKDOWN_HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        title: what it shows.
        columns: its headings.
        rows: its cells, as many in each row as there are columns.
        n_texts: how many of the first columns hold text, the others numbers.
        note: what one has to know to read it; "" where there is nothing.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_texts: int = 1
    note: str = ""

    def to_rich(self) -> RenderableType:
        """For a rich console."""
        table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for place, column in enumerate(self.columns):
            table.add_column(
                Text(one_line(column)), justify="left" if place < self.n_texts else "right", overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(one_line(cell)) for cell in row))
        parts: list[RenderableType] = [Text(one_line(self.title), style="bold"), table]
        return Group(*parts, *([Text(one_line(self.note), style="dim")] if self.note else []), Text())

    def to_markdown(self) -> str:
        """A table of GitHub's Markdown under its title."""
        rules = [":---" if place < self.n_texts else "---:" for place in range(len(self.columns))]
        rows = [_cells(self.columns, _markdown), rules, *(_cells(row, _markdown) for row in self.rows)]
        lines = [f"**{_markdown(self.title)}**", "", *(f"| {' | '.join(row)} |" for row in rows)]
        return "\n".join([*lines, *(["", _markdown(self.note)] if self.note else []), ""])

    def to_latex(self) -> str:
        """A table of the package booktabs, with its title and its note as caption."""
        n_numbers = len(self.columns) - self.n_texts
        rows = [" & ".join(_cells(row, _latex)) + r" \\" for row in (self.columns, *self.rows)]
        caption = ". ".join(part.rstrip(".") for part in (self.title, self.note) if part) + "."
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(caption)}}}",
                rf"\begin{{tabular}}{{{'l' * self.n_texts}{'r' * n_numbers}}}",
                r"\toprule",
                rows[0],
                r"\midrule",
                *rows[1:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV: its columns in the first line, numbers with all their digits, nothing for None."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def _cells(row: Sequence[str], escape: Callable[[str], str]) -> list[str]:
    return [escape(cell) for cell in row]


def _markdown(text: str) -> str:
    without_html = _MARKDOWN_HTML.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", one_line(text))
    return without_html.translate(_MARKDOWN)


def _latex(text: str) -> str:
    escaped = one_line(text).translate(_LATEX)
    return f"$-${escaped[1:]}" if _NEGATIVE.fullmatch(escaped) else escaped
