"""Metrics for Prometheus."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rank1_hf.results.judgment import Judgment
from rank1_hf.serving.engine import Engine

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Counts of the server, beside those of the engine and the process.

    Attributes:
        registry: what `/metrics` shows.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rank1_requests", "Requests, by path and HTTP status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "rank1_request_seconds", "How long requests took", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.documents = Counter(
            "rank1_documents", "Documents that have been judged, or could not be", ["outcome"], registry=self.registry
        )
        self.disconnects = Counter(
            "rank1_disconnects", "Requests whose client left before its ranking", registry=self.registry
        )
        self.registry.register(_EngineCollector(engine))
        ProcessCollector(registry=self.registry)

    def judged(self, judgment: Judgment) -> None:
        """A document has its judgment."""
        self.documents.labels("judged" if judgment.error is None else "failed").inc()


class _EngineCollector(Collector):
    """What the engine and its decode loop count by themselves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.reranker.decoder.stats
        for name, value, meaning in (
            ("rank1_waiting_documents", self._engine.n_waiting, "Documents in the queue"),
            ("rank1_pending_documents", self._engine.n_pairs, "Documents in the queue and in the decode loop"),
            ("rank1_live_rows", stats.live_rows, "Rows in the last step of the decode loop"),
        ):
            yield GaugeMetricFamily(name, meaning, value=value)
        for name, value, meaning in (
            ("rank1_steps", stats.steps, "Steps of the decode loop"),
            ("rank1_prefill_tokens", stats.prefill_tokens, "Prompt tokens that the model has seen"),
            ("rank1_decode_tokens", stats.decode_tokens + stats.accepted_tokens, "Tokens that the model has generated"),
            ("rank1_preemptions", stats.preemptions, "Rows that gave up their memory for others and came back"),
            ("rank1_out_of_memory", stats.out_of_memory, "Steps taken back because the device had no memory"),
        ):
            yield CounterMetricFamily(name, meaning, value=value)


class CountRequests:
    """Middleware that counts and times requests, by the paths that there are."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
