"""rank1 as LangChain's compressor, under LangChain itself."""

import asyncio
import json
import math

import pytest

from rank1_hf.integrations.ranking import KEYS
from rank1_hf.reranker import Rank1
from tests.integrations.passages import OTHER_QUERY, PASSAGES, QUERY, TOO_LONG

pytest.importorskip("langchain_core")

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from pydantic import ValidationError

from rank1_hf.integrations.langchain import Rank1Rerank


def documents(*passages: str) -> list[Document]:
    return [Document(text, id=f"d{i}", metadata={"source": i}) for i, text in enumerate(passages)]


def places(found: list[Document]) -> list[int]:
    return [document.metadata["source"] for document in found]


class Scores:
    """The model as the framework's own reranker wants one."""

    def __init__(self, reranker: Rank1) -> None:
        self._reranker = reranker

    def score(self, pairs: list[tuple[str, str]]) -> list[float]:
        return self._reranker.predict(pairs).tolist()


class Retriever(BaseRetriever):
    """Finds everything."""

    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return documents(*PASSAGES)


def test_documents_come_back_ranked_and_told(reranker: Rank1) -> None:
    given = documents(*PASSAGES)
    compressor = Rank1Rerank(model=reranker, top_n=None)
    assert isinstance(compressor, BaseDocumentCompressor)
    found = compressor.compress_documents(given, QUERY)
    hits = reranker.rank(QUERY, PASSAGES)
    assert places(found) == [hit["corpus_id"] for hit in hits]
    for document, hit in zip(found, hits, strict=True):
        assert document.page_content == PASSAGES[hit["corpus_id"]]
        assert document.id == f"d{hit['corpus_id']}"
        assert document.metadata["relevance_score"] == pytest.approx(hit["score"])
        assert document.metadata["rank1_log_odds"] == pytest.approx(hit["log_odds"])
        assert document.metadata["rank1_chain"] == hit["chain"]
        json.dumps(document.metadata, allow_nan=False)
    assert given == documents(*PASSAGES), "documents that a store holds on to are not changed"


def test_top_n(reranker: Rank1) -> None:
    every = Rank1Rerank(model=reranker, top_n=None).compress_documents(documents(*PASSAGES), QUERY)
    assert places(Rank1Rerank(model=reranker).compress_documents(documents(*PASSAGES), QUERY)) == places(every[:3])
    assert Rank1Rerank(model=reranker).compress_documents([], QUERY) == []
    with pytest.raises(ValidationError, match="top_n"):
        Rank1Rerank(model=reranker, top_n=0)
    with pytest.raises(ValidationError, match="top_k"):
        Rank1Rerank(model=reranker, top_k=3)


def test_a_document_that_cannot_be_judged_comes_last(reranker: Rank1) -> None:
    compressor = Rank1Rerank(model=reranker, top_n=None)
    with pytest.warns(UserWarning, match=r"1 of \d+ pairs have no score"):
        found = compressor.compress_documents(documents(TOO_LONG, *PASSAGES), QUERY)
    assert places(found)[-1] == 0
    assert found[-1].metadata["relevance_score"] is None
    assert "no memory" in found[-1].metadata["rank1_error"]
    assert all(document.metadata["relevance_score"] is not None for document in found[:-1])


def test_async_calls_that_come_together_give_what_they_give_alone(reranker: Rank1) -> None:
    compressor = Rank1Rerank(model=reranker, top_n=None)
    queries = [QUERY, OTHER_QUERY]
    alone = {query: compressor.compress_documents(documents(*PASSAGES), query) for query in queries}

    async def together() -> list[list[Document]]:
        calls = (compressor.acompress_documents(documents(*PASSAGES), query) for query in queries)
        return await asyncio.gather(*calls)

    for query, found in zip(queries, asyncio.run(together()), strict=True):
        assert places(found) == places(alone[query])
        assert [d.metadata["rank1_chain"] for d in found] == [d.metadata["rank1_chain"] for d in alone[query]]


def test_in_a_chain_behind_a_retriever(reranker: Rank1) -> None:
    compressor = Rank1Rerank(model=reranker, top_n=1)
    chain = {"documents": Retriever(), "query": RunnablePassthrough()} | RunnableLambda(
        lambda found: compressor.compress_documents(**found)
    )
    (best,) = chain.invoke(QUERY)
    assert best.page_content == PASSAGES[1]
    assert set(KEYS) < set(best.metadata)


def test_in_a_contextual_compression_retriever(reranker: Rank1) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers")
    compressor = Rank1Rerank(model=reranker, top_n=1)
    retriever = retrievers.ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Retriever())
    assert [document.page_content for document in retriever.invoke(QUERY)] == [PASSAGES[1]]
    assert [document.page_content for document in asyncio.run(retriever.ainvoke(QUERY))] == [PASSAGES[1]]


@pytest.mark.parametrize(
    "given",
    [
        documents(*PASSAGES),
        documents(),
        [*documents(*PASSAGES), *documents(*PASSAGES)],  # ids and texts twice
        [Document(text, id="same") for text in PASSAGES],
        [Document(text, metadata={"source": math.nan}) for text in PASSAGES],
    ],
    ids=["plain", "empty", "twice", "one id", "NaN metadata"],
)
@pytest.mark.parametrize("top_n", [1, 3, 99])
def test_the_rules_are_those_of_langchains_own_reranker(reranker: Rank1, given: list[Document], top_n: int) -> None:
    own = pytest.importorskip("langchain_classic.retrievers.document_compressors")

    class CrossEncoder(Scores, own.cross_encoder.BaseCrossEncoder):
        """The same model."""

    theirs = own.CrossEncoderReranker(model=CrossEncoder(reranker), top_n=top_n).compress_documents(given, QUERY)
    ours = Rank1Rerank(model=reranker, top_n=top_n).compress_documents(given, QUERY)
    assert [(document.id, document.page_content) for document in ours] == [
        (document.id, document.page_content) for document in theirs
    ]


def test_nothing_found_is_nothing_ranked(reranker: Rank1) -> None:
    """As in CohereRerank of langchain-cohere, which then asks nobody."""
    for query in (QUERY, ""):
        assert Rank1Rerank(model=reranker).compress_documents([], query) == []


@pytest.mark.parametrize("given", [["a text"], "a text", [*documents(*PASSAGES), {"page_content": "a text"}]])
def test_what_is_no_document_is_said(reranker: Rank1, given: object) -> None:
    with pytest.raises(TypeError, match=r"the class Document of langchain_core, not of (str|dict)"):
        Rank1Rerank(model=reranker).compress_documents(given, QUERY)
