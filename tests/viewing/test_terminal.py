"""Judgments in a terminal."""

import io

from rich.console import Console

from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.terminal import render, sparkline
from tests.viewing.made import HOSTILE, judgment, trace_of, traced

PAIRS = [("wings", "A wing."), ("wings", "Flour."), ("wings", None)]


def shown(*judgments: Judgment, colours: bool = False, **options) -> str:
    console = Console(
        file=io.StringIO(),
        width=200,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
        markup=False,
        highlight=False,
    )
    console.print(render(judgments, PAIRS, **options))
    return console.file.getvalue()


def test_best_first_with_chain_and_verdict():
    failed = Judgment.failed(2, "the passage must be a string, not NoneType")
    text = shown(judgment(0, -1.0, "\nNo wing."), judgment(1, 2.0, "\nIt names wings."), failed)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines == [
        "1 0.881 true   Flour.",
        "It names wings.",
        "log-odds +2.00, 3 tokens, closed by the model",
        "2 0.269 false  A wing.",
        "No wing.",
        "log-odds -1.00, 2 tokens, closed by the model",
        "– not judged",
        "the passage must be a string, not NoneType",
    ]


def test_what_was_traced_is_shown_as_lines():
    lines = shown(traced(0, 2.0)).splitlines()
    assert [line.split()[0] for line in lines if line.strip()] == ["1", "It", "belief", "layers", "log-odds"]


def test_tokens_are_shaded_by_doubt_of_the_kind_asked_for():
    trace = trace_of(0, ["a", "b", "c"], entropies=[0.0, 3.0, 0.5], margins=[0.0, 9.0, 9.0], belief=[], lens=None)
    marked = judgment(0, chain="abc", trace=trace)
    assert " a\x1b[30;43mb\x1b[0m\x1b[33mc\x1b[0m" in shown(marked, colours=True)
    assert "\x1b[30;43ma\x1b[0mbc" in shown(marked, colours=True, by="margin")


def test_what_the_verdict_did_not_see_is_struck_through():
    text = shown(judgment(0, chain="It is. But", ended="budget"), colours=True)
    assert "\x1b[2;9m But\x1b[0m" in text
    assert "closed by force (budget)" in text


def test_a_sparkline_has_zero_in_its_middle():
    assert sparkline([-4, -2, 0, 2, 4]) == "▁▃▅▇█"
    assert sparkline([0.0, 0.0]) == "▅▅"
    assert sparkline([]) == ""


def test_hostile_texts_reach_the_terminal_without_their_controls():
    text = shown(judgment(0, chain=HOSTILE), Judgment.failed(1, HOSTILE))
    assert not {"\x1b", "\u202e", "\x00"} & set(text)
    assert "[31m" in text
