"""What clients get over loopback, compared with what the same model says offline."""

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rank1_hf import Rank1
from rank1_hf.serving.limits import Limits
from tests.models import TEXT
from tests.serving.conftest import Running, wait_until

QUERY = "how do wings carry an aeroplane?"
DOCUMENTS = [line for line in TEXT.splitlines() if line][:5]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_ranking_is_the_one_of_the_model(server: Running, quick: Rank1, path: str):
    expected = quick.rank(QUERY, DOCUMENTS, top_k=3)
    response = server.rerank(QUERY, DOCUMENTS, path=path, top_n=3, model="any")
    assert response.status_code == 200
    body = response.json()
    assert [result["index"] for result in body["results"]] == [hit["corpus_id"] for hit in expected]
    scores = [result["relevance_score"] for result in body["results"]]
    assert scores == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    assert body["model"] == "tiny"
    assert all(set(result) == {"index", "relevance_score"} for result in body["results"])


def test_documents_chains_and_usage_come_where_asked_for(server: Running, quick: Rank1):
    documents: list[Any] = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, {"text": DOCUMENTS[2], "title": "Rivers"}]
    judgments = quick.judge([(QUERY, document) for document in documents])
    body = server.rerank(QUERY, documents, return_documents=True, return_chains=True).json()
    assert len(body["results"]) == 3
    for result in body["results"]:
        judgment, document = judgments[result["index"]], documents[result["index"]]
        assert result["document"] == ({"text": document} if isinstance(document, str) else document)
        assert (result["chain"], result["label"]) == (judgment.chain, judgment.label)
        assert (result["n_chain_tokens"], result["ended"]) == (judgment.n_chain_tokens, judgment.ended)
        assert result["log_odds"] == pytest.approx(judgment.log_odds, abs=1e-4)
    n_prompt = sum(judgment.n_prompt_tokens for judgment in judgments)
    n_chain = sum(judgment.n_chain_tokens for judgment in judgments)
    assert body["usage"] == {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_chain,
        "total_tokens": n_prompt + n_chain,
    }
    assert body["meta"]["tokens"] == {"input_tokens": n_prompt, "output_tokens": n_chain}


def test_an_instruction_stands_behind_the_query(server: Running, quick: Rank1):
    instruction = "Only rivers are relevant."
    expected = quick.rank(QUERY, DOCUMENTS, instruction=instruction)
    body = server.rerank(QUERY, DOCUMENTS, instruction=instruction).json()
    assert [result["index"] for result in body["results"]] == [hit["corpus_id"] for hit in expected]
    assert [result["relevance_score"] for result in body["results"]] == pytest.approx(
        [hit["score"] for hit in expected], abs=1e-6
    )


def test_top_n_of_0_is_all_as_vllm_has_it(server: Running):
    assert len(server.rerank(QUERY, DOCUMENTS, top_n=0).json()["results"]) == len(DOCUMENTS)


def test_the_form_of_tei(server: Running, quick: Rank1):
    expected = quick.rank(QUERY, DOCUMENTS)
    with server.client() as client:
        body = {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "return_text": True}
        ranks = client.post("/rerank", json=body).json()
        raw = client.post("/rerank", json=body | {"raw_scores": True, "return_text": False}).json()
    assert [rank["index"] for rank in ranks] == [hit["corpus_id"] for hit in expected]
    assert [rank["score"] for rank in ranks] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    assert [rank["text"] for rank in ranks] == [DOCUMENTS[rank["index"]] for rank in ranks]
    assert [rank["score"] for rank in raw] == pytest.approx([hit["log_odds"] for hit in expected], abs=1e-4)
    assert "text" not in raw[0]


def test_a_stream_has_a_line_for_each_document_and_then_the_ranking(server: Running):
    response = server.rerank(QUERY, DOCUMENTS, stream=True, return_chains=True)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    *lines, last = [json.loads(line) for line in response.text.splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(len(DOCUMENTS)))
    whole = server.rerank(QUERY, DOCUMENTS, return_chains=True).json()
    assert {**last, "id": None} == {**whole, "id": None}
    assert sorted(lines, key=lambda line: -line["log_odds"]) == last["results"]


