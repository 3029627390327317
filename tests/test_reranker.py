"""Rank1: predict, rank and judge, on random-weight models."""

import itertools
import math
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM

from rank1_hf import Interrupted, PairError, Rank1
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.requests import Decoded
from rank1_hf.models.loading import load_model, open_checkpoint
from rank1_hf.results.judgment import sigmoid
from tests import tiny_models
from tests.tiny_models import prompt_of

BUDGET = 24
PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line]
PAIRS = [("how do wings carry an aeroplane?", passage) for passage in PASSAGES] + [
    ("what does bread need?", passage) for passage in PASSAGES[:4]
]


@pytest.fixture
def reranker(checkpoint) -> Rank1:
    return Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=BUDGET)


@pytest.fixture
def endless(checkpoint) -> Rank1:
    """A model that never closes its chain, in a context of 160 tokens."""
    silent = {"close_scale": 0.0, "eos_scale": 0.0, "plain_chains": True}
    folder = checkpoint("qwen2", max_position_embeddings=160, **silent)
    return Rank1(folder, device="cpu", max_new_tokens=BUDGET)


@pytest.fixture
def requests(reranker, monkeypatch) -> list:
    """What is really decoded by `reranker`."""
    seen = []
    run = reranker.decoder.run

    def spy(incoming, **options):
        return run((seen.append(request) or request for request in incoming), **options)

    monkeypatch.setattr(reranker.decoder, "run", spy)
    return seen


def give_verdicts(reranker: Rank1, monkeypatch: pytest.MonkeyPatch, log_odds: list[float]) -> None:
    """Put the verdict of every pair, by its place, in the decoder's mouth; NaN fails."""

    def run(requests, **options):
        for request in requests:
            value = log_odds[request.index]
            yield Decoded(request.index, (), "closed", value, 0.0, "broken" if math.isnan(value) else None)

    monkeypatch.setattr(reranker.decoder, "run", run)


def same(judgments, others) -> bool:
    """Whether judgments are equal, up to the rounding of other batch shapes."""
    return len(judgments) == len(others) and all(
        one.to_dict() | {"score": 0, "log_odds": 0} == other.to_dict() | {"score": 0, "log_odds": 0}
        and one.log_odds == pytest.approx(other.log_odds, abs=1e-3, nan_ok=True)
        for one, other in zip(judgments, others, strict=True)
    )


