"""The page in a real browser: headless Chromium, driven by playwright. Skipped where there is none."""

import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
    page.locator("summary").nth(row).click()
    page.locator("details").nth(row).locator(".judgment").wait_for()
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
    )
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


def test_it_fits_a_telephone(opened: Open):
    page = opened([traced(0, chain=chain_text(0))], pairs=PAIRS)
    page.set_viewport_size({"width": 360, "height": 740})
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


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
