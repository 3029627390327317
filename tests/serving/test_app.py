"""What clients get over loopback, compared with what the same model says offline."""

import json
import math
import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rank1_hf import Rank1
from rank1_hf.serving.limits import Limits
from tests.serving.conftest import Running, wait_until
from tests.tiny_models import TEXT

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
    assert [result["document"] for result in body["results"]] == [
        {"text": DOCUMENTS[r["index"]]} for r in body["results"]
    ]
    bare = server.rerank(QUERY, DOCUMENTS, path=path, return_documents=False).json()
    assert all(set(result) == {"index", "relevance_score"} for result in bare["results"])


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


GOOD = {"query": QUERY, "documents": ["a"]}
LONG = "b" * 1001
SURROGATE = "\udfff"

BAD: list[tuple[Any, int, str]] = [
    ("{", 400, "the body is not JSON"),
    ("", 422, "the body is missing"),
    ('"' + "[" * 100_000, 400, "not JSON"),
    ("[" * 100_000, 400, "the body cannot be read as JSON"),
    (b'{"query": "\xff"}', 400, "the body cannot be read as JSON"),
    ("null", 422, "the body "),
    ("[]", 422, "the body must be an object"),
    ({}, 422, "query is missing; documents is missing"),
    ({"query": QUERY}, 422, "documents is missing"),
    ({"query": None, "documents": None}, 422, "query must be text; documents must be a list"),
    ({"query": QUERY, "documents": []}, 422, "documents must not be empty"),
    ({"query": QUERY, "documents": "text"}, 422, "documents must be a list"),
    ({"query": " ", "documents": ["a"]}, 422, "query: the query is blank"),
    (GOOD | {"top_n": -1}, 422, "top_n must not be negative"),
    (GOOD | {"top_n": "3"}, 422, "top_n must be a whole number"),
    (GOOD | {"top_k": 1.5}, 422, "top_k must be a whole number"),
    (GOOD | {"stream": 1}, 422, "stream must be true or false"),
    (GOOD | {"rank_fields": "text"}, 422, "rank_fields must be a list"),
    (GOOD | {"rank_fields": [3]}, 422, "rank_fields.0 must be text"),
    (GOOD | {"instruction": 3}, 422, "instruction must be text"),
    (GOOD | {"instruction": SURROGATE}, 422, "query: the query's 'instruction' is not valid Unicode"),
    ({"query": SURROGATE, "documents": ["a"]}, 422, "query: the query is not valid Unicode"),
    ({"query": QUERY, "documents": ["a"] * 51}, 413, "51 documents are too many: a request may have 50"),
    ({"query": LONG, "documents": ["a"]}, 413, "query: 1001 characters are too many"),
    # of these requests nothing can be judged, since every document is a bad one
    ({"query": QUERY, "documents": [LONG]}, 413, "documents.0: 1001 characters are too many"),
    ({"query": QUERY, "documents": [LONG, 3]}, 422, "documents.1: the document must be text, not a number"),
    ({"query": QUERY, "documents": [SURROGATE]}, 422, "documents.0: the passage is not valid Unicode"),
    ({"query": QUERY, "documents": [None]}, 422, "documents.0: the document must be text, not null"),
    ({"query": QUERY, "documents": [{"title": "b"}]}, 422, "documents.0: the document has no 'text'"),
    ({"query": QUERY, "documents": [[]] * 7}, 422, "documents.4: the document must be text, not a list; and 2 more"),
    ({"query": QUERY, "documents": [True], "stream": True}, 422, "documents.0: the document must be text, not true or"),
]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_a_bad_request_says_what_is_wrong_and_judges_nothing(serve, quick: Rank1, path: str):
    server = serve(quick, limits=Limits(documents=50, characters=1000))
    steps = quick.decoder.stats.steps
    with server.client() as client:
        for body, status, message in BAD:
            response = client.post(path, content=body if isinstance(body, str | bytes) else json.dumps(body))
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (status, status), body
            assert message in error["message"], body
    assert server.is_empty
    assert quick.decoder.stats.steps == steps