class TestPredict:
    def test_scores_in_the_order_given(self, reranker):
        scores = reranker.predict(PAIRS)
        assert scores.shape == (len(PAIRS),)
        assert scores.dtype == np.float32
        assert len(set(scores.tolist())) == len(PAIRS)
        alone = [reranker.predict([pair])[0] for pair in PAIRS]
        np.testing.assert_allclose(scores, alone, atol=1e-4)

    def test_one_pair_gives_one_number(self, reranker):
        score = reranker.predict(PAIRS[0])
        assert isinstance(score, np.float32)
        assert score == pytest.approx(reranker.predict(PAIRS[:1])[0], abs=1e-4)
        assert reranker.predict(list(PAIRS[0])) == score

    def test_one_pair_of_mappings_gives_one_number(self, reranker):
        score = reranker.predict(({"text": "wings", "instruction": "not birds"}, {"title": "Flight", "text": "air"}))
        assert isinstance(score, np.float32)
        assert score == reranker.predict([("wings not birds", "Flight air")])[0]

    def test_two_pairs_are_not_one(self, reranker):
        assert reranker.predict(PAIRS[:2]).shape == (2,)
        assert reranker.predict([list(pair) for pair in PAIRS[:2]]).shape == (2,)

    def test_nothing(self, reranker):
        scores = reranker.predict([])
        assert scores.shape == (0,)
        assert scores.dtype == np.float32
        assert reranker.judge([]) == []
        assert list(reranker.judge([], stream=True)) == []
        assert reranker.rank("wings", []) == []

    def test_warns_of_pairs_without_a_score(self, reranker):
        with pytest.warns(UserWarning, match=r"1 of 3 pairs have no score \(pair 1: the query is blank"):
            scores = reranker.predict([PAIRS[0], (" ", "air"), PAIRS[1]])
        assert np.isnan(scores).tolist() == [False, True, False]
        with pytest.warns(UserWarning, match=r"5 of 5 pairs have no score \(pair 0: .*pair 2: .*; and 2 more\)"):
            reranker.predict([("", "air")] * 5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reranker.predict(PAIRS[:2])

    def test_a_ranking_warns_of_passages_without_a_score(self, reranker):
        with pytest.warns(UserWarning, match=r"1 of 2 pairs have no score \(pair 0: the passage has no 'text'") as said:
            hits = reranker.rank("wings", [{"id": 1, "content": "The wing"}, "air"])
        assert len(said) == 1
        assert said[0].filename == __file__
        assert hits[-1]["corpus_id"] == 0

    def test_a_ranking_of_nothing_that_can_be_judged_is_an_error_before_any_work(self, reranker, monkeypatch):
        monkeypatch.setattr(reranker, "judge", lambda *_, **__: pytest.fail("judged"))
        records = [{"id": n, "title": "Flight", "body": "The wing", "url": "a.b"} for n in range(3)]
        reason = "the passage has no 'text'; it has id, title, body, url"
        with pytest.raises(PairError, match=rf"^none of the 4 documents can be judged: {reason}$"):
            reranker.rank("wings", [*records, None])
        with pytest.raises(PairError, match=r"^the only document cannot be judged: the passage must be a string"):
            reranker.rank("wings", [types.SimpleNamespace(page_content="The wing")])

    @pytest.mark.parametrize("queries", [["wings", "bread"], ("wings",), np.array(["wings", "bread"])])
    def test_a_ranking_is_of_one_query(self, reranker, queries):
        with pytest.raises(PairError, match=r"rank takes one query .*; judge\(pairs\) takes pairs of several queries"):
            reranker.rank(queries, ["air"])

    @pytest.mark.parametrize("pairs", ["a query", b"bytes", {"query": "passage"}, 7, None])
    def test_what_is_no_list_of_pairs(self, reranker, pairs):
        with pytest.raises(TypeError, match=r"pairs must be a list of \(query, passage\)"):
            reranker.predict(pairs)

    @pytest.mark.parametrize("strings", [["query"], ("query", "one", "two"), ("query", b"one", "two"), {"a", "b", "c"}])
    @pytest.mark.parametrize("kind", [lambda strings: strings, lambda strings: np.array([*strings], dtype=object)])
    def test_a_flat_list_of_strings_is_no_list_of_pairs(self, reranker, strings, kind):
        for method in (reranker.judge, reranker.predict, lambda pairs: reranker.judge(pairs, stream=True)):
            with pytest.raises(TypeError, match=r"strings only; rank\(query, passages\) takes one query"):
                method(kind(strings))

    def test_a_string_beside_pairs_is_its_own_error(self, reranker):
        good, bad = reranker.judge([("query", "passage"), "query"])
        assert "a pair must be (query, passage)" in bad.error
        assert good.error is None


class TestRank:
    def test_fields_and_order(self, reranker):
        query = "how do wings carry an aeroplane?"
        ranked = reranker.rank(query, PASSAGES)
        judgments = reranker.judge([(query, passage) for passage in PASSAGES])
        best_first = sorted(judgments, key=lambda judgment: -judgment.log_odds)
        assert [result["corpus_id"] for result in ranked] == [judgment.index for judgment in best_first]
        for result, judgment in zip(ranked, best_first, strict=True):
            fields = judgment.to_dict()
            assert result == {name: fields[name] for name in result if name != "corpus_id"} | {
                "corpus_id": judgment.index
            }
        assert {"corpus_id", "score", "log_odds", "chain", "error"} <= ranked[0].keys()
        assert "text" not in ranked[0]

    def test_it_shows_itself_and_has_all_judgments(self, reranker):
        ranked = reranker.rank("wings", PASSAGES, top_k=2)
        assert isinstance(ranked, list)
        assert ranked._repr_html_().count("<tr") == 2
        assert ranked.judgments == reranker.judge([("wings", passage) for passage in PASSAGES])
        assert ranked.judgments.pairs == [("wings", passage) for passage in PASSAGES]

    def test_top_k_keeps_the_best(self, reranker):
        ranked = reranker.rank("wings", PASSAGES)
        assert reranker.rank("wings", PASSAGES, top_k=3) == ranked[:3]
        assert reranker.rank("wings", PASSAGES, top_k=100) == ranked
        for top_k in (0, -1, True, 1.5):
            with pytest.raises(ValueError, match="top_k must be a whole number of at least 1"):
                reranker.rank("wings", PASSAGES, top_k=top_k)

    def test_documents_come_back_as_they_were_given(self, reranker):
        documents = ["air", {"title": "Flight", "text": "air"}, ""]
        ranked = reranker.rank("wings", documents, return_documents=True)
        assert {result["corpus_id"] for result in ranked} == {0, 1, 2}
        assert all(result["text"] is documents[result["corpus_id"]] for result in ranked)

    def test_by_log_odds_then_position_then_failures(self, reranker, monkeypatch):
        give_verdicts(reranker, monkeypatch, [math.nan, 50.0, -3.0, 60.0, 50.0])
        ranked = reranker.rank("wings", ["a", "b", "c", "d", "e"])
        assert [result["corpus_id"] for result in ranked] == [3, 1, 4, 2, 0]
        assert [result["score"] for result in ranked[:3]] == [1.0, 1.0, 1.0]
        assert ranked[-1]["error"] == "broken"

    def test_equal_documents_keep_their_order(self, reranker):
        ranked = reranker.rank("wings", ["air", "water", "air", "water", "air"])
        places = [result["corpus_id"] for result in ranked]
        assert places in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])

    def test_bad_arguments(self, reranker):
        with pytest.raises(PairError, match="the query is blank"):
            reranker.rank(" ", ["air"])
        with pytest.raises(PairError, match="the query must be a string"):
            reranker.rank(None, ["air"])
        for documents in ("air", b"air", {"text": "air"}):
            with pytest.raises(TypeError, match="documents must be a list of passages"):
                reranker.rank("wings", documents)


