"""The page in a real browser: headless Chromium, driven by playwright. Skipped where there is none."""

import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rank1_hf.results.belief_curve import with_curve
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.pieces import belief as belief_of
from rank1_hf.viewing.report import write_html
from rank1_hf.viewing.tables import Table
from tests.viewing.made import HOSTILE, chain_text, judgment, trace_of, traced

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as in: apt install chromium")

PROMPT = "Query: what carries an aircraft\nPassage: A wing.\n<think>"
QUERY = "what carries an aircraft"
PAIRS = [(QUERY, "A wing carries it."), (QUERY, "Bread is made of flour."), (QUERY, "A river ends in a sea.")]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """`opened(judgments, ...)` is the page of a report. Whatever it does, it logs nothing, fails nowhere, and asks for
    nothing but itself.
    """
    complaints: list[str] = []
    requests: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))

    def open_(judgments: list[Judgment], **options: Any) -> Any:
        write_html(judgments, tmp_path / "report.html", **options)
        page.goto((tmp_path / "report.html").as_uri())
        return page

    yield open_
    context.close()
    assert complaints == []
    assert {re.sub("^data:.*", "data:", url) for url in requests} <= {(tmp_path / "report.html").as_uri(), "data:"}


def ranking(page: Any) -> list[str]:
    return page.locator("details .what > :first-child").all_text_contents()


def unfold(page: Any, row: int = 0) -> None:
    page.locator("#rows summary").nth(row).click()
    page.locator("#rows details").nth(row).locator(".judgment").wait_for()
    painted(page)


