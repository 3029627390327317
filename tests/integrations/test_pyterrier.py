"""rank1 as a transformer of PyTerrier, in pipelines that need no Java."""

import math

import pytest

from rank1_hf.integrations.ranking import KEYS
from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY, TOO_LONG

pt = pytest.importorskip("pyterrier")

import pandas as pd  # noqa: E402

from rank1_hf.integrations.pyterrier import Rank1ReRanker  # noqa: E402

TOPICS = pd.DataFrame([["q1", QUERY], ["q2", OTHER_QUERY]], columns=["qid", "query"])
FOUND = pd.DataFrame(
    [
        {"qid": qid, "query": query, "docno": f"d{i}", "text": text, "score": float(-i), "rank": i}
        for qid, query in TOPICS.values
        for i, text in enumerate(PASSAGES)
    ]
)
FIRST_STAGE = pt.Transformer.from_df(FOUND)


def ranking(results: pd.DataFrame, qid: str) -> list[str]:
    return list(results[results.qid == qid].sort_values("rank").docno)


def test_results_of_all_queries_are_ranked_and_told(reranker: Rank1) -> None:
    given = FOUND.copy()
    results = Rank1ReRanker(reranker)(given)
    for qid, query in TOPICS.values:
        hits = reranker.rank(query, PASSAGES)
        assert ranking(results, qid) == [f"d{hit['corpus_id']}" for hit in hits]
        for hit in hits:
            (row,) = results[(results.qid == qid) & (results.docno == f"d{hit['corpus_id']}")].to_dict("records")
            assert row["score"] == row["rank1_log_odds"] == pytest.approx(hit["log_odds"], abs=1e-4)
            assert row["relevance_score"] == pytest.approx(hit["score"], abs=1e-5)
            assert row["rank1_chain"] == hit["chain"]
    assert list(results["rank"].sort_values()) == [0, 0, 1, 1, 2, 2, 3, 3]
    pd.testing.assert_frame_equal(given, FOUND)


def test_in_a_pipeline_and_an_experiment(reranker: Rank1) -> None:
    pipeline = FIRST_STAGE >> Rank1ReRanker(reranker) % 1
    best = pipeline(TOPICS)
    assert sorted(zip(best.qid, best.docno, strict=True)) == [("q1", "d1"), ("q2", "d0")]
    qrels = pd.DataFrame([["q1", "d1", 1], ["q2", "d0", 1]], columns=["qid", "docno", "label"])
    measured = pt.Experiment([FIRST_STAGE, pipeline], TOPICS, qrels, ["recip_rank"], names=["first", "rank1"])
    assert list(measured["recip_rank"]) == [0.75, 1.0]


def test_records_go_through_as_frames_do(reranker: Rank1) -> None:
    records = Rank1ReRanker(reranker)(FOUND.to_dict("records"))
    frame = Rank1ReRanker(reranker)(FOUND)
    assert [record["rank"] for record in records] == list(frame["rank"])


def test_it_can_be_inspected_without_judging_anything(reranker: Rank1) -> None:
    transformer = Rank1ReRanker(reranker, text_field="body")
    assert pt.inspect.transformer_inputs(transformer) == [["qid", "docno", "query", "body"]]
    columns = pt.inspect.transformer_outputs(transformer, ["qid", "query", "docno", "body"])
    assert set(columns) == {"qid", "query", "docno", "body", "score", "rank", *KEYS}
    with pytest.raises(KeyError, match="body"):
        transformer(FOUND)


def test_titles_stand_before_the_text(reranker: Rank1) -> None:
    given = FOUND[:2].assign(title=["Wings", None])
    results = Rank1ReRanker(reranker, title_field="title")(given)
    judgments = reranker.judge([(QUERY, f"Wings {PASSAGES[0]}"), (QUERY, PASSAGES[1])])
    assert list(results.score) == pytest.approx([judgment.log_odds for judgment in judgments], abs=1e-4)


def test_documents_and_queries_that_cannot_be_judged_harm_no_others(reranker: Rank1) -> None:
    bad = FOUND[:3].assign(docno=["long", "none", "d0"], text=[TOO_LONG, None, PASSAGES[0]], query=[QUERY, QUERY, " "])
    bad.loc[2, "qid"] = "q3"
    with pytest.warns(UserWarning, match=r"3 of \d+ pairs have no score"):
        results = Rank1ReRanker(reranker)(pd.concat([bad, FOUND]))
    good = Rank1ReRanker(reranker)(FOUND)
    assert ranking(results, "q1") == [*ranking(good, "q1"), "long", "none"]
    assert ranking(results, "q2") == ranking(good, "q2")
    assert results.score.notna().all()
    errors = results.set_index(["qid", "docno"]).rank1_error
    assert "no memory" in errors["q1", "long"]
    assert "must be a string" in errors["q1", "none"]
    assert "blank" in errors["q3", "d0"]


@pytest.mark.parametrize(
    "given",
    [
        FOUND,
        FOUND[:0],
        pd.concat([FOUND, FOUND]).sort_values("qid", kind="stable"),  # every row, with its index label, twice
        FOUND.assign(docno="same"),
        FOUND.assign(text=PASSAGES[1]),  # all scores of a query are equal
        FOUND.drop(columns=["score", "rank"]),
    ],
    ids=["plain", "empty", "twice", "one id", "equal scores", "no scores yet"],
)
def test_the_rules_are_those_of_pyterriers_own_scorer(reranker: Rank1, given: pd.DataFrame) -> None:
    def log_odds(frame: pd.DataFrame) -> list[float]:
        return [each.log_odds for each in reranker.judge(list(zip(frame["query"], frame["text"], strict=True)))]

    theirs = pt.apply.doc_score(log_odds, batch_size=100)(given)
    ours = Rank1ReRanker(reranker)(given)
    pd.testing.assert_frame_equal(ours[theirs.columns], theirs, atol=1e-4)


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA], ids=repr)
def test_a_title_that_is_an_empty_cell_is_none(reranker: Rank1, nothing: object) -> None:
    given = FOUND[:2].assign(title=[nothing, "Wings"])
    results = Rank1ReRanker(reranker, title_field="title")(given)
    judgments = reranker.judge([(QUERY, PASSAGES[0]), (QUERY, f"Wings {PASSAGES[1]}")])
    assert list(results.score) == pytest.approx([judgment.log_odds for judgment in judgments], abs=1e-4)