class TestJudge:
    def test_a_judgment_says_what_happened(self, reranker):
        judgments = reranker.judge(PAIRS)
        assert [judgment.index for judgment in judgments] == list(range(len(PAIRS)))
        assert {"closed", "budget"} <= {judgment.ended for judgment in judgments}
        for judgment, (query, passage) in zip(judgments, PAIRS, strict=True):
            assert judgment.error is None
            assert judgment.score == sigmoid(judgment.log_odds)
            assert judgment.label == (judgment.log_odds > 0)
            assert judgment.n_prompt_tokens == len(reranker.tokenizer(prompt_of(query, passage)).input_ids)
            assert (judgment.n_chain_tokens == BUDGET) == (judgment.ended == "budget")
            assert judgment.chain == "" or judgment.n_chain_tokens > 0
            assert "</think>" not in judgment.chain
            assert not judgment.truncated

    def test_streaming_gives_the_same_each_once(self, reranker):
        listed = reranker.judge(PAIRS, batch_size=4)
        streamed = list(reranker.judge(PAIRS, batch_size=4, stream=True))
        assert [judgment.index for judgment in streamed] != list(range(len(PAIRS)))  # as they finish
        assert same(sorted(streamed, key=lambda judgment: judgment.index), listed)
        generated = reranker.judge((pair for pair in PAIRS), batch_size=4, stream=True)
        assert same(sorted(generated, key=lambda judgment: judgment.index), listed)

    def test_a_list_from_a_generator(self, reranker):
        assert same(reranker.judge(pair for pair in PAIRS[:3]), reranker.judge(PAIRS[:3]))

    def test_judgments_know_their_pairs_and_write_them_as_a_page(self, reranker, tmp_path):
        assert reranker.judge(PAIRS[:2]).pairs == PAIRS[:2]
        judgments = reranker.judge(pair for pair in PAIRS[:2])
        assert judgments.pairs == PAIRS[:2]
        judgments.to_html(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert all(passage in page for _, passage in PAIRS[:2])

    def test_streaming_takes_pairs_as_there_is_room(self, reranker):
        taken = []

        def forever():
            for number in itertools.count():
                taken.append(number)
                yield ("wings", f"passage number {number}")

        stream = reranker.judge(forever(), batch_size=3, stream=True)
        assert taken == []
        judged = list(itertools.islice(stream, 5))
        assert len({judgment.index for judgment in judged}) == 5
        assert len(taken) <= 5 + 3
        stream.close()
        assert reranker.decoder.stats.live_rows == 0

    def test_two_streams_at_once(self, reranker):
        expected = reranker.judge(PAIRS)
        streams = [reranker.judge(PAIRS, batch_size=batch_size, stream=True) for batch_size in (3, 5)]
        for judgments in zip(*zip(*streams, strict=True), strict=True):
            assert same(sorted(judgments, key=lambda judgment: judgment.index), expected)

    def test_an_error_of_the_caller_leaves_the_model_usable(self, reranker):
        def failing():
            yield from PAIRS[:3]
            raise LookupError("no more pairs")

        with pytest.raises(LookupError, match="no more pairs"):
            list(reranker.judge(failing(), batch_size=2, stream=True))
        assert reranker.decoder.stats.live_rows == 0
        assert same(reranker.judge(PAIRS[:3]), reranker.judge(PAIRS[:3], batch_size=1))

    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    @pytest.mark.parametrize("stream", [False, True])
    def test_the_same_pair_is_decoded_once(self, reranker, requests, batch_size, stream):
        first, second = PAIRS[0], PAIRS[-1]
        pairs = [first, second, first, {"not": "a pair"}, first, second]
        incoming = iter(pairs) if stream else pairs
        judgments = sorted(reranker.judge(incoming, batch_size=batch_size, stream=stream), key=lambda each: each.index)
        assert len(requests) == 2
        assert [judgment.index for judgment in judgments] == list(range(6))
        assert judgments[2] == judgments[4].at(2) == judgments[0].at(2)
        assert judgments[5] == judgments[1].at(5)
        assert judgments[0].chain != judgments[1].chain

    def test_a_title_is_part_of_what_is_equal(self, reranker, requests):
        reranker.judge([("wings", "Flight air"), ("wings", {"title": "Flight", "text": "air"}), ("wings", "air")])
        assert len(requests) == 2

    def test_bad_pairs_do_not_harm_the_others(self, reranker):
        bad = {
            "a pair must be": [None, 7, "a query", ("wings",), ("wings", "air", "sea"), {"query": "wings"}, b"ab"],
            "the query is blank": [("", "air"), (" \n", "air")],
            "the query must be a string": [(None, "air"), (["wings"], "air")],
            "the passage must be a string": [("wings", None), ("wings", 3.5), ("wings", [["air"]])],
            "the passage is bytes": [("wings", b"air")],
            "lone surrogate": [("wings", "\udc80"), ("\ud800", "air")],
        }
        mixed = []
        for (message, items), good in zip(bad.items(), PAIRS, strict=False):
            mixed += [(good, None), *((item, message) for item in items)]
        judgments = reranker.judge([pair for pair, _ in mixed], batch_size=2)
        for judgment, (_, message) in zip(judgments, mixed, strict=True):
            assert message is None or message in judgment.error
        good = [judgment.at(0) for judgment, (_, message) in zip(judgments, mixed, strict=True) if message is None]
        assert same(good, [judgment.at(0) for judgment in reranker.judge(PAIRS[: len(bad)])])

    def test_only_bad_pairs(self, reranker):
        assert [judgment.error is None for judgment in reranker.judge([None, ("", "")])] == [False, False]

    def test_interrupted_keeps_what_was_finished(self, reranker, monkeypatch):
        run = reranker.decoder.run
        finished = []

        def interrupted(requests, **options):
            for decoded in run(requests, **options):
                if len(finished) == 5:
                    raise KeyboardInterrupt
                finished.append(decoded.index)
                yield decoded

        expected = reranker.judge(PAIRS)
        monkeypatch.setattr(reranker.decoder, "run", interrupted)
        with pytest.raises(Interrupted, match="5 finished judgments are kept") as caught:
            reranker.judge(PAIRS)
        assert isinstance(caught.value, KeyboardInterrupt)
        kept = [judgment for judgment in caught.value.judgments if not judgment.unfinished]
        assert same(kept, [expected[index] for index in sorted(finished)])
        monkeypatch.undo()
        assert same(reranker.judge(PAIRS), expected)

    @pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "8"])
    def test_bad_batch_size(self, reranker, batch_size):
        with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
            reranker.judge(PAIRS, batch_size=batch_size)


