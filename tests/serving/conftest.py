"""Servers on loopback, each with an engine of its own, and models that think briefly or without end."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from rank1_hf import Rank1
from rank1_hf.serving.app import make_app
from rank1_hf.serving.engine import Engine

PATIENCE = 60
"""Seconds until a test gives up; none waits for so long when all is well."""


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for another thread or process."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "this never came"
        time.sleep(0.005)


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    port: int
    engine: Engine
    server: Any
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, verify=False, **options)

    def rerank(self, query: str, documents: list[Any], *, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, content=json.dumps({"query": query, "documents": documents, **body}))

    @property
    def live_rows(self) -> int:
        return self.engine.reranker.decoder.stats.live_rows

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left in the queue, in the loop and in the KV cache: soon after the last answer is sent."""
        in_queue = self.engine.n_pairs or self.engine.n_waiting
        return not (in_queue or self.live_rows or self.engine.reranker.decoder._cache.n_pages_used)


@contextmanager
def running(
    reranker: Rank1, *, max_pairs: int = 1000, batch_size: int | None = None, **options: Any
) -> Iterator[Running]:
    with Engine(reranker, max_pairs=max_pairs, batch_size=batch_size) as engine:
        listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        server = uvicorn.Server(uvicorn.Config(make_app(engine, **options), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Running(listening.getsockname()[1], engine, server, thread)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def quick(checkpoint) -> Rank1:
    """Thinks of up to 12 tokens."""
    return Rank1(checkpoint("qwen2"), device="cpu", dtype="float32", max_new_tokens=12)


@pytest.fixture(scope="session")
def endless(checkpoint) -> Rank1:
    """Never closes a chain, and has room for hours of it."""
    silent = {"close_scale": 0.0, "eos_scale": 0.0, "plain_chains": True}
    folder = checkpoint("qwen2", max_position_embeddings=2**20, **silent)
    return Rank1(folder, device="cpu", dtype="float32", max_new_tokens=2**19, max_length=2**20)


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """`serve(reranker, **options)`: a server that runs until the end of the test."""
    with ExitStack() as stack:
        yield lambda reranker, **options: stack.enter_context(running(reranker, **options))


@pytest.fixture
def server(quick: Rank1, serve) -> Running:
    return serve(quick, model="tiny")
