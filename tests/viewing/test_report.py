"""The page's data, and that nothing in it can become markup."""

import json
import math
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.results.belief_curve import with_curve
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import Judgments
from rank1_hf.viewing.report import page, report_data, write_html
from tests.viewing.made import HOSTILE, chain_text, judgment, trace_of, traced

PAIRS = [("wings", "A wing."), ("wings", {"title": "Bread", "text": "Flour."}), ("bread", "A wing.")]


class Page(HTMLParser):
    """What an HTML parser finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, object]:
        """What the page's own script reads."""
        return json.loads(self.texts["script"][0])


def test_rows_are_ranked_within_their_query_with_their_texts():
    data = report_data([judgment(0, 1.0), judgment(1, 3.0), judgment(2, 2.0)], pairs=PAIRS)
    assert data["queries"] == ["wings", "bread"]
    assert data["passages"] == ["A wing.", "Bread Flour."]
    rows = [(row["index"], row["query"], row["passage"], row["runs"][0]["rank"]) for row in data["rows"]]
    assert rows == [(1, 0, 1, 1), (0, 0, 0, 2), (2, 1, 0, 1)]


def test_a_judgment_keeps_its_fields():
    known = judgment(0, -1.5, n_chain_tokens=7, ended="budget", truncated=True, chain="\nIt is. But")
    (run,) = report_data([known])["rows"][0]["runs"]
    for name in ("score", "log_odds", "label", "n_prompt_tokens", "n_chain_tokens", "ended", "truncated", "error"):
        assert run[name] == getattr(known, name)
    assert (run["pieces"], run["kept"], run["trace"]) == (["\nIt", " is.", " But"], 2, None)


def test_what_failed_comes_last_and_has_no_rank():
    data = report_data(
        [Judgment.failed(0, "the passage must be a string"), judgment(1, -5.0)], pairs=[("q", None), ("q", "p")]
    )
    assert [row["index"] for row in data["rows"]] == [1, 0]
    failed = data["rows"][1]
    assert (failed["passage"], failed["runs"][0]["rank"], failed["runs"][0]["score"]) == (None, None, None)
    assert failed["runs"][0]["error"] == "the passage must be a string"


def test_without_pairs_there_are_no_texts():
    data = report_data([judgment(3)])
    assert (data["queries"], data["passages"]) == ([], [])
    assert (data["rows"][0]["query"], data["rows"][0]["passage"]) == (None, None)


@pytest.mark.parametrize("pairs", [[], [("q",)], [None], [("q", 7)], [(None, "p")]])
def test_pairs_that_are_none_do_no_harm(pairs):
    assert len(report_data([judgment(0)], pairs=pairs)["rows"]) == 1


def test_traces_are_rounded_and_whole():
    trace = trace_of(
        0,
        ["a", "b"],
        margins=[math.inf, 1.23456],
        entropies=[0.123456, 0.0],
        lens=[1.0],
        attention=[0.25],
        prompt_texts=["p"],
    )
    shown = report_data([judgment(0, trace=trace)])["rows"][0]["runs"][0]["trace"]
    assert (shown["margins"], shown["entropies"]) == ([None, 1.235], [0.123, 0.0])
    assert (shown["lens"], shown["attention"], shown["prompt"]) == ([1.0], [0.25], ["p"])
    assert shown["alternatives"] == trace.alternative_texts


def test_two_runs_are_matched_by_index_and_part_where_they_differ():
    ours = [judgment(0, 1.0, "It is."), judgment(1, 2.0, "It is.")]
    theirs = [judgment(1, -2.0, "It was."), judgment(2, 3.0, "New.")]
    data = report_data(ours, other=theirs, names=("bf16", "4-bit"))
    assert data["names"] == ("bf16", "4-bit")
    found = [(row["index"], [run and run["log_odds"] for run in row["runs"]], row["diverges"]) for row in data["rows"]]
    assert found == [(1, [2.0, -2.0], (1, 1)), (0, [1.0, None], None), (2, [None, 3.0], None)]


IDS = {0: ("q1", "d1"), 1: ("q1", "d2"), 2: ("q2", "d1")}
ENVIRONMENT = {"environment": 1, "options": {"model": "jhu-clsp/rank1-7b"}, "dtype": "bfloat16"}


def test_ids_and_grades_stand_beside_their_pairs():
    qrels = {"q1": {"d1": 0, "d2": 3}, "q2": {"d2": 1}}
    data = report_data([judgment(index) for index in range(4)], pairs=[*PAIRS, PAIRS[0]], ids=IDS, qrels=qrels)
    found = {row["index"]: (row["ids"], row["grade"]) for row in data["rows"]}
    assert found == {0: (("q1", "d1"), 0), 1: (("q1", "d2"), 3), 2: (("q2", "d1"), None), 3: (None, None)}