class TestWhatReachesThePrompt:
    def ids(self, reranker, query, passage):
        return reranker.tokenizer(prompt_of(query, passage)).input_ids

    def test_titles_and_instructions(self, reranker, requests):
        reranker.judge([({"text": "wings", "instruction": "not birds"}, {"title": "Flight", "text": "air"})])
        assert [request.prompt for request in requests] == [self.ids(reranker, "wings not birds", "Flight air")]

    def test_rank_with_an_instruction(self, reranker, requests):
        reranker.rank("wings", ["air"], instruction="not birds")
        reranker.rank("wings", ["air"], instruction="wings")
        expected = [self.ids(reranker, "wings not birds", "air"), self.ids(reranker, "wings", "air")]
        assert [request.prompt for request in requests] == expected

    def test_a_template(self, checkpoint):
        reranker = Rank1(
            checkpoint("llama"), device="cpu", max_new_tokens=4, prompt_template="Is FILL_QUERY_HERE told?"
        )
        assert reranker.encode("the moon", "air").ids == self.ids(reranker, "Is the moon told?", "air")
        with pytest.raises(ValueError, match="FILL_QUERY_HERE"):
            Rank1(checkpoint("llama"), prompt_template="no place for a query")


class TestLimits:
    @pytest.mark.parametrize("value", [0, -1, True, 1.5, "8"])
    def test_budgets_that_make_no_sense(self, checkpoint, value):
        with pytest.raises(ValueError, match=r"max_new_tokens must be a whole number of at least 1, not"):
            Rank1(checkpoint("qwen2"), max_new_tokens=value)

    def test_an_argument_that_is_misspelt(self):
        with pytest.raises(TypeError, match=r"^Rank1\(\) got an unexpected .*; did you mean 'max_new_tokens'\?$"):
            Rank1(max_tokens=40)

    def test_other_counts_that_make_no_sense(self, checkpoint):
        with pytest.raises(ValueError, match="max_length must be a whole number of at least 1"):
            Rank1(checkpoint("qwen2"), max_length=0)
        with pytest.raises(ValueError, match="rethink must be a whole number of at least 0"):
            Rank1(checkpoint("qwen2"), rethink=-1)
        with pytest.raises(ValueError, match="truncation must be 'passage' or 'error'"):
            Rank1(checkpoint("qwen2"), truncation="query")

    def test_a_budget_beyond_the_context(self, checkpoint):
        with pytest.raises(
            ValueError, match=r"max_new_tokens=2048 does not fit: the context is 2048.*use at most (\d+)"
        ):
            Rank1(checkpoint("qwen2"), max_new_tokens=2048)
        with pytest.raises(ValueError, match="the context is 100 tokens") as caught:
            Rank1(checkpoint("qwen2"), max_length=100, max_new_tokens=90)
        most = int(str(caught.value).rsplit(" ", 1)[1])
        assert Rank1(checkpoint("qwen2"), max_length=100, max_new_tokens=most).max_new_tokens == most
        with pytest.raises(ValueError, match="does not fit"):
            Rank1(checkpoint("qwen2"), max_length=100, max_new_tokens=most + 1)

    def test_a_context_that_holds_no_prompt(self, checkpoint):
        with pytest.raises(ValueError, match=r"a context of 5 tokens .* need (\d+)") as caught:
            Rank1(checkpoint("qwen2"), max_length=5)
        least = int(str(caught.value).rsplit(" ", 1)[1])
        assert Rank1(checkpoint("qwen2"), max_length=least, max_new_tokens=1).max_new_tokens == 1
        with pytest.raises(ValueError, match=f"need {least}"):
            Rank1(checkpoint("qwen2"), max_length=least - 1, max_new_tokens=1)

    def test_the_default_budget(self, checkpoint):
        assert Rank1(checkpoint("qwen2")).max_new_tokens == 2048 // 2
        assert Rank1(checkpoint("qwen2"), max_length=300).max_new_tokens == 150
        assert Rank1(checkpoint("qwen2", max_position_embeddings=20_000)).max_new_tokens == 16_000 // 2
        assert Rank1(checkpoint("qwen2", max_position_embeddings=20_000), max_length=20_000).max_new_tokens == 8192

    def test_the_budget_ends_a_chain(self, endless):
        for judgment in endless.judge(PAIRS[:3]):
            assert (judgment.ended, judgment.n_chain_tokens) == ("budget", BUDGET)
            assert not judgment.truncated

    def test_the_context_ends_a_chain(self, endless):
        judgment = endless.judge([("wings", "the wing of an aeroplane " * 40)])[0]
        assert judgment.truncated
        assert judgment.ended == "context"
        assert 0 < judgment.n_chain_tokens < BUDGET
        assert judgment.n_prompt_tokens <= 160 - BUDGET
        assert judgment.n_prompt_tokens + judgment.n_chain_tokens <= 160
        assert 0 < judgment.score < 1

    @pytest.mark.parametrize("budget", [0, -1, 1.5, "abc", None, 10**9])
    def test_a_budget_that_makes_no_sense_is_refused_when_it_is_set(self, endless, budget):
        with pytest.raises(ValueError, match="max_new_tokens"):
            endless.max_new_tokens = budget
        assert endless.max_new_tokens == BUDGET

    @pytest.mark.parametrize("budget", [1, 4, 24, 100])
    def test_the_context_is_never_exceeded(self, endless, budget):
        endless.max_new_tokens = budget
        positions = []
        endless.model.register_forward_pre_hook(
            lambda model, args, kwargs: positions.append(int(kwargs["position_ids"].max())), with_kwargs=True
        )
        judgments = endless.judge([("wings", "air " * n) for n in range(0, 160, 5)])
        assert all(judgment.error is None for judgment in judgments)
        assert max(positions) < 160

    def test_chains_of_broken_characters_do_not_exceed_the_context(self, checkpoint):
        folder = checkpoint("qwen2", max_position_embeddings=160, close_scale=0.0, eos_scale=0.0)
        reranker = Rank1(folder, device="cpu", max_new_tokens=100)
        positions = []
        reranker.model.register_forward_pre_hook(
            lambda model, args, kwargs: positions.append(int(kwargs["position_ids"].max())), with_kwargs=True
        )
        assert all(judgment.error is None for judgment in reranker.judge([("wings", "air " * n) for n in (0, 30)]))
        assert max(positions) < 160

    def test_a_query_that_does_not_fit(self, endless):
        judgments = endless.judge([("wings " * 200, "air"), ("wings", "air")])
        assert "shorten the query" in judgments[0].error
        assert judgments[1].error is None

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_error_before_anything_is_decoded(self, checkpoint, stream):
        folder = checkpoint("qwen2", max_position_embeddings=160)
        reranker = Rank1(folder, device="cpu", max_new_tokens=BUDGET, truncation="error")
        pairs = [("wings", "air"), None, ("wings", "air " * 300), ("wings", "sea")]
        with pytest.raises(PairError, match=r"pair 2: the prompt has \d+ tokens and only \d+ fit"):
            reranker.judge(pairs, stream=stream)
        with pytest.raises(PairError, match="pair 2"):
            reranker.predict(pairs)
        assert reranker.decoder.stats.steps == 0
        judgments = reranker.judge([pairs[0], pairs[1], pairs[3]], stream=stream)
        assert [judgment.error is None for judgment in sorted(judgments, key=lambda each: each.index)] == [
            True,
            False,
            True,
        ]

    def test_rethinking(self, checkpoint):
        once = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=200)
        twice = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=200, rethink=1)
        for before, after in zip(once.judge(PAIRS[:4]), twice.judge(PAIRS[:4]), strict=True):
            assert before.ended == "closed"
            assert after.chain.startswith(before.chain + "\nWait")
            assert after.n_chain_tokens > before.n_chain_tokens


