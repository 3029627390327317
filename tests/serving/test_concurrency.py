"""Many clients at once: rows of all decode together, and those of a client that leaves are freed."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from rank1_hf import Rank1
from tests.decoding.oracle import WORDS
from tests.serving.conftest import PATIENCE, Running, wait_until

N_CLIENTS, N_DOCUMENTS = 50, 10


def request_of(client: int) -> dict[str, Any]:
    """Every client's own query and documents."""
    begin = 3 * client % len(WORDS)
    words = (WORDS * 3)[begin:]
    documents = [f"{client} " + " ".join(words[place : place + 8]) for place in range(N_DOCUMENTS)]
    return {"query": f"{client} {words[0]}", "documents": documents, "return_chains": True}


def message_of(body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = "POST /rerank HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(content)}"
    return "\r\n".join([*head, "", ""]).encode() + content


@contextmanager
def asking(server: Running, body: dict[str, Any]) -> Iterator[None]:
    """A client that has sent its request and leaves at the end of the block."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(message_of(body))
        yield


def test_fifty_clients_get_what_each_would_get_alone(serve, quick: Rank1, monkeypatch: pytest.MonkeyPatch):
    rows: list[int] = []
    decode = quick.decoder.steps

    def recorded(*args: Any, **options: Any) -> Iterator[Any]:
        for finished in decode(*args, **options):
            rows.append(quick.decoder.stats.live_rows)
            yield finished

    monkeypatch.setattr(quick.decoder, "steps", recorded)
    server = serve(quick)
    bodies = [request_of(client) for client in range(N_CLIENTS)]

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False, verify=False) as client:
            return await asyncio.gather(*(client.post("/rerank", json=body) for body in bodies))

    responses = asyncio.run(ask_all())
    assert max(rows) > 2 * N_DOCUMENTS, "rows of different requests must decode together"
    expected = quick.judge([(body["query"], document) for body in bodies for document in body["documents"]])
    for client, response in enumerate(responses):
        results = response.json()["results"]
        assert sorted(result["index"] for result in results) == list(range(N_DOCUMENTS))
        for result in results:
            judgment = expected[client * N_DOCUMENTS + result["index"]]
            assert result["chain"] == judgment.chain
            assert result["relevance_score"] == pytest.approx(judgment.score, abs=1e-5)
    wait_until(lambda: server.is_empty)


def test_half_of_fifty_clients_leave_and_the_others_get_everything(serve, quick: Rank1):
    server = serve(quick)

    async def leave(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(message_of({**request_of(number), "stream": number % 4 == 0}))
        await writer.drain()
        if number % 8 == 0:
            await reader.readline()  # leaves in the middle of its stream
        writer.close()

    async def stay(client: httpx.AsyncClient, number: int) -> int:
        response = await client.post("/rerank", json=request_of(number))
        return len(response.json()["results"])

    async def all_at_once() -> list[int | None]:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False, verify=False) as client:
            return await asyncio.gather(
                *(leave(number) if number % 2 == 0 else stay(client, number) for number in range(N_CLIENTS))
            )

    counts = asyncio.run(all_at_once())
    assert counts[1::2] == [N_DOCUMENTS] * (N_CLIENTS // 2)
    wait_until(lambda: server.is_empty)


@pytest.mark.parametrize("stream", [False, True])
def test_the_rows_of_a_client_that_leaves_are_freed_and_those_of_another_are_not(serve, endless: Rank1, stream: bool):
    server = serve(endless)
    cache = endless.decoder._cache
    with asking(server, {"query": "wings", "documents": ["a", "b", "c"]}):
        wait_until(lambda: server.live_rows == 3)
        with asking(server, {"query": "bread", "documents": ["d", "e"], "stream": stream}):
            wait_until(lambda: server.live_rows == 5)
        wait_until(lambda: server.live_rows == 3)
        assert server.engine.n_pairs == 3
        assert cache.n_pages_used > 0
    wait_until(lambda: server.is_empty)


def test_what_waits_in_the_queue_leaves_it_with_its_client(serve, endless: Rank1):
    server = serve(endless, batch_size=2)
    with asking(server, {"query": "wings", "documents": ["a", "b"]}):
        wait_until(lambda: server.live_rows == 2)
        with asking(server, {"query": "bread", "documents": ["d", "e", "f"]}):
            wait_until(lambda: server.engine.n_waiting >= 2)  # the scheduler may hold one that has no room
        wait_until(lambda: server.engine.n_pairs == 2)
        assert server.engine.n_waiting == 0
    wait_until(lambda: server.is_empty)


def test_a_pair_that_two_ask_for_is_decoded_until_neither_wants_it(serve, endless: Rank1):
    server = serve(endless)
    body = {"query": "wings", "documents": ["a"]}
    with asking(server, body):
        wait_until(lambda: server.live_rows == 1)
        with asking(server, body):
            wait_until(lambda: server.engine.n_pairs == 2 and not server.engine.n_waiting)
            assert server.live_rows == 1
        wait_until(lambda: server.engine.n_pairs == 1)
        steps = endless.decoder.stats.steps
        wait_until(lambda: endless.decoder.stats.steps > steps + 3)
        assert server.live_rows == 1
    wait_until(lambda: server.is_empty)


def test_a_full_queue_asks_clients_to_come_back_later(serve, endless: Rank1):
    server = serve(endless, max_pairs=3)
    with asking(server, {"query": "wings", "documents": ["a", "b"]}):
        wait_until(lambda: server.engine.n_pairs == 2)
        response = server.rerank("bread", ["d", "e"])
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) > 0
        assert "the queue is full (2 of 3 documents)" in response.json()["error"]["message"]
        assert server.engine.n_pairs == 2
        with asking(server, {"query": "bread", "documents": ["d"]}):
            wait_until(lambda: server.live_rows == 3)
    wait_until(lambda: server.is_empty)


def test_shutting_down_finishes_what_runs_and_takes_no_more(checkpoint, serve):
    slow = Rank1(
        checkpoint("qwen2", max_position_embeddings=2**20, close_scale=0.0, eos_scale=0.0, plain_chains=True),
        device="cpu",
        dtype="float32",
        max_new_tokens=80,
    )
    server = serve(slow)
    responses: list[httpx.Response] = []
    client = threading.Thread(target=lambda: responses.append(server.rerank("wings", ["a", "b"])))
    client.start()
    wait_until(lambda: server.live_rows)
    server.server.should_exit = True
    server.thread.join(PATIENCE)
    client.join(PATIENCE)
    assert len(responses[0].json()["results"]) == 2
    with pytest.raises(httpx.ConnectError):
        server.rerank("wings", ["a"])
