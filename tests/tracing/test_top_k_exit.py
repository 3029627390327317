"""The ranking's own early exit: who is given up, and that nobody else is disturbed."""

from collections.abc import Sequence

import pytest

from rank1_hf import Rank1, TopKExit
from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing.top_k_exit import TopKExitRule

QUERY = "what carries the weight of an aircraft in flight"
PASSAGES = [
    "The wing carries the weight of the aircraft in flight.",
    "Bread is made of flour, water and salt.",
    "In flight the wing of an aircraft carries its weight.",
    "A ship is carried by water.",
    "The moon goes around the earth.",
    "Salt is won from the sea.",
]


class Passage:
    """A passage in a ranking, as the decode loop would have it think."""

    def __init__(self, exit_rule: TopKExitRule, index: int) -> None:
        self.exit_rule, self.index, self.rule = exit_rule, index, exit_rule.for_pair(index)
        self.beliefs = [BeliefPoint(0, 100.0)]  # the start of a chain says nothing

    def believes(self, *log_odds: float) -> bool:
        """Whether it is given up at the last of these places."""
        stops = False
        for value in log_odds:
            self.beliefs.append(BeliefPoint(len(self.beliefs), value))
            stops = self.rule.stop([0] * len(self.beliefs), self.beliefs)
        return stops

    def finishes(self, log_odds: float, error: str | None = None) -> None:
        judgment = Judgment(self.index, 0.5, log_odds, None, "", 1, 1, "closed", False, error)
        self.exit_rule.finished(self, judgment)  # type: ignore[arg-type]


def passages(n: int, *, k: int, lead: float = 1.0, beliefs: int = 1) -> Sequence[Passage]:
    exit_rule = TopKExitRule(k, TopKExit(lead, beliefs))
    return [Passage(exit_rule, index) for index in range(n)]


def test_a_passage_is_given_up_once_k_others_lead_it_by_the_margin():
    best, second, last = passages(3, k=2)
    assert not best.believes(3.0)
    assert not last.believes(0.0), "one other leads it, and two are wanted"
    assert not second.believes(1.0)
    assert not last.believes(0.0), "the second leads it by the margin, and not by more"
    assert last.believes(-0.1)


def test_one_passage_cannot_be_overtaken_by_itself():
    (alone,) = passages(1, k=1)
    assert not alone.believes(5.0, -5.0)


def test_the_lowest_of_the_others_counts_against_the_highest_of_its_own():
    first, other = passages(2, k=1, beliefs=2)
    first.believes(5.0)
    assert not other.believes(0.0, 0.0), "the first has only one belief yet"
    first.believes(2.0)
    assert not other.believes(1.5, 0.0), "2.0 is not so far above 1.5"
    assert other.believes(0.9)


def test_a_verdict_counts_as_it_is_and_a_failure_for_nothing():
    first, other = passages(2, k=1, beliefs=2)
    first.finishes(5.0)
    assert not other.believes(0.0)
    assert other.believes(0.0), "it has its two beliefs now"
    first.finishes(float("nan"), error="no memory")
    assert not other.believes(0.0)


def test_between_beliefs_nobody_is_given_up():
    first, other = passages(2, k=1)
    assert not other.believes(0.0)
    first.finishes(9.0)
    assert not other.rule.stop([0, 0, 0], other.beliefs)
    assert other.believes(0.0)


@pytest.mark.parametrize("thresholds", [{"lead": -1.0}, {"lead": float("nan")}, {"beliefs": 0}])
def test_thresholds_that_make_no_sense_are_refused(thresholds):
    with pytest.raises(ValueError, match="a top-k exit needs"):
        TopKExit(**thresholds)


@pytest.mark.parametrize("belief_at", ["words", 0, True, 1.5])
def test_places_that_are_none_are_refused(belief_at):
    with pytest.raises(ValueError, match="'sentences' or every so many tokens"):
        TopKExit(belief_at=belief_at)


@pytest.fixture(scope="module")
def reranker() -> Rank1:
    return Rank1(device="cpu", dtype="float32", max_new_tokens=96)  # the embedded model, which writes sentences


def test_rank_gives_up_who_is_behind_and_only_cuts_chains(reranker):
    plain = reranker.rank(QUERY, PASSAGES)
    early = reranker.rank(QUERY, PASSAGES, top_k=2, early_exit=TopKExit(lead=0.5, beliefs=1))
    assert [hit["corpus_id"] for hit in early] == [hit["corpus_id"] for hit in plain[:2]]
    assert [hit["chain"] for hit in early] == [hit["chain"] for hit in plain[:2]], "the best think as they would"

    exit_rule = TopKExitRule(2, TopKExit(lead=0.5, beliefs=1))
    judgments = reranker.judge([(QUERY, passage) for passage in PASSAGES], rule=exit_rule, observers=[exit_rule])
    chains = {hit["corpus_id"]: hit["chain"] for hit in plain}
    assert all(chains[judgment.index].startswith(judgment.chain) for judgment in judgments)
    stopped = [judgment for judgment in judgments if judgment.ended == "stopped"]
    assert stopped
    assert all(judgment.error is None and not judgment.label for judgment in stopped)


def test_beliefs_may_be_read_every_so_many_tokens(reranker):
    plain = reranker.judge([(QUERY, passage) for passage in PASSAGES])
    early = reranker.rank(QUERY, PASSAGES, top_k=2, early_exit=TopKExit(lead=0.0, beliefs=1, belief_at=4)).judgments
    stopped = [judgment for judgment in early if judgment.ended == "stopped"]
    assert stopped
    for judgment in stopped:
        assert judgment.n_chain_tokens % 4 == 1, "one token behind the place"
        assert judgment.n_chain_tokens < plain[judgment.index].n_chain_tokens
        assert plain[judgment.index].chain.startswith(judgment.chain)


def test_rank_thinks_to_the_end_where_everybody_is_wanted(reranker):
    plain = reranker.rank(QUERY, PASSAGES[:3], top_k=3)
    assert reranker.rank(QUERY, PASSAGES[:3], top_k=3, early_exit=TopKExit(lead=0.0, beliefs=1)) == plain


def test_equal_passages_are_decoded_once_and_a_bad_one_harms_nobody(reranker):
    documents = [PASSAGES[0], PASSAGES[1], PASSAGES[0], None]
    hits = reranker.rank(QUERY, documents, top_k=4, early_exit="top_k")
    by_id = {hit["corpus_id"]: hit for hit in hits}
    assert by_id[0]["log_odds"] == by_id[2]["log_odds"]
    assert by_id[3]["error"] is not None


def test_early_exits_that_make_no_sense(reranker):
    with pytest.raises(ValueError, match="early_exit needs top_k"):
        reranker.rank(QUERY, PASSAGES, early_exit="top_k")
    with pytest.raises(ValueError, match="'top_k', a TopKExit or None, not 'belief'"):
        reranker.rank(QUERY, PASSAGES, top_k=1, early_exit="belief")