class TestProgress:
    def test_silent_where_there_is_no_terminal(self, reranker, capsys):
        reranker.predict(PAIRS[:2])
        reranker.rank("wings", ["air"], show_progress_bar=False)
        assert capsys.readouterr() == ("", "")

    def test_shown_when_asked_for(self, reranker, capsys):
        reranker.predict(PAIRS, show_progress_bar=True)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert f"{len(PAIRS)}/{len(PAIRS)}" in shown.err
        assert "tokens/s" in shown.err
        assert "rows" in shown.err

    def test_whatever_knows_its_length_has_a_total(self, reranker, capsys):
        class Streamed:
            def __len__(self):
                return len(PAIRS)

            def __iter__(self):
                return iter(PAIRS)

        assert len(list(reranker.judge(Streamed(), stream=True, show_progress_bar=True))) == len(PAIRS)
        assert f"{len(PAIRS)}/{len(PAIRS)}" in capsys.readouterr().err


class TestBrokenNumbers:
    @pytest.fixture
    def poisoned(self, checkpoint):
        """A model and a word whose embedding is NaN once `poison` is called; the model never says it by itself."""
        opened = open_checkpoint(checkpoint("qwen2"))
        model = load_model(opened, dtype=torch.float32, device="cpu")
        reranker = Rank1(model, tokenizer=opened.tokenizer, max_new_tokens=BUDGET)
        (bad,) = reranker.tokenizer(" wings", add_special_tokens=False).input_ids
        with torch.no_grad():
            reranker.model.get_output_embeddings().weight[bad] = 0
        return reranker, bad

    @pytest.mark.parametrize("batch_size", [1, 2, 32])
    def test_pairs_with_it_fail_and_the_others_are_unharmed(self, poisoned, batch_size):
        reranker, bad = poisoned
        pairs = [
            (query, f"{passage}{end}")
            for query in ("how do ships sail?", "how do wings carry?", "what does bread need?")
            for end in (" The end.", " The wings.")
            for passage in ("", *PASSAGES[3:8])
        ]
        pairs.insert(0, ("tell me about the wings", ""))  # later pairs reuse the memory of the first
        expected = reranker.judge(pairs, batch_size=batch_size)
        with torch.no_grad():
            reranker.model.get_input_embeddings().weight[bad] = math.nan
        fails = [bad in reranker.encode(*pair).ids for pair in pairs]
        judgments = reranker.judge(pairs, batch_size=batch_size)
        assert [judgment.error is not None for judgment in judgments] == fails
        assert all("not finite" in judgment.error for judgment in judgments if judgment.error)
        good = [judgment for judgment in judgments if judgment.error is None]
        assert same(good, [judgment for judgment, failed in zip(expected, fails, strict=True) if not failed])

    def test_a_later_call_is_unharmed(self, poisoned):
        reranker, bad = poisoned
        pairs = [(query, f"{passage} {'river ' * 20}") for query, passage in PAIRS]  # more pages than the failed ones
        pairs = [pair for pair in pairs if bad not in reranker.encode(*pair).ids]
        expected = reranker.judge(pairs)
        with torch.no_grad():
            reranker.model.get_input_embeddings().weight[bad] = math.nan
        failed = reranker.judge([("the wings", passage) for passage in PASSAGES])
        assert all(judgment.error for judgment in failed)
        assert same(reranker.judge(pairs), expected)


