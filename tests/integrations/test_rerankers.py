"""rank1 as a ranker of AnswerDotAI's rerankers, with that library's own results."""

import asyncio

import pytest

from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY, TOO_LONG

pytest.importorskip("rerankers")

from rerankers import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults

from rank1_hf.integrations.rerankers import Rank1Ranker


def places(results: RankedResults) -> list[int]:
    return [result.doc_id for result in results]


def test_results_are_ranked_and_told(reranker: Rank1) -> None:
    ranker = Rank1Ranker(reranker)
    assert isinstance(ranker, BaseRanker)
    results = ranker.rank(QUERY, PASSAGES)
    assert isinstance(results, RankedResults)
    hits = reranker.rank(QUERY, PASSAGES)
    assert places(results) == [hit["corpus_id"] for hit in hits]
    assert [result.rank for result in results] == [1, 2, 3, 4]
    for result, hit in zip(results, hits, strict=True):
        assert result.text == PASSAGES[hit["corpus_id"]]
        assert result.score == result.relevance_score == pytest.approx(hit["score"])
        assert result.rank1_log_odds == pytest.approx(hit["log_odds"])
        assert result.document.metadata["rank1_chain"] == hit["chain"]
    assert [result.doc_id for result in results.top_k(2)] == places(results)[:2]
    assert results.get_score_by_docid(1) == pytest.approx(hits[0]["score"])


def test_one_document_none_and_the_score_of_one(reranker: Rank1) -> None:
    ranker = Rank1Ranker(reranker)
    (result,) = ranker.rank(QUERY, PASSAGES[1])
    assert ranker.score(QUERY, PASSAGES[1]) == result.score
    assert ranker.rank(QUERY, []).results_count() == 0


def test_ids_and_metadata_are_kept_and_documents_not_changed(reranker: Rank1) -> None:
    ranker = Rank1Ranker(reranker)
    results = ranker.rank(QUERY, PASSAGES, doc_ids=list("abcd"), metadata=[{"n": n} for n in range(4)])
    assert (results[0].doc_id, results[0].n) == ("b", 1)
    given = [Document(text, doc_id=f"d{i}", metadata={"n": i}) for i, text in enumerate(PASSAGES)]
    assert places(ranker.rank(QUERY, given))[0] == "d1"
    assert [document.metadata for document in given] == [{"n": n} for n in range(4)]


def test_documents_that_cannot_be_judged_come_last(reranker: Rank1) -> None:
    image = Document(document_type="image", image_path="wing.png", doc_id="image")
    given = [image, Document(TOO_LONG, doc_id="long"), *(Document(text, doc_id=text) for text in PASSAGES)]
    with pytest.warns(UserWarning, match="2 documents have no score"):
        results = Rank1Ranker(reranker).rank(QUERY, given)
    assert places(results)[-2:] == ["image", "long"]
    assert [result.score for result in results][-2:] == [None, None]
    assert [result.doc_id for result in results.top_k(6)] == places(results)
    assert "no memory" in results[-1].rank1_error
    assert all(result.score is not None for result in results[:-2])


def test_async_calls_that_come_together_give_what_they_give_alone(reranker: Rank1) -> None:
    ranker, queries = Rank1Ranker(reranker), [QUERY, OTHER_QUERY]
    alone = {query: places(ranker.rank(query, PASSAGES)) for query in queries}

    async def together() -> list[RankedResults]:
        return await asyncio.gather(*(ranker.rank_async(query, PASSAGES) for query in queries))

    assert [places(results) for results in asyncio.run(together())] == [alone[query] for query in queries]
