"""The clients that people have, over loopback."""

from typing import Any

import pytest

from rank1_hf import Rank1
from tests.serving.conftest import Running
from tests.serving.test_app import DOCUMENTS, QUERY


@pytest.fixture
def ranking(quick: Rank1) -> list[tuple[int, float]]:
    return [(hit["corpus_id"], hit["score"]) for hit in quick.rank(QUERY, DOCUMENTS)]


def assert_ranked(found: list[tuple[int, float]], ranking: list[tuple[int, float]]) -> None:
    assert [index for index, _ in found] == [index for index, _ in ranking]
    assert [score for _, score in found] == pytest.approx([score for _, score in ranking], abs=1e-6)


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_cohere(server: Running, ranking: list[tuple[int, float]], version: str):
    cohere = pytest.importorskip("cohere")
    client = getattr(cohere, version)(api_key="any", base_url=server.url)
    response = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS, top_n=3)
    assert_ranked([(result.index, result.relevance_score) for result in response.results], ranking[:3])
    assert response.meta.tokens.input_tokens > 0


def test_cohere_reads_documents_and_errors(serve: Any, quick: Rank1):
    cohere = pytest.importorskip("cohere")
    server = serve(quick, api_key="let-me-in")
    client = cohere.Client(api_key="let-me-in", base_url=server.url)
    response = client.rerank(query=QUERY, documents=[{"text": DOCUMENTS[0]}], return_documents=True)
    assert response.results[0].document.text == DOCUMENTS[0]
    with pytest.raises(cohere.UnprocessableEntityError, match="the query is blank"):
        client.rerank(query=" ", documents=DOCUMENTS)
    with pytest.raises(cohere.UnauthorizedError, match="API key"):
        cohere.Client(api_key="wrong", base_url=server.url).rerank(query=QUERY, documents=DOCUMENTS)


@pytest.mark.parametrize("provider", ["hosted_vllm", "jina_ai", "cohere", "huggingface"])
def test_litellm(server: Running, ranking: list[tuple[int, float]], provider: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it fetches a list of prices
    litellm = pytest.importorskip("litellm")
    response = litellm.rerank(
        model=f"{provider}/tiny", query=QUERY, documents=DOCUMENTS, top_n=3, api_base=server.url, api_key="any"
    )
    found = [(result["index"], result["relevance_score"]) for result in response.results]
    assert_ranked(found[:3], ranking[:3])