class TestMemory:
    def test_a_small_kv_cache_gives_the_same_results(self, checkpoint, reranker):
        small = Rank1(
            checkpoint("qwen2"), device="cpu", max_new_tokens=BUDGET, decoding=DecodingOptions(kv_cache_tokens=300)
        )
        assert same(small.judge(PAIRS), reranker.judge(PAIRS))

    def test_a_pair_that_can_never_fit_fails_alone(self, checkpoint, reranker):
        small = Rank1(
            checkpoint("qwen2"), device="cpu", max_new_tokens=BUDGET, decoding=DecodingOptions(kv_cache_tokens=256)
        )
        long, *others = small.judge([("wings", "air " * 300), *PAIRS[:3]])
        assert "no memory for this pair" in long.error
        assert "kv_cache_tokens" in long.error
        assert same([each.at(each.index - 1) for each in others], reranker.judge(PAIRS[:3]))

    @pytest.mark.parametrize("tokens", [0, -1, True, 1.5])
    def test_a_kv_cache_of_nothing(self, checkpoint, tokens):
        with pytest.raises(ValueError, match="kv_cache_tokens must be a whole number of at least 1"):
            Rank1(checkpoint("qwen2"), device="cpu", decoding=DecodingOptions(kv_cache_tokens=tokens))


