"""What a notebook shows of judgments."""

import re
from html.parser import HTMLParser
from math import nan

import numpy as np
import pytest

from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing.lens import Lens
from rank1_hf.viewing.judgments import Judgments, Ranking
from tests.viewing.made import HOSTILE, chain_text, judgment, trace_of, traced

PAIRS = [("wings", "A wing."), ("wings", "Flour.")]


class Shown(HTMLParser):
    """The tags of some HTML, which must all be closed, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_judgment_shows_its_verdict_and_its_chain():
    shown = Shown(judgment(0, -1.25, "\nIt is. But", ended="budget", n_chain_tokens=3)._repr_html_())
    assert shown.text == "false 0.2227 (log-odds -1.25; 3 tokens, closed by force (budget))It is. But"


def test_tokens_are_shaded_by_their_entropy():
    trace = trace_of(0, ["sure", " not", " sure"], entropies=[0.0, 3.0, 0.0])
    html = judgment(0, chain="sure not sure", trace=trace)._repr_html_()
    assert html.count("<span") == 1
    assert '0.57)"> not</span>' in html


def test_a_failed_judgment_says_why():
    assert Shown(Judgment.failed(0, "the query is blank")._repr_html_()).text == "not judged: the query is blank"


def test_a_ranking_is_a_table_best_first():
    judgments = Judgments([judgment(0, 1.0, "first chain"), judgment(1, 2.0, "second chain")], PAIRS)
    shown = Shown(judgments._repr_html_())
    assert shown.tags.count("tr") == 2
    assert [shown.text.index(part) for part in ("Flour.", "second chain", "A wing.", "first chain")] == sorted(
        shown.text.index(part) for part in ("Flour.", "second chain", "A wing.", "first chain")
    )


def test_a_long_ranking_shows_its_best():
    shown = Shown(Judgments(judgment(index, -index, chain_text(index)) for index in range(50))._repr_html_())
    assert shown.tags.count("tr") == 20
    assert "and 30 more" in shown.text


def test_a_ranking_of_rank_shows_what_is_in_it():
    judgments = Judgments([judgment(0, 1.0, "first chain"), judgment(1, 2.0, "second chain")], PAIRS)
    ranking = Ranking([{"corpus_id": 1}], judgments)
    shown = Shown(ranking._repr_html_())
    assert shown.tags.count("tr") == 1
    assert "Flour." in shown.text
    assert "A wing." not in shown.text
    assert ranking == [{"corpus_id": 1}]


def test_hostile_texts_are_text():
    good = Judgments([traced(0, chain="a"), Judgment.failed(1, "b")], [("q", "p"), ("q", "p")])
    evil = Judgments([traced(0, chain=HOSTILE), Judgment.failed(1, HOSTILE)], [(HOSTILE, HOSTILE)] * 2)
    assert set(Shown(evil._repr_html_()).tags) <= set(Shown(good._repr_html_()).tags) | {"span"}
    assert "\u202e" not in evil._repr_html_()


def lens_of(text: str) -> Lens:
    """Of a prompt of two tokens, in two layers of one head."""
    attention = np.array([[[0.1, 0.2]], [[0.3, 0.4]]], dtype=np.float32)
    return Lens(np.array([-1.0, 2.0], dtype=np.float32), attention, [7, 8], ["prompt ", text], judgment(3, 2.0))


def test_a_trace_shows_its_chain_and_what_else_might_have_been_said():
    trace = trace_of(4, ["sure", " not"], entropies=[0.0, 3.0], alternative_texts=[" a", " b"], margins=[9.0, 0.5])
    html = trace._repr_html_()
    shown = Shown(html)
    assert "trace of pair 4 (2 tokens)sure not" in shown.text
    assert "belief " in shown.text
    assert f"log-probability {trace.logprobs[1]:.2f}; else &#x27; b&#x27;, margin +0.50" in html
    forced = Shown(trace_of(0, ["Wait"], margins=[nan], entropies=[nan], logprobs=[nan])._repr_html_())
    assert "Wait" in forced.text


def test_a_lens_shows_its_layers_and_shades_the_prompt():
    html = lens_of("wing")._repr_html_()
    shown = Shown(html)
    assert "lens of pair 3: true" in shown.text
    assert "layer 0-1.00layer 1+2.00prompt wing" in shown.text
    assert 'rgba(15, 118, 110, 0.60)" title="0.3000">wing' in html


def test_hostile_texts_in_traces_and_lenses_are_text():
    evil = trace_of(0, [HOSTILE], alternative_texts=[HOSTILE], belief=[])._repr_html_() + lens_of(HOSTILE)._repr_html_()
    good = trace_of(0, ["a"], belief=[])._repr_html_() + lens_of("b")._repr_html_()
    assert Shown(evil).tags == Shown(good).tags
    assert "\u202e" not in evil
    assert not re.search(r"<[^>]*(hacked|onerror)", re.sub(r'title="[^"<>]*"', "", evil))


def test_judgments_print_in_a_few_lines():
    judged = [judgment(0, 2.0), judgment(1, -2.0, ended="budget"), Judgment.failed(2, "no\ntext\x1b")]
    lines = str(Judgments(judged, [*PAIRS, ("wings", HOSTILE)])).splitlines()
    assert lines[0] == "Judgments: 3 pairs, 1 relevant, 1 not judged"
    assert lines[1].split() == ["0", "0.881", "true", "closed", "3", "tokens", "A", "wing."]
    assert lines[2].split()[:4] == ["1", "0.119", "false", "budget"]
    assert lines[3].strip() == "2  not judged: no text\N{REPLACEMENT CHARACTER}"
    assert len(lines) == 4
    assert repr(Judgments()) == "Judgments: 0 pairs, 0 relevant"
    many = str(Judgments(judgment(index) for index in range(50))).splitlines()
    assert (len(many), many[-1].strip()) == (12, "and 40 more")
    assert "It names wings." in many[1]


def test_pairs_with_names_are_shown_by_their_texts():
    pairs = [{"passage": "A wing.", "query": "wings"}, ("bread", "Flour.")]
    lines = str(Judgments([judgment(0), judgment(1)], pairs)).splitlines()
    assert [line.split("tokens")[1].strip() for line in lines[1:]] == ["A wing.", "Flour."]


def test_a_ranking_prints_and_becomes_a_table_best_first():
    judged = [judgment(0, 1.0), Judgment.failed(1, "no"), judgment(2, 3.0)]
    hits = [
        {"corpus_id": index, "score": judged[index].score, "log_odds": judged[index].log_odds, **rest}
        for index, rest in ((2, {"text": {"title": "Wings", "text": "lift."}}), (0, {"text": "a"}), (1, {"text": None}))
    ]
    ranking = Ranking(hits, Judgments(judged, [("q", "a"), ("q", None), ("q", {"title": "Wings", "text": "lift."})]))
    lines = str(ranking).splitlines()
    assert lines[0] == "Ranking: 3 passages, best first, by corpus_id"
    assert [line.split()[0] for line in lines[1:]] == ["2", "0", "1"]
    assert lines[1].endswith("Wings lift.")
    assert "not judged: no" in lines[3]
    pytest.importorskip("pyarrow")
    rows = ranking.to_arrow().to_pylist()
    assert [row["corpus_id"] for row in rows] == [2, 0, 1]
    assert [row["text"] for row in rows] == ["Wings lift.", "a", None]
    assert [row["score"] for row in rows] == [judged[2].score, judged[0].score, None]
    assert "text" not in Ranking([{"corpus_id": 0}], Judgments(judged)).to_arrow().column_names
    assert Ranking([], Judgments()).to_arrow().num_rows == 0
    pytest.importorskip("pandas")
    assert ranking.to_pandas()["corpus_id"].tolist() == [2, 0, 1]


def test_dollar_signs_are_no_mathematics():
    assert "mathjax_ignore" in judgment(0, chain="from $5 to $6")._repr_html_()
    assert "mathjax_ignore" in Judgments([judgment(0)])._repr_html_()
