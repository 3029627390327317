"""The clients that people have, over loopback: each row of the page's table, with the client or the body it sends."""

import json
from collections.abc import Callable
from typing import Any

import cohere
import openai
import pytest

from rank1_hf import Rank1
from rank1_hf.serving.limits import Limits
from tests.serving.conftest import Running
from tests.serving.test_app import DOCUMENTS, QUERY
from tests.serving.test_readme import PAGE

FIELDS = [{"title": "Wings", "text": DOCUMENTS[0], "year": "1953"}, {"text": DOCUMENTS[1], "year": "1954"}]


@pytest.fixture
def ranking(quick: Rank1) -> list[tuple[int, float]]:
    return [(hit["corpus_id"], hit["score"]) for hit in quick.rank(QUERY, DOCUMENTS)]


def assert_ranked(found: list[tuple[int, float]], ranking: list[tuple[int, float]]) -> None:
    assert [index for index, _ in found] == [index for index, _ in ranking]
    assert [score for _, score in found] == pytest.approx([score for _, score in ranking], abs=1e-6)


def post(server: Running, path: str, body: dict[str, Any]) -> Any:
    with server.client() as client:
        response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


# ---- a row of the page's table each ----------------------------------------------------------------------------------


def jina(server: Running, quick: Rank1) -> None:
    """The body of Jina's examples, and what its clients read."""
    expected = quick.rank(QUERY, DOCUMENTS, top_k=3)
    body = {"model": "jina-reranker-v2-base-multilingual", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    for documents in (DOCUMENTS, [{"text": text} for text in DOCUMENTS]):
        response = post(server, "/v1/rerank", body | {"documents": documents})
        found = [(result["index"], result["relevance_score"]) for result in response["results"]]
        assert_ranked(found, [(hit["corpus_id"], hit["score"]) for hit in expected])
        for result in response["results"]:  # return_documents is true where it is not said
            assert result["document"]["text"] == DOCUMENTS[result["index"]]
        assert response["usage"]["total_tokens"] > 0
    bare = post(server, "/v1/rerank", body | {"return_documents": False})
    assert all("document" not in result for result in bare["results"])


def cohere_v1(server: Running, quick: Rank1) -> None:
    """cohere.Client."""
    client = cohere.Client(api_key="any", base_url=server.url)
    response = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS, top_n=3, max_chunks_per_doc=10)
    expected = [(hit["corpus_id"], hit["score"]) for hit in quick.rank(QUERY, DOCUMENTS, top_k=3)]
    assert_ranked([(result.index, result.relevance_score) for result in response.results], expected)
    assert response.meta.tokens.input_tokens > 0
    assert response.meta.billed_units.search_units == 0
    for fields, texts in [
        (["year", "text"], [f"1953 {DOCUMENTS[0]}", f"1954 {DOCUMENTS[1]}"]),
        (["text", "title"], [f"{DOCUMENTS[0]} Wings", DOCUMENTS[1]]),  # one that a document lacks is passed over
        (["title", "text"], [f"Wings {DOCUMENTS[0]}", DOCUMENTS[1]]),
        (None, [f"Wings {DOCUMENTS[0]}", DOCUMENTS[1]]),
    ]:
        chosen = {} if fields is None else {"rank_fields": fields}
        response = client.rerank(query=QUERY, documents=FIELDS, return_documents=True, **chosen)
        expected = [(hit["corpus_id"], hit["score"]) for hit in quick.rank(QUERY, texts)]
        assert_ranked([(result.index, result.relevance_score) for result in response.results], expected)
        for result in response.results:  # all fields are preserved
            document = FIELDS[result.index]
            assert (result.document.text, result.document.year) == (document["text"], document["year"])


def cohere_v2(server: Running, quick: Rank1) -> None:
    """cohere.ClientV2."""
    client = cohere.ClientV2(api_key="any", base_url=server.url)
    response = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096)
    expected = [(hit["corpus_id"], hit["score"]) for hit in quick.rank(QUERY, DOCUMENTS, top_k=3)]
    assert_ranked([(result.index, result.relevance_score) for result in response.results], expected)
    assert response.id