class TestModels:
    def test_a_loaded_model_with_its_tokenizer(self, checkpoint, reranker):
        folder = checkpoint("qwen2")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").train()
        loaded = Rank1(model, tokenizer=AutoTokenizer.from_pretrained(folder), max_new_tokens=BUDGET)
        assert loaded.model is model
        assert same(loaded.judge(PAIRS[:3]), reranker.judge(PAIRS[:3]))
        with pytest.raises(
            ValueError, match=r"a loaded model needs its tokenizer: Rank1\(model, tokenizer=tokenizer\)"
        ):
            Rank1(model)

    @pytest.mark.parametrize(
        "how",
        [
            {"dtype": "float32"},
            {"device": "cpu"},
            {"quantization": "4bit"},
            {"device_map": "auto"},
            {"max_memory": {"cpu": "1GiB"}},
            {"revision": "main"},
            {"subfolder": "model", "token": True},
        ],
        ids=str,
    )
    def test_a_loaded_model_is_not_loaded_otherwise(self, tokenizer, how):
        fast = tokenizer("qwen2")
        with pytest.raises(ValueError, match=f"used as it was loaded: leave out {', '.join(how)}, or give a name"):
            Rank1(tiny_models.build_model("qwen2", fast), tokenizer=fast, **how)

    def test_a_checkpoint_brings_its_tokenizer(self, checkpoint, tokenizer):
        with pytest.raises(ValueError, match="leave tokenizer out, or give a loaded model"):
            Rank1(checkpoint("qwen2"), tokenizer=tokenizer("qwen2"))

    def test_a_tokenizer_with_more_tokens_than_the_model(self, tokenizer):
        fast = tokenizer("qwen2")
        model = tiny_models.build_model("qwen2", fast)
        model.resize_token_embeddings(len(fast) - 10)
        with pytest.raises(ValueError, match="tokenizer"):
            Rank1(model, tokenizer=fast, max_new_tokens=4)

    def test_a_model_that_brings_its_own_attention(self, tokenizer):
        fast = tokenizer("qwen2")
        bloom = BloomForCausalLM(BloomConfig(vocab_size=len(fast), hidden_size=16, n_layer=1, n_head=2))
        with pytest.raises(ValueError, match="BloomForCausalLM does not use Transformers' attention interface"):
            Rank1(bloom, tokenizer=fast, max_new_tokens=4, max_length=100)

    @pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
    def test_every_family(self, checkpoint, kind):
        reranker = Rank1(checkpoint(kind), device="cpu", max_new_tokens=BUDGET)
        together = reranker.judge(PAIRS)
        alone = [judgment for pair in PAIRS for judgment in reranker.judge([pair])]
        assert same([judgment.at(0) for judgment in together], alone)