BAD_DOCUMENTS: list[tuple[Any, str]] = [
    (LONG, "1001 characters are too many: it may have 1000"),
    ({"title": LONG, "text": "a"}, "1003 characters are too many"),
    (None, "the document must be text, not null"),
    (3.5, "the document must be text, not a number"),
    (False, "the document must be text, not true or false"),
    (["a"], "the document must be text, not a list"),
    ({}, "the document has no 'text'; it has nothing"),
    ({"body": "b", "id": 1}, "the document has no 'text'; it has body, id; name those to judge in rank_fields"),
    ({"\ud800": "a", "\n": "a", **dict.fromkeys(map(str, range(300)), "a")}, "…; name those to judge in rank_fields"),
    ({"text": None}, "the document's 'text' must be text, not null"),
    ({"text": 7}, "the document's 'text' must be text, not a number"),
    ({"text": {"text": "a"}}, "the document's 'text' must be text, not an object"),
    ({"text": "a", "title": []}, "the document's 'title' must be text, not a list"),
    (SURROGATE, "the passage is not valid Unicode"),
    ({"text": "a" + SURROGATE}, "is not valid Unicode"),
    ({"text": "a", "title": SURROGATE}, "is not valid Unicode"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_document_costs_itself_and_not_the_others(serve, quick: Rank1, stream: bool):
    server = serve(quick, limits=Limits(documents=50, characters=1000))
    documents = [DOCUMENTS[0], *(document for document, _ in BAD_DOCUMENTS), "", DOCUMENTS[1]]
    judged = [0, len(documents) - 2, len(documents) - 1]  # a blank one is judged, as by the library
    text = server.rerank(QUERY, documents, stream=stream, return_chains=True).text
    *lines, body = map(json.loads, text.splitlines())
    expected = {index: quick.judge([(QUERY, documents[index])])[0] for index in judged}
    for results in (body["results"], *([lines] if stream else [])):
        assert sorted(result["index"] for result in results) == judged
        for result in results:
            assert result["chain"] == expected[result["index"]].chain
            assert result["relevance_score"] == pytest.approx(expected[result["index"]].score, abs=1e-5)
    assert [error["index"] for error in body["errors"]] == list(range(1, len(BAD_DOCUMENTS) + 1))
    for error, (_, message) in zip(body["errors"], BAD_DOCUMENTS, strict=True):
        assert message in error["message"]


def test_what_a_document_holds_beside_its_text_comes_back_and_costs_nothing(server: Running):
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    documents = [
        {"text": "A wing.", "id": 7, "tags": ["a", None], "of": {"of": True}, "title": None},
        {"text": "A river.", "price": 1e400, "\ud800": "\ud800", "deep": deep},
    ]
    body = json.dumps({"query": QUERY, "documents": documents}).replace("Infinity", "1e400")
    with server.client() as client:
        results = client.post("/v1/rerank", content=body).json()["results"]
    found = {result["index"]: result["document"] for result in results}
    assert found[0] == documents[0]
    assert (found[1]["text"], found[1]["price"], found[1]["?"]) == ("A river.", None, "?")


def test_null_means_not_said(server: Running):
    names = ("top_n", "top_k", "return_documents", "return_chains", "stream", "instruction", "model", "rank_fields")
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1], "title": None}]
    said = server.rerank(QUERY, documents, **dict.fromkeys((*names, "max_chunks_per_doc", "priority"))).json()
    plain = server.rerank(QUERY, [DOCUMENTS[0], {"text": DOCUMENTS[1]}]).json()
    assert [(r["index"], r["relevance_score"]) for r in said["results"]] == [
        (r["index"], r["relevance_score"]) for r in plain["results"]
    ]
    assert set(said) == set(plain)
    with server.client() as client:
        body = {"query": QUERY, "texts": DOCUMENTS} | dict.fromkeys(("raw_scores", "return_text", "truncate"))
        assert set(client.post("/rerank", json=body).json()[0]) == {"index", "score"}
        body = {"text_1": QUERY, "text_2": DOCUMENTS, "use_activation": None}
        assert 0 < client.post("/score", json=body).json()["data"][0]["score"] < 1
        body = {"query": QUERY, "documents": DOCUMENTS, "texts": None}
        assert len(client.post("/rerank", json=body).json()["results"]) == len(DOCUMENTS)
        assert "texts must be a list" in client.post("/rerank", json={"query": QUERY, "texts": None}).text


def test_nan_means_not_said_as_null_does(server: Running):
    names = ("top_n", "top_k", "return_documents", "return_chains", "stream", "instruction", "model", "rank_fields")
    forms: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "/v1/rerank": ({"query": QUERY, "documents": DOCUMENTS}, names),
        "/rerank": ({"query": QUERY, "texts": DOCUMENTS}, ("raw_scores", "return_text", "instruction", "documents")),
        "/score": ({"text_1": QUERY, "text_2": DOCUMENTS}, ("use_activation", "instruction")),
    }
    with server.client() as client:
        for path, (body, optional) in forms.items():
            said = [
                client.post(path, content=json.dumps(body | dict.fromkeys(optional, empty)))
                for empty in (None, math.nan)
            ]
            assert [answer.status_code for answer in said] == [200, 200]
            texts = [re.sub('"(id|created)":("[^"]*"|[0-9]+)', "", answer.text) for answer in said]
            assert texts[0] == texts[1]
        answer = client.post("/v1/rerank", content=json.dumps({"query": math.nan, "documents": math.nan}))
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            422,
            "query must be text; documents must be a list",
        )


