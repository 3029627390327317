"""rank1 as a ranker of AnswerDotAI's rerankers, with that library's own results."""

import asyncio
import math
from collections.abc import Iterable
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY, TOO_LONG

pytest.importorskip("rerankers")

from rerankers import Document
from rerankers.models.ranker import BaseRanker
from rerankers.models.transformer_ranker import TransformerRanker
from rerankers.results import RankedResults, Result

from rank1_hf.integrations.rerankers import Rank1Ranker


def places(results: Iterable[Result]) -> list[int | str]:
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
    renamed = ranker.rank(QUERY, given, doc_ids=list("abcd"), metadata=[{"n": -n} for n in range(4)])
    assert (renamed[0].doc_id, renamed[0].n) == ("b", -1)
    assert [(document.doc_id, document.metadata) for document in given] == [(f"d{n}", {"n": n}) for n in range(4)]


def test_documents_without_ids_are_called_by_their_places(reranker: Rank1) -> None:
    given = [Document(text) for text in PASSAGES]
    assert places(Rank1Ranker(reranker).rank(QUERY, given)) == places(Rank1Ranker(reranker).rank(QUERY, PASSAGES))


def test_columns_of_a_frame(reranker: Rank1) -> None:
    frame = pd.DataFrame({"id": list("abcd"), "text": PASSAGES, "meta": [math.nan, {"n": 1}, None, pd.NA]})
    results = Rank1Ranker(reranker).rank(QUERY, frame.text, doc_ids=frame.id, metadata=frame.meta)
    assert sorted(places(results)) == list("abcd")
    assert (results[0].doc_id, results[0].n) == ("b", 1)
    empty = frame[:0]
    assert Rank1Ranker(reranker).rank(QUERY, empty.text, doc_ids=empty.id).results_count() == 0


def test_too_few_ids_are_told(reranker: Rank1) -> None:
    for values in ({"doc_ids": [1]}, {"metadata": [{}]}):
        with pytest.raises(ValueError, match="there are 4 documents, and 1 values for their"):
            Rank1Ranker(reranker).rank(QUERY, PASSAGES, **values)


class Own(TransformerRanker):
    """The library's own ranker, whose model is the same."""

    def __init__(self, reranker: Rank1) -> None:
        self.dtype, self.batch_size, self.is_monobert = torch.float32, 2, False
        self.model = lambda pairs: SimpleNamespace(logits=torch.tensor(reranker.predict(pairs)))

    def tokenize(self, inputs: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
        return {"pairs": inputs}


@pytest.mark.parametrize(
    ("docs", "options"),
    [
        (PASSAGES, {}),
        (PASSAGES[0], {}),
        (PASSAGES, {"doc_ids": list("abcd")}),
        (PASSAGES, {"doc_ids": list("aaaa"), "metadata": [{"n": n} for n in range(4)]}),
        (PASSAGES * 2, {}),  # equal scores
        ([Document(text, doc_id=f"d{i % 2}", metadata={"n": i}) for i, text in enumerate(PASSAGES)], {}),
        (Document(PASSAGES[0], doc_id="d"), {"doc_ids": ["e"]}),
    ],
    ids=["plain", "one text", "ids", "one id", "twice", "documents", "one document"],
)
def test_the_rules_are_those_of_the_librarys_own_ranker(reranker: Rank1, docs: object, options: dict) -> None:
    theirs, ours = Own(reranker).rank(QUERY, docs, **options), Rank1Ranker(reranker).rank(QUERY, docs, **options)
    assert [(each.doc_id, each.text) for each in ours] == [(each.doc_id, each.text) for each in theirs]
    assert [each.score for each in ours] == pytest.approx([each.score for each in theirs], rel=1e-4)
    assert all(each.metadata.items() <= mine.metadata.items() for mine, each in zip(ours, theirs, strict=True))
    for k in (1, 3, 99, None):
        assert places(ours.top_k(k)) == places(theirs.top_k(k))


def test_documents_that_cannot_be_judged_come_last(reranker: Rank1) -> None:
    image = Document(document_type="image", image_path="wing.png", doc_id="image")
    given = [image, Document(TOO_LONG, doc_id="long"), *(Document(text, doc_id=text) for text in PASSAGES)]
    with pytest.warns(UserWarning, match=r"1 of \d+ pairs have no score"):
        assert places(Rank1Ranker(reranker).rank(QUERY, [None, *PASSAGES]))[-1] == 0
    with pytest.warns(UserWarning, match=r"2 of \d+ pairs have no score"):
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