class TestWhatItSaysOfItself:
    @pytest.mark.parametrize("engine", ["paged", "plain"])
    def test_its_repr(self, checkpoint, engine):
        folder = checkpoint("qwen2")
        model = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=7, engine=engine)
        expected = f"Rank1({folder.name!r}, dtype='float32', device='cpu', engine={engine!r}, max_new_tokens=7"
        assert repr(model) == f"{expected}, max_length=2048)"
        shorter = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=7, max_length=200, engine=engine)
        assert repr(shorter) == f"{expected}, max_length=200)"
        assert (model.max_length, shorter.max_length) == (2048, 200)

    def test_its_stats(self, checkpoint):
        model = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=7, decoding="speculate=off")
        assert model.stats.steps == 0
        (judgment,) = model.judge([PAIRS[0]])
        assert model.stats.prefill_tokens >= judgment.n_prompt_tokens
        assert model.stats.decode_tokens >= judgment.n_chain_tokens - 1
        assert model.stats.steps >= model.stats.decode_tokens


class TestThreads:
    """Rank1 in a server or an asynchronous pipeline: many threads, one model and one KV cache."""

    CALLS = tuple([(query, passage) for passage in PASSAGES[:5]] for query in ("wings?", "bread?", "ice?", "a river?"))

    @pytest.fixture
    def small(self, checkpoint) -> Rank1:
        """With memory for about the pairs of one call."""
        return Rank1(
            checkpoint("qwen2"), device="cpu", max_new_tokens=BUDGET, decoding=DecodingOptions(kv_cache_tokens=1024)
        )

    def test_calls_that_come_together_give_what_they_give_alone(self, small):
        alone = [small.judge(pairs) for pairs in self.CALLS]
        with ThreadPoolExecutor(len(self.CALLS)) as pool:
            together = list(pool.map(small.judge, self.CALLS))
        assert all(judgment.error is None for judgments in together for judgment in judgments)
        assert all(same(*both) for both in zip(together, alone, strict=True))

    def test_streams_and_calls_do_not_step_on_each_other(self, reranker):
        def streamed(pairs):
            return sorted(reranker.judge(pairs, stream=True), key=lambda judgment: judgment.index)

        def spoken(pairs):
            return [list(reranker.stream(*pair))[-1].at(index) for index, pair in enumerate(pairs)]

        alone = [reranker.judge(pairs) for pairs in self.CALLS]
        with ThreadPoolExecutor(len(self.CALLS)) as pool:
            ways = (streamed, spoken, reranker.judge, streamed)
            together = list(pool.map(lambda way, pairs: way(pairs), ways, self.CALLS))
        assert all(same(*both) for both in zip(together, alone, strict=True))

    def test_a_call_may_come_while_its_own_thread_reads_a_stream(self, reranker):
        stream = reranker.judge(PAIRS[:3], stream=True)
        first = next(stream)
        (between,) = reranker.judge([PAIRS[first.index]])
        assert same([between.at(first.index)], [first])
        assert len(list(stream)) == 2