def painted(page: Any) -> None:
    """Wait for two frames: rows that were never painted have no inner text yet (content-visibility)."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def luminance(colour: str) -> float:
    channels = [float(value) / 255 for value in re.findall(r"[\d.]+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Any, selector: str) -> float:
    """Of a text with the page behind it, as WCAG 2 defines it."""
    text, paper = (
        luminance(page.locator(where).first.evaluate(f"node => getComputedStyle(node).{name}"))
        for where, name in ((selector, "color"), ("body", "backgroundColor"))
    )
    return (max(text, paper) + 0.05) / (min(text, paper) + 0.05)


def test_the_ranking_and_a_judgment_without_a_trace(opened: Open):
    chains = ["\nIt is a wing.", "\nFlour is no wing.", "\nA sea. It does not"]
    judgments = [judgment(0, 3.0, chains[0]), judgment(1, -2.0, chains[1]), judgment(2, 1.0, chains[2], ended="budget")]
    page = opened(judgments, pairs=PAIRS)
    assert page.inner_text("#query") == QUERY
    assert (
        page.inner_text("#summary")
        == "3 passages · 2 found relevant · chains of 4 tokens on average · 1 closed by force"
    )
    assert ranking(page) == [PAIRS[0][1], PAIRS[2][1], PAIRS[1][1]]
    assert page.locator("details .score").all_inner_texts() == ["0.953\ntrue", "0.731\ntrue", "0.119\nfalse"]
    unfold(page, 1)
    detail = page.locator("details").nth(1)
    assert detail.locator(".chain").inner_text() == "A sea. It does not"
    assert detail.locator(".dropped").all_inner_texts() == [" It", " does", " not"]
    said = detail.locator(".end").inner_text()
    assert "the budget was used up. The unfinished sentence was dropped" in said
    assert "</think> true with p 0.7311, log-odds +1.00" in said
    assert detail.locator(".passage").inner_text() == PAIRS[2][1]
    assert page.locator("#shading").is_hidden()
    assert page.locator("#comparing").is_hidden()


def test_tokens_say_what_they_were_and_what_they_nearly_were(opened: Open):
    trace = trace_of(
        0, ["\nIt", " is", "."], logprobs=[-0.1, -0.6931, -0.1], margins=[9.0, 1.0, 9.0],
        entropies=[0.0, 1.2, 0.0], alternative_texts=[" a", " was", "!"], belief=[], lens=None,
    )  # fmt: skip
    page = opened([judgment(0, chain="\nIt is.", trace=trace)], pairs=PAIRS)
    unfold(page)
    page.locator(".t", has_text="is").hover()
    tip = page.locator("#tip")
    assert tip.inner_text().split("\n")[:2] == ["␣is\t50 %", "␣was\t18 %"]
    assert "token 2 · entropy 1.20 nats · margin 1.00" in tip.inner_text()
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_shading_is_by_entropy_or_margin_or_not_at_all(opened: Open):
    trace = trace_of(0, ["a", "b", "c"], entropies=[0.0, 9.0, 0.0], margins=[9.0, 9.0, 0.0], lens=None)
    page = opened([judgment(0, chain="abc", trace=trace)])
    unfold(page)

    def shaded() -> list[bool]:
        return page.locator(".chain .t").evaluate_all(
            "spans => spans.map(span => !/, 0\\)$|\\/ 0\\)$/.test(getComputedStyle(span).backgroundColor))"
        )

    assert shaded() == [False, True, False]
    page.select_option("#shade", label="margin")
    assert shaded() == [False, False, True]
    page.select_option("#shade", label="none")
    assert shaded() == [False, False, False]


def test_the_belief_curve_the_lens_and_the_attention(opened: Open):
    judged = traced(0, 2.0, chain_text(0, 40), prompt=PROMPT)
    page = opened([judged], pairs=PAIRS)
    unfold(page)
    belief, lens = page.locator(".curve").all()
    assert belief.locator("circle").count() == len(belief_of(judged))
    assert belief.locator(".last").text_content() == "+2.0"
    assert lens.locator("circle").count() == len(judged.trace.lens)
    assert page.locator(".passage").inner_text().replace("\n", "") == PROMPT.replace("\n", "")
    strongest = max(range(len(judged.trace.attention)), key=judged.trace.attention.__getitem__)
    assert "a9" in page.locator(".passage .t").nth(strongest).get_attribute("class").split()
    page.locator(".passage .t").nth(strongest).hover()
    assert f"{100 * judged.trace.attention[strongest]:.2f} % of the verdict's attention" in page.inner_text("#tip")
    belief.locator("circle").nth(1).hover()
    at = judged.trace.belief[1].n_tokens
    assert page.locator(".chain .t").nth(at - 1).get_attribute("class").endswith("point")
    assert f"token {at}: log-odds" in page.inner_text("#tip")


def test_by_keyboard_alone(opened: Open):
    judgments = [traced(index, 3.0 - index, f"\nIt is number {index}.") for index in range(3)]
    page = opened(judgments, pairs=PAIRS)
    page.keyboard.press("/")
    page.keyboard.type("number")
    page.keyboard.press("Escape")
    assert page.locator("#count").inner_text() == "3 of 3"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(".chain").wait_for()
    assert page.locator("details[open] .what").text_content().startswith("Bread")
    page.keyboard.press("Tab")
    for place, text in enumerate(["⏎It", "␣is", "␣number"]):
        assert f"token {place + 1} ·" in page.inner_text("#tip")
        assert page.locator("#tip code").first.inner_text() == text
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert page.locator("details[open]").count() == 0
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_filters_and_orders(opened: Open):
    judgments = [
        judgment(0, 0.5, "\nOne.", n_chain_tokens=9),
        judgment(1, -3.0, "\nTwo.", n_chain_tokens=20, ended="budget"),
        Judgment.failed(2, "the passage must be a string"),
    ]
    page = opened(judgments, pairs=PAIRS)
    wing, bread, river = (text for _, text in PAIRS)
    assert ranking(page) == [wing, bread, river]
    for name, label, expected in (
        ("verdict", "true", [wing]),
        ("verdict", "false", [bread]),
        ("verdict", "none: could not be judged", [river]),
        ("ended", "closed by force", [bread]),
        ("ended", "closed by the model", [wing]),
        ("order", "longest chain", [bread, wing, river]),
        ("order", "least sure verdict", [wing, bread, river]),
    ):
        page.select_option(f"#{name}", label=label)
        assert ranking(page) == expected, label
        page.select_option(f"#{name}", index=0)
    page.fill("#search", "FLOUR two")
    assert ranking(page) == [bread]
    page.fill("#search", "nothing of this kind")
    page.click("#clear")
    assert page.locator("#count").inner_text() == "3 of 3"
    unfold(page, 2)
    assert page.locator(".problem").inner_text() == "the passage must be a string"


def test_what_was_judged_relevant_and_found_false_and_the_opposite(opened: Open):
    judgments = [judgment(0, 2.0), judgment(1, -1.0), judgment(2, 1.0), judgment(3, -2.0), judgment(4, 3.0)]
    texts = ["found", "missed", "wrong", "right", "unknown"]
    page = opened(
        judgments,
        pairs=[(QUERY, text) for text in texts],
        ids={index: ("q1", f"d{index}") for index in range(5)},
        qrels={"q1": {"d0": 2, "d1": 1, "d2": 0, "d3": -1}},
    )
    assert page.locator("#rows .ids").all_inner_texts()[0] == "query q1 · document d4"
    assert page.locator("#rows .chip").all_inner_texts() == ["no grade", "grade 2", "grade 0", "grade 1", "grade -1"]
    for label, expected in (
        ("relevant", ["found", "missed"]),
        ("not relevant", ["wrong", "right"]),
        ("without a grade", ["unknown"]),
        ("judged relevant, found false", ["missed"]),
        ("judged not relevant, found true", ["wrong"]),
    ):
        page.select_option("#judged", label=label)
        assert ranking(page) == expected, label
    assert "1 judged relevant, found false · 1 judged not relevant, found true" in page.inner_text("#summary")
    page.select_option("#judged", label="all")
    page.fill("#search", "d2")
    assert ranking(page) == ["wrong"]
    opened(judgments, pairs=PAIRS)
    assert page.locator("#judging").is_hidden()


ENVIRONMENT = {
    "command": ["rank1-hf", "evaluate", "--corpus", "/home/alice/scifact", "--note", HOSTILE],
    "options": {"model": "jhu-clsp/rank1-7b"},
    "versions": {"torch": "2.13.0"},
    "device": {"type": "cpu", "name": "EPYC"},
    "dtype": "bfloat16",
    "date": "2026-11-28T18:00:00+00:00",
}


def test_the_head_says_how_it_was_made(opened: Open):
    page = opened([judgment(0)], pairs=PAIRS, environments=[ENVIRONMENT])
    made = page.locator("#made")
    assert (
        made.locator("summary").inner_text()
        == "How it was made: jhu-clsp/rank1-7b · bfloat16 · cpu, EPYC · 2026-11-28 18:00 UTC"
    )
    made.locator("summary").click()
    assert "rank1-hf evaluate --corpus scifact --note" in made.locator("table").inner_text()
    assert (page.evaluate("window.hacked"), "alice" in page.content()) == (None, False)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#rows') !== null")


def test_the_legend_says_what_is_there_and_nothing_else(opened: Open):
    page = opened([judgment(0)], pairs=PAIRS)
    assert page.locator("#legend").inner_text().split("\n") == [
        "teal: true, found relevant",
        "the bar and the number: the score, p(true)",
    ]
    judged = [traced(0, 1.0, prompt=PROMPT), judgment(1, -1.0, "It. But", ended="budget")]
    qrels = {"q": {"d": 1}}
    page = opened(judged, pairs=PAIRS, other=[traced(0, -1.0)], ids={0: ("q", "d")}, qrels=qrels)
    text = page.locator("#legend").inner_text()
    for part in ("teal", "clay", "the bar", "the judged grade", "amber", "blue", "violet and ≠", "dropped when"):
        assert part in text
    assert page.locator("#legend li").count() == 8


def test_a_curve_that_was_kept_without_its_trace(opened: Open):
    judged = with_curve(traced(0, 2.0, chain_text(0, 40)))
    page = opened([judged], pairs=PAIRS)
    assert page.locator("#shading").is_visible()
    assert page.locator("#shade option").all_inner_texts() == ["entropy", "none"]
    unfold(page)
    curve = page.locator(".curve")
    assert curve.locator("circle").count() == len(judged.belief)
    assert curve.locator(".last").text_content() == "+2.0"
    assert "if the chain were closed there" in curve.locator("figcaption").inner_text()
    curve.locator("circle").nth(1).hover()
    point = judged.belief[1]
    assert f"token {point.n_tokens}: log-odds" in page.inner_text("#tip")
    words = page.locator(".chain .t").all()
    marked = [each.get_attribute("class").endswith("point") for each in words].index(True)
    assert "".join(each.text_content() for each in words[: marked + 1]) == judged.chain[: point.n_characters].lstrip()
    level = round(9 * (1 - math.exp(-point.entropy)))
    assert f"e{level}" in words[0].get_attribute("class").split()


def test_two_runs_and_where_they_part(opened: Open):
    def run(*chains: tuple[float, list[str]]) -> list[Judgment]:
        return [
            judgment(index, log_odds, "".join(texts), trace=trace_of(index, texts, log_odds))
            for index, (log_odds, texts) in enumerate(chains)
        ]

    same = ["It", " is", "."]
    ours = run((2.0, same), (1.0, ["It", " is", " so", "."]), (3.0, same))
    theirs = run((1.5, same), (-1.0, ["It", " is", " not", "."]))
    page = opened(ours, pairs=PAIRS, other=theirs, names=("bf16", "4-bit"))
    assert "verdicts agree on 1 of 2 · chains are equal in 1" in page.inner_text("#summary")
    assert page.locator("#heading").inner_text().split("\n")[:2] == ["bf16", "4-bit"]
    page.select_option("#differ", label="verdicts differ")
    assert ranking(page) == [PAIRS[1][1]]
    unfold(page)
    assert page.locator(".run h3:first-child").all_inner_texts()[0] == "bf16"
    assert page.locator(".t.parts").all_inner_texts() == [" so", " not"]
    page.select_option("#differ", label="all")
    assert "not in this run" in page.locator("summary").first.text_content()


def test_hostile_texts_are_text(opened: Open):
    hostile = traced(0, 1.0, HOSTILE, prompt=HOSTILE)
    page = opened(
        [hostile, judgment(1, 0.5, HOSTILE), Judgment.failed(2, HOSTILE)],
        pairs=[(HOSTILE, HOSTILE)] * 3,
        other=[judgment(0, -1.0, HOSTILE + " more")],
        names=(HOSTILE, HOSTILE),
        ids={index: (f"{HOSTILE} {index}", HOSTILE) for index in range(3)},
        qrels={f"{HOSTILE} 0": {HOSTILE: 2}},
        environments=[{"options": {"model": HOSTILE}, "command": [HOSTILE], "dtype": HOSTILE}, None],
    )
    assert HOSTILE[:40] in page.locator("#rows .ids").first.inner_text()
    page.click("#all")
    page.locator("details").nth(2).locator(".problem").first.wait_for()
    painted(page)
    page.locator(".chain .t").first.hover()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, main script, header script").count() == 0
    shown = page.locator("details").nth(1).locator(".passage").inner_text()
    assert "</script><script>window.hacked = true</script><img src=x" in shown
    assert "⟨U+202E⟩right to left⟨U+202C⟩ ⟨U+001B⟩[31m & &lt;b&gt;" in shown
    assert "\u202e" not in page.inner_text("body")


def test_a_passage_of_a_megabyte(opened: Open):
    passage = "wing <b>" * 131_072
    page = opened([judgment(0)], pairs=[("q", passage)])
    unfold(page)
    assert len(page.locator(".passage").inner_text()) == 20_000
    page.get_by_role("button", name="Show all 1,048,576 characters").click()
    assert page.locator(".passage").evaluate("node => node.textContent.length") == len(passage)


def test_a_thousand_judgments(opened: Open):
    """Few rows are made until one comes to them; all are found, and all are printed."""
    texts = [chain_text(index, 200) for index in range(1000)]
    pairs = [(f"query {index // 100}", f"passage {index} {texts[index]}") for index in range(1000)]
    page = opened([traced(index, index % 13 - 6.5, text) for index, text in enumerate(texts)], pairs=pairs)
    assert page.locator("#count").inner_text() == "1,000 of 1,000"
    assert page.locator("details").count() <= 100
    page.fill("#search", "passage 777")
    assert page.locator("#count").inner_text() == "1 of 1,000"
    assert "query 7" in page.locator("summary").text_content()
    page.fill("#search", "")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator("details").nth(60).wait_for(state="attached")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details").count() == 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(opened: Open, scheme: str):
    page = opened([judgment(0), judgment(1, -1.0)], pairs=PAIRS)
    page.emulate_media(color_scheme=scheme)
    unfold(page)
    paper = luminance(page.locator("body").evaluate("node => getComputedStyle(node).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("#query", "#summary", ".chain", ".facts", ".score.yes", ".score:not(.yes)", "footer"):
        assert contrast(page, selector) >= 4.5, selector


def test_paper_is_white_and_has_no_controls(opened: Open):
    page = opened([judgment(0, chain=chain_text(0))], pairs=PAIRS)
    unfold(page)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("body").evaluate("node => getComputedStyle(node).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#controls").is_hidden()
    assert page.locator(".chain").is_visible()


COLUMNS = ("measure", "a", "b", "diff.", "t-test", "Holm t", "perm.", "Holm perm.")
WIDE = Table("Measures", COLUMNS, [("nDCG@10", *["0.1234"] * 7)])


@pytest.mark.parametrize(("width", "two"), [(360, False), (320, True), (768, True)])
def test_it_fits_a_telephone(opened: Open, width: int, two: bool):
    """Everything is there without scrolling sideways, and both scores are in sight."""
    chains = [traced(0, chain=chain_text(0)), judgment(1, -1.0)]
    others = [with_curve(traced(0, -2.0, chain_text(1)))] if two else None
    page = opened(
        chains, pairs=[(QUERY, "W" * 200), PAIRS[1]], other=others, names=("bf16", "n" * 80), tables=[WIDE],
        ids={0: ("q" * 90, "d" * 90)}, qrels={"q" * 90: {"d" * 90: 1}}, environments=[ENVIRONMENT] * 2,
    )  # fmt: skip
    page.set_viewport_size({"width": width, "height": 740})
    page.click("#made summary")
    page.click("#rows summary")
    page.locator(".judgment").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = boxes(page, "#rows details:first-child .score")
    assert len(found) == 1 + two
    assert all(0 <= left < right <= width for left, _, right, _ in found)
    assert overlaps(found) == []
    too_wide = "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth).length"
    assert page.locator(".table").evaluate_all(too_wide) == 0


def boxes(page: Any, selector: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of all that is shown."""
    rectangles = "nodes => nodes.map(node => node.getBoundingClientRect())"
    found = page.locator(selector).evaluate_all(rectangles + ".map(box => [box.left, box.top, box.right, box.bottom])")
    return [tuple(each) for each in found if each[0] < each[2] and each[1] < each[3]]