def test_top_k_is_understood_for_top_n_which_comes_first(server: Running):
    def n_results(**body: Any) -> int:
        return len(server.rerank(QUERY, DOCUMENTS, **body).json()["results"])

    wanted = ({"top_k": 2}, {"top_n": 2}, {"top_n": None, "top_k": 2}, {"top_n": 2, "top_k": 3}, {"top_n": 2.0})
    assert [n_results(**each) for each in wanted] == [2] * len(wanted)
    assert n_results(top_k=0) == len(DOCUMENTS)


@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain; charset=utf-8", "multipart/form-data", "?"]
)
def test_json_is_read_whatever_its_content_type(server: Running, content_type: str | None):
    headers = {} if content_type is None else {"content-type": content_type}
    with server.client(headers=headers) as client:
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            assert client.post(path, content=json.dumps(GOOD)).status_code == 200
        assert client.post("/score", content=json.dumps({"text_1": "a", "text_2": "b"})).status_code == 200


def test_messages_are_ours_and_name_the_field_that_the_client_sent(server: Running):
    with server.client() as client:
        for path, body, message in [
            ("/rerank", {"query": "a", "texts": 3}, "texts must be a list"),
            ("/rerank", {"query": "a", "texts": [3]}, "texts.0: the document must be text, not a number"),
            ("/rerank", {"texts": ["b"], "raw_scores": 1}, "query is missing; raw_scores must be true or false"),
            ("/score", {}, "text_1 is missing; text_2 is missing"),
            ("/score", {"text_1": "a"}, "text_2 is missing"),
            (
                "/score",
                {"text_1": 3, "text_2": []},
                "text_1 must be a text or a list of texts; text_2 must not be empty",
            ),
            ("/score", {"text_1": "a", "text_2": {"b": "c"}}, "text_2 must be a text or a list of texts"),
            ("/score", {"queries": ["a"]}, "documents is missing"),
            ("/score", {"items": ["a"]}, "queries is missing"),
            ("/score", {"data_2": ["a"]}, "data_1 is missing"),
            ("/score", {"text_1": " ", "text_2": ["b", "c"]}, "text_1: the query is blank"),
            ("/score", {"queries": [3], "items": "c"}, "queries.0: the query must be text, not a number"),
            (
                "/score",
                {"text_1": ["a"] * 2, "text_2": ["b"] * 3},
                "text_1 has 2 texts and text_2 3: give one query for",
            ),
            ("/score", {"text_1": "a", "text_2": "b", "use_activation": 0}, "use_activation must be true or false"),
        ]:
            response = client.post(path, json=body)
            assert response.status_code == 422
            assert response.json()["error"]["message"].startswith(message), body
        assert "no such address" in client.get("/nowhere").json()["error"]["message"]
        for method, address, taken in (("GET", "/rerank", "POST"), ("POST", "/info", "GET"), ("PUT", "/score", "POST")):
            refused = client.request(method, address).json()["error"]
            assert refused["message"] == f"this address does not take this method; it takes {taken}"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(serve, quick: Rank1, declared: bool):
    server = serve(quick, limits=Limits(body=100_000))
    body = b" " * 200_000
    with server.client() as client:
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
    small = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=12, decoding="kv_cache_tokens=128")
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


def test_a_key_is_asked_for_by_all_that_asks_the_model(serve, quick: Rank1):
    server = serve(quick, api_key="let-me-in")
    rerank, score = {"query": QUERY, "documents": DOCUMENTS[:1]}, {"text_1": QUERY, "text_2": DOCUMENTS[0]}
    guarded = {"/rerank": rerank, "/v1/rerank": rerank, "/v2/rerank": rerank, "/score": score, "/v1/score": score}
    guarded |= {"/v1/models": None, "/info": None}
    with server.client() as client:

        def ask(path: str, headers: dict[str, str]) -> httpx.Response:
            body = guarded[path]
            return client.request("GET" if body is None else "POST", path, json=body, headers=headers)

        for path in guarded:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic let-me-in"}):
                response = ask(path, headers)
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "let-me-in" not in response.text
            assert ask(path, {"Authorization": "Bearer let-me-in"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/docs").status_code == 200


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
