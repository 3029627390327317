"""Tables in three forms, whatever the cells hold."""

import re
from io import StringIO

import pytest
from rich.console import Console

from rank1_hf.viewing.tables import Table
from tests.viewing.made import HOSTILE

TABLE = Table("Measures", ("measure", "A", "diff."), [("nDCG@10", "0.5", "-0.1"), ("AP", "0.25", "+0.0")], note="of 2")
STRANGE = [
    "a|b",
    "50% & more_",
    r"\input{x}",
    "{$x^2$}",
    "#1 ~",
    "<b>",
    "[x](y)",
    "`code`",
    "*bold*",
    "a\nb",
    "\x1b[31m",
]


def terminal(table: Table, width: int = 80) -> str:
    console = Console(file=StringIO(), record=True, width=width, markup=False, highlight=False, emoji=False)
    console.print(table.to_rich())
    return console.export_text()


def test_in_a_terminal():
    assert [line.split() for line in terminal(TABLE).splitlines()[:4]] == [
        ["Measures"],
        ["measure", "A", "diff."],
        ["nDCG@10", "0.5", "-0.1"],
        ["AP", "0.25", "+0.0"],
    ]


def test_in_markdown():
    assert TABLE.to_markdown().splitlines() == [
        "**Measures**",
        "",
        "| measure | A | diff. |",
        "| :--- | ---: | ---: |",
        "| nDCG@10 | 0.5 | -0.1 |",
        "| AP | 0.25 | +0.0 |",
        "",
        "of 2",
    ]


def test_in_latex():
    assert TABLE.to_latex().splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Measures. of 2.}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"measure & A & diff. \\",
        r"\midrule",
        r"nDCG@10 & 0.5 & $-$0.1 \\",
        r"AP & 0.25 & +0.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@pytest.mark.parametrize("text", [*STRANGE, HOSTILE])
def test_no_cell_heading_title_or_note_can_become_anything_else(text: str):
    table = Table(text, (text, "n"), [(text, "1")], note=text)
    markdown = table.to_markdown()
    assert re.sub(r"\\.", "", markdown).count("|") == 9  # those of three rows with two columns
    assert not re.search(r"<[A-Za-z/!?]", markdown)
    assert "\x1b" not in markdown
    latex = re.sub(r"\\[&%$#_{}]", "", table.to_latex())
    assert latex.count("&") == 2  # that of the headings and that of the row
    assert not re.search(r"[%#_$~^]", latex)
    assert set(re.findall(r"\\[a-z]+", latex)) <= {
        *(rf"\{name}" for name in ("begin", "centering", "caption", "toprule", "midrule", "bottomrule", "end")),
        *(rf"\text{name}" for name in ("backslash", "asciitilde", "asciicircum", "less", "greater", "bar")),
    }
    assert latex.count("{") == latex.count("}")
    assert "\x1b" not in terminal(table)


def test_markdown_escapes_only_what_would_be_html():
    markdown = Table("p < 0.05 & more", ("<0.0001", "<b>"), [("<!-- x", "&lt; &#60; R&D")]).to_markdown()
    assert markdown.splitlines() == [
        "**p < 0.05 & more**",
        "",
        "| <0.0001 | &lt;b> |",
        "| :--- | ---: |",
        r"| &lt;\!-- x | &amp;lt; &amp;\#60; R&amp;D |",
    ]


def test_a_backslash_is_written_as_one():
    latex = Table(r"a\b", ("x",), []).to_latex()
    assert r"\caption{a\textbackslash{}b.}" in latex


@pytest.mark.parametrize("width", [40, 80])
def test_long_cells_are_folded(width: int):
    shown = terminal(Table("T", ("query", "n"), [("q" * 300, "1")]), width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("q") == 300 + 1