def vllm_rerank(server: Running, quick: Rank1) -> None:
    """The body of vLLM's examples, and what its responses always have."""
    expected = [(hit["corpus_id"], hit["score"]) for hit in quick.rank(QUERY, DOCUMENTS)]
    body = {"model": "tiny", "query": QUERY, "documents": DOCUMENTS, "top_n": 0, "truncate_prompt_tokens": 512}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        response = post(server, path, body)
        assert_ranked([(result["index"], result["relevance_score"]) for result in response["results"]], expected)
        assert [result["document"]["text"] for result in response["results"]] == [DOCUMENTS[i] for i, _ in expected]
        assert response["id"]
        assert response["model"] == "tiny"
        assert response["usage"]["prompt_tokens"] > 0


def vllm_score(server: Running, quick: Rank1) -> None:
    """The bodies of vLLM's examples: one pair, one query for all, one for each, and all names of both."""
    queries = [QUERY, *DOCUMENTS[:1]]
    scores = quick.predict([(QUERY, document) for document in DOCUMENTS[:2]]).tolist()
    odds = [judgment.log_odds for judgment in quick.judge([(QUERY, document) for document in DOCUMENTS[:2]])]
    each = quick.predict(list(zip(queries, DOCUMENTS[:2], strict=True))).tolist()
    names = [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
    for path in ("/score", "/v1/score"):
        for first, second in names:
            for given, documents, expected in [
                (QUERY, DOCUMENTS[0], scores[:1]),
                (QUERY, DOCUMENTS[:2], scores),
                ([QUERY], DOCUMENTS[:2], scores),
                (queries, DOCUMENTS[:2], each),
            ]:
                response = post(server, path, {"model": "tiny", first: given, second: documents})
                assert (response["object"], response["model"]) == ("list", "tiny")
                assert [item["index"] for item in response["data"]] == list(range(len(expected)))
                assert [item["score"] for item in response["data"]] == pytest.approx(expected, abs=1e-6)
                assert response["usage"]["total_tokens"] > 0
    raw = post(server, "/score", {"text_1": QUERY, "text_2": DOCUMENTS[:2], "use_activation": False})
    assert [item["score"] for item in raw["data"]] == pytest.approx(odds, abs=1e-4)


def tei_rerank(server: Running, quick: Rank1) -> None:
    """The body that TEI describes, with what its clients send always."""
    expected = quick.rank(QUERY, DOCUMENTS)
    body = {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "truncation_direction": "right"}
    ranks = post(server, "/rerank", body | {"raw_scores": False, "return_text": True})
    assert_ranked([(rank["index"], rank["score"]) for rank in ranks], [(h["corpus_id"], h["score"]) for h in expected])
    assert [rank["text"] for rank in ranks] == [DOCUMENTS[rank["index"]] for rank in ranks]
    raw = post(server, "/rerank", body | {"raw_scores": True})
    assert [rank["score"] for rank in raw] == pytest.approx([hit["log_odds"] for hit in expected], abs=1e-4)
    assert all(set(rank) == {"index", "score"} for rank in raw)  # return_text is false where it is not said


def tei_info(server: Running, quick: Rank1) -> None:
    """What clients of TEI look up to cut their work into requests, and to know what they talk to."""
    with server.client() as client:
        about = client.get("/info").json()
    assert (about["model_id"], about["model_dtype"]) == ("tiny", "float32")
    assert about["max_client_batch_size"] == Limits().documents
    assert about["max_input_length"] == quick.max_length - quick.max_new_tokens
    assert about["max_concurrent_requests"] == server.engine.max_pairs
    assert about["auto_truncate"]
    (kind,) = about["model_type"]
    assert kind == "reranker"
    assert {"max_batch_tokens", "tokenization_workers", "version"} <= set(about)


def openai_models(server: Running, quick: Rank1) -> None:
    """openai.OpenAI, with which people look which model is served."""
    client = openai.OpenAI(api_key="any", base_url=f"{server.url}/v1")
    (model,) = client.models.list().data
    assert (model.id, model.object, model.max_model_len) == ("tiny", "model", quick.max_length)


ROWS: dict[str, Callable[[Running, Rank1], None]] = {
    "Jina": jina,
    "Cohere v1": cohere_v1,
    "Cohere v2": cohere_v2,
    "vLLM, rerank": vllm_rerank,
    "vLLM, score": vllm_score,
    "TEI, rerank": tei_rerank,
    "TEI, info": tei_info,
    "OpenAI": openai_models,
}


def test_the_table_names_these_clients():
    lines = PAGE.read_text(encoding="utf-8").partition("| client |")[2].split("\n\n")[0].splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == list(ROWS)


@pytest.mark.parametrize("client", ROWS)
def test_a_client_gets_what_it_reads(server: Running, quick: Rank1, client: str):
    ROWS[client](server, quick)


# ---- one bad document ------------------------------------------------------------------------------------------------


def test_a_bad_document_costs_itself_in_every_form(server: Running):
    documents = [DOCUMENTS[0], None, DOCUMENTS[1]]
    error = {"index": 1, "message": "the document must be text, not null"}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        response = post(server, path, {"query": QUERY, "documents": documents})
        assert sorted(result["index"] for result in response["results"]) == [0, 2]
        assert response["errors"] == [error]
    with server.client() as client:
        response = client.post("/rerank", json={"query": QUERY, "texts": documents})
    assert sorted(rank["index"] for rank in response.json()) == [0, 2]
    assert json.loads(response.headers["x-rank1-errors"]) == [error]
    for path in ("/score", "/v1/score"):
        response = post(server, path, {"text_1": QUERY, "text_2": documents})
        assert [item["score"] is None for item in response["data"]] == [False, True, False]
        assert response["errors"] == [error]
        response = post(server, path, {"queries": [QUERY, " ", QUERY], "documents": DOCUMENTS[:3]})
        assert [item["score"] is None for item in response["data"]] == [False, True, False]
        assert "the query is blank" in response["errors"][0]["message"]


def test_a_document_without_the_fields_that_count(server: Running):
    documents = [{"name": "A wing."}, {"text": "A river."}, {"name": 3}, {"name": None}, "A text."]
    response = post(server, "/v1/rerank", {"query": QUERY, "documents": documents, "rank_fields": ["name"]})
    assert sorted(result["index"] for result in response["results"]) == [0, 4]
    assert [(error["index"], error["message"]) for error in response["errors"]] == [
        (1, "the document has none of the fields that rank_fields names; it has text"),
        (2, "a field that rank_fields names must be text, not a number"),
        (3, "the document has none of the fields that rank_fields names; it has name"),
    ]


def test_a_field_that_pandas_left_empty_is_none(server: Running):
    body = {"query": QUERY, "documents": [{"title": float("nan"), "text": "A wing."}, {"text": "A wing."}]}
    with server.client() as client:
        response = client.post("/v1/rerank", content=json.dumps(body)).json()
    first, second = response["results"]
    assert first["relevance_score"] == second["relevance_score"]
    assert {first["document"].get("title"), second["document"].get("title")} == {None}


# ---- other clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "path"), [("cohere", "/v1/rerank"), ("jina", "/v1/rerank"), ("text-embeddings-inference", "/rerank")]
)
def test_rerankers(server: Running, ranking: list[tuple[int, float]], provider: str, path: str):
    from rerankers.models.api_rankers import APIRanker

    ranker = APIRanker("tiny", "any", provider, url=server.url + path, verbose=0)
    results = ranker.rank(QUERY, DOCUMENTS).results
    assert_ranked([(result.doc_id, result.score) for result in results], ranking)


def test_cohere_reads_errors(serve: Any, quick: Rank1):
    server = serve(quick, api_key="let-me-in")
    client = cohere.Client(api_key="let-me-in", base_url=server.url)
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