BAD: list[tuple[Any, int, str]] = [
    ("{", 400, "the body is not JSON"),
    ("", 422, "required"),
    ('"' + "[" * 100_000, 400, "not JSON"),
    ("[" * 100_000, 400, "body"),
    (b'{"query": "\xff"}', 400, "body"),
    ("null", 422, "dictionary"),
    ({}, 422, "query: Field required; documents: Field required"),
    ({"query": QUERY}, 422, "documents: Field required"),
    ({"query": QUERY, "documents": []}, 422, "documents: List should have at least 1 item"),
    ({"query": QUERY, "documents": "text"}, 422, "documents: Input should be a valid list"),
    ({"query": QUERY, "documents": ["a", 3]}, 422, "documents.1: Input should be a valid string"),
    ({"query": QUERY, "documents": ["a", {"title": "b"}]}, 422, "documents.1.text: Field required"),
    (
        {"query": QUERY, "documents": ["a", " \n", ""]},
        422,
        "documents.1: the document is blank; leave it out; documents.2",
    ),
    ({"query": " ", "documents": ["a"]}, 422, "the query is blank"),
    ({"query": QUERY, "documents": ["a"], "top_n": -1}, 422, "top_n"),
    ({"query": QUERY, "documents": ["a"], "top_n": "3"}, 422, "top_n: Input should be a valid integer"),
    ({"query": QUERY, "documents": ["a"], "stream": 1}, 422, "stream"),
    ('{"query": "\\ud800", "documents": ["a"]}', 422, "query: the query is not valid Unicode"),
    ('{"query": "a", "documents": ["a", "\\udfff"]}', 422, "documents.1: the passage is not valid Unicode"),
    ({"query": QUERY, "documents": ["a"] * 51}, 413, "51 documents are too many: a request may have 50"),
    ({"query": QUERY, "documents": ["a", "b" * 1001]}, 413, "documents.1: 1001 characters are too many"),
    ({"query": "b" * 1001, "documents": ["a"]}, 413, "query: 1001 characters are too many"),
]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_a_bad_request_says_what_is_wrong_and_judges_nothing(serve, quick: Rank1, path: str):
    server = serve(quick, limits=Limits(documents=50, characters=1000))
    steps = quick.decoder.stats.steps
    with server.client(headers={"content-type": "application/json"}) as client:
        for body, status, message in BAD:
            response = client.post(path, content=body if isinstance(body, str | bytes) else json.dumps(body))
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (status, status), body
            assert message in error["message"], body
    assert server.is_empty
    assert quick.decoder.stats.steps == steps


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(serve, quick: Rank1, declared: bool):
    server = serve(quick, limits=Limits(body=100_000))
    body = b" " * 200_000
    with server.client(headers={"content-type": "application/json"}) as client:
        response = client.post("/rerank", content=body if declared else iter([body]))
    assert response.status_code == 413
    assert "100000 bytes" in response.json()["error"]["message"]
    assert server.rerank(QUERY, DOCUMENTS).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/rerank", 405)])
def test_all_errors_have_one_shape(server: Running, method: str, path: str, status: int):
    with server.client() as client:
        response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "type", "message"}


def test_a_document_that_cannot_be_judged_does_not_cost_the_others(checkpoint, serve):
    small = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=12, kv_cache_tokens=128)
    server = serve(small)
    long = " ".join(DOCUMENTS * 3)
    body = server.rerank(QUERY, ["A wing.", long, "Bread."]).json()
    assert sorted(result["index"] for result in body["results"]) == [0, 2]
    (error,) = body["errors"]
    assert error["index"] == 1
    assert "there is no memory for this pair" in error["message"]
    response = server.rerank(QUERY, [long])
    assert response.status_code == 422
    assert "documents.0: there is no memory for this pair" in response.json()["error"]["message"]
    *lines, last = map(json.loads, server.rerank(QUERY, [long], stream=True).text.splitlines())
    assert (lines, last["error"]["code"]) == ([], 422)


def test_a_document_that_was_cut_is_a_warning(checkpoint, serve):
    short = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=12, max_length=160)
    body = serve(short).rerank(QUERY, ["A wing.", " ".join(DOCUMENTS * 3)]).json()
    assert body["meta"]["warnings"] == ["cut at their end to fit: documents 1"]


def test_a_key_is_asked_for_to_rerank_and_for_nothing_else(serve, quick: Rank1):
    server = serve(quick, api_key="let-me-in")
    body = {"query": QUERY, "documents": DOCUMENTS[:1]}
    with server.client() as client:
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic let-me-in"}):
                response = client.post(path, json=body, headers=headers)
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "let-me-in" not in response.text
            assert client.post(path, json=body, headers={"Authorization": "Bearer let-me-in"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == 200


def test_a_model_that_fails_is_said_and_the_next_request_is_tried_again(serve, quick: Rank1, monkeypatch):
    server = serve(quick)

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("a secret of the server")

    with monkeypatch.context() as patch, server.client() as client:
        patch.setattr(quick.decoder, "steps", broken)
        response = server.rerank(QUERY, DOCUMENTS)
        assert response.status_code == 503
        assert "secret" not in response.text
        assert client.get("/health").status_code == 503
        (line,) = server.rerank(QUERY, DOCUMENTS, stream=True).text.splitlines()
        assert json.loads(line)["error"]["code"] == 503
    assert server.rerank(QUERY, DOCUMENTS).status_code == 200
    with server.client() as client:
        assert client.get("/health").json() == {"status": "ok", "model": "rank1"}
    wait_until(lambda: server.is_empty)


def test_metrics_count_what_happened(server: Running):
    server.rerank(QUERY, DOCUMENTS)
    server.rerank(QUERY, [])
    wait_until(lambda: server.is_empty)
    with server.client() as client:
        client.get("/" + "x" * 50)
        families = text_string_to_metric_families(client.get("/metrics").text)
    samples = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
    assert samples["rank1_requests_total", "/v1/rerank", "200"] == 1
    assert samples["rank1_requests_total", "/v1/rerank", "422"] == 1
    assert samples["rank1_requests_total", "404", "other"] == 1
    assert samples["rank1_request_seconds_count", "/v1/rerank"] == 2
    assert samples["rank1_documents_total", "judged"] == len(DOCUMENTS)
    assert samples[("rank1_pending_documents",)] == samples[("rank1_live_rows",)] == 0
    assert samples[("rank1_steps_total",)] == server.engine.reranker.decoder.stats.steps > 0


def test_the_page_needs_no_network(server: Running):
    with server.client() as client:
        page = client.get("/docs").text
        named = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert any(name.endswith(".js") for name in named)
        for name in named:
            assert name.startswith("/")
            assert client.get(name).status_code == 200
    assert "http" not in re.sub(r"<!--.*?-->", "", page)
