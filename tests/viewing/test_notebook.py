"""What a notebook shows of judgments."""

from html.parser import HTMLParser

from rank1_hf.results.judgment import Judgment
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


def test_dollar_signs_are_no_mathematics():
    assert "mathjax_ignore" in judgment(0, chain="from $5 to $6")._repr_html_()
    assert "mathjax_ignore" in Judgments([judgment(0)])._repr_html_()