def overlaps(boxes: list[tuple[float, float, float, float]]) -> list[Any]:
    """The pairs of boxes that have more in common than an edge."""
    return [
        (a, b)
        for a, b in combinations(boxes, 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5
    ]


@pytest.mark.parametrize("paper", [(680, 970), (1010, 640)])  # A4 without its margins, upright and on its side
def test_charts_do_not_overlap_on_paper(opened: Open, paper: tuple[int, int]):
    judgments = [traced(0, 3.0, chain_text(0, 60), prompt=PROMPT)]
    others = [traced(0, -3.0, chain_text(9, 60))]
    page = opened(judgments, pairs=PAIRS, other=others, environments=[ENVIRONMENT, None])
    unfold(page)
    page.set_viewport_size({"width": paper[0], "height": paper[1]})
    page.emulate_media(media="print")
    figures = boxes(page, "figure")
    assert len(figures) == 2 * 2  # runs, belief and lens
    assert overlaps([*figures, *boxes(page, ".chain, .end, .facts, .passage, #rows summary")]) == []
    labels = boxes(page, "figure svg text")
    assert len(labels) >= 4 * len(figures)
    assert overlaps(labels) == []
    assert all(any(x <= a and y <= b and c <= z and d <= w for x, y, z, w in figures) for a, b, c, d in labels)
    breaks = page.locator("figure").evaluate_all("nodes => nodes.map(node => getComputedStyle(node).breakInside)")
    assert set(breaks) == {"avoid"}
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#made table").is_visible()
    assert page.locator("#legend").is_visible()


def test_tables_stand_above_the_judgments(opened: Open):
    table = Table("Measures", ("measure", "A"), [("AP", "0.5"), (HOSTILE, "0.25")], note="over 2 queries")
    page = opened([judgment(0, 1.0)], pairs=PAIRS, tables=[table])
    assert page.locator("#tables h2").inner_text() == "Measures"
    assert page.locator("#tables th").all_inner_texts() == ["measure", "A"]
    assert page.locator("#tables tbody tr").count() == 2
    assert "window.hacked = true" in page.locator("#tables tbody").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#rows details").count() == 1


def test_without_judgments_the_tables_stand_alone(opened: Open):
    page = opened([], other=[], tables=[Table("Measures", ("measure",), [("AP",)])])
    assert page.locator("#tables table").is_visible()
    assert not page.locator("#controls").is_visible()
    assert not page.locator("#judgments").is_visible()


def test_a_score_of_1_has_infinite_log_odds(opened: Open):
    sure = replace(judgment(0), score=1.0, log_odds=math.inf)
    page = opened([judgment(1, 2.0), sure], pairs=PAIRS)
    assert page.locator("#rows summary .what").first.inner_text().startswith("A wing")
    page.locator("#rows summary").first.click()
    assert "+Infinity" in page.locator(".end").first.inner_text()