def test_ids_and_qrels_of_a_call(tmp_path: Path):
    judged = Judgments([judgment(0), judgment(1)], PAIRS[:2])
    judged.to_html(tmp_path / "page.html", ids=[IDS[0], IDS[1]], qrels={"q1": {"d2": 1}})
    data = Page((tmp_path / "page.html").read_text()).data
    assert [(row["ids"], row["grade"]) for row in data["rows"]] == [(["q1", "d1"], None), (["q1", "d2"], 1)]
    with pytest.raises(ValueError, match="qrels need ids"):
        judged.to_html(tmp_path / "page.html", qrels={"q1": {"d2": 1}})


def test_how_the_runs_were_made_is_in_the_head():
    data = report_data([judgment(0)], environments=[ENVIRONMENT])
    assert data["made"]["columns"] == ("", "this run")
    assert ("dtype", "bfloat16") in data["made"]["rows"]
    both = report_data([judgment(0)], other=[judgment(0)], names=("a", "b"), environments=[None, ENVIRONMENT])
    assert ("dtype", "", "bfloat16") in both["made"]["rows"]
    assert report_data([judgment(0)])["made"] is None


def test_a_belief_curve_is_shown_without_its_trace_as_with_it():
    judged = traced(0, 2.0, chain_text(0, 40))
    with_trace, kept = (report_data([each])["rows"][0]["runs"][0] for each in (judged, with_curve(judged)))
    assert [point[:2] for point in kept["belief"]] == [
        (n_tokens, pytest.approx(log_odds, abs=1e-4)) for n_tokens, log_odds, *_ in with_trace["belief"]
    ]
    assert kept["entropy"] == pytest.approx(with_trace["entropy"], abs=1e-3)
    for (n_tokens, _, n_words, _), (_, _, n_pieces, _) in zip(kept["belief"], with_trace["belief"], strict=True):
        texts = "".join(kept["pieces"][:n_words]), "".join(with_trace["pieces"][:n_pieces])
        assert texts[0] == texts[1], n_tokens


def test_a_page_holds_its_data_and_needs_nothing_else(tmp_path: Path):
    judgments = [traced(index, 1.0 - index, chain_text(index), prompt="Is this a wing?") for index in range(3)]
    Judgments(judgments, PAIRS).to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert found.data == json.loads(json.dumps(report_data(judgments, pairs=PAIRS)))
    for tag, attributes in found.tags:
        assert "src" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("href", "data:,") == "data:,", tag
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML|insertAdjacent|document\.write|eval\(", text)


def test_the_policy_allows_the_page_s_own_style_and_script_by_hash_and_nothing_else():
    text = page(report_data([judgment(0)]))
    (policy,) = [meta["content"] for meta in Page(text).all("meta") if "http-equiv" in meta]
    directives = dict(directive.split(maxsplit=1) for directive in policy.split("; "))
    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)[0]
        assert directives[kind] == f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def test_hostile_texts_stay_data():
    hostile = traced(0, chain=HOSTILE, prompt=HOSTILE)
    failed = Judgment.failed(1, HOSTILE)
    environment = {"options": {"model": HOSTILE}, "command": [HOSTILE], "device": {"name": HOSTILE}, "dtype": HOSTILE}
    plain = page(report_data([traced(0), failed], pairs=[("q", "p"), ("q", "p")], names=("a", "b")))
    evil = page(
        report_data(
            [hostile, failed],
            pairs=[(HOSTILE, HOSTILE), (HOSTILE, HOSTILE)],
            ids={0: (HOSTILE, HOSTILE)},
            qrels={HOSTILE: {HOSTILE: 1}},
            environments=[environment],
            names=(HOSTILE, "b"),
        )
    )
    assert [tag for tag, _ in Page(evil).tags] == [tag for tag, _ in Page(plain).tags]
    assert Page(evil).data["passages"] == [HOSTILE]
    assert [(row["ids"], row["grade"]) for row in Page(evil).data["rows"]] == [([HOSTILE, HOSTILE], 1), (None, None)]
    assert Page(evil).data["rows"][1]["runs"][0]["error"] == HOSTILE
    assert "hacked = true</script>" not in evil


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_comes_back_as_it_was(text):
    evil = page(report_data([judgment(0, chain=text)]))
    data = Page(evil.encode("utf-8", "backslashreplace").decode()).data
    assert "".join(data["rows"][0]["runs"][0]["pieces"]) == text


def test_a_lone_surrogate_can_be_written(tmp_path: Path):
    write_html([judgment(0, chain="bad \ud800 half")], tmp_path / "report.html")
    data = Page((tmp_path / "report.html").read_text(encoding="utf-8")).data
    assert "".join(data["rows"][0]["runs"][0]["pieces"]) == "bad \ud800 half"


def test_a_thousand_traced_judgments_stay_small(tmp_path: Path):
    """300 tokens each, which is a long chain of rank1, and a passage of 200 words with its attention."""
    judgments = [
        traced(index, index % 7 - 3.0, chain_text(index, 260), prompt=chain_text(-index, 200)) for index in range(1000)
    ]
    pairs = [("what carries an aircraft", chain_text(-index, 200)) for index in range(1000)]
    write_html(judgments, tmp_path / "report.html", pairs=pairs)
    assert sum(len(each.trace.texts) for each in judgments) > 250_000
    assert (tmp_path / "report.html").stat().st_size < 15e6
