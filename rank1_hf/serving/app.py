"""The HTTP side: routes, the API key, and clients that leave."""

import asyncio
import contextlib
import hmac
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import rank1_hf
from rank1_hf.results import Judgment
from rank1_hf.serving.bodies import (
    EitherRequest,
    ErrorResponse,
    RerankRequest,
    RerankResponse,
    TextRank,
    TextsRequest,
    response_of,
    result_of,
    text_ranks,
)
from rank1_hf.serving.engine import Engine, EngineError
from rank1_hf.serving.errors import CLIENT_CLOSED_REQUEST, DOCUMENTED, handle_errors, problem
from rank1_hf.serving.limits import BodyLimit, Limits
from rank1_hf.serving.metrics import CountRequests, Metrics
from rank1_hf.serving.pending import Pending, PendingResponse

NDJSON = "application/x-ndjson"

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The ranking. With `stream`: a line of JSON for each document as it is judged, then this.",
        "content": {NDJSON: {"schema": {"type": "string"}}},
    }
}


def make_app(
    engine: Engine, *, model: str = "rank1", api_key: str | None = None, limits: Limits | None = None
) -> FastAPI:
    """The application.

    Args:
        engine: what judges.
        model: what responses call the model.
        api_key: what clients must send as `Authorization: Bearer KEY` to rerank; None: nothing.
        limits: the most a request may have.
    """
    limits = limits or Limits()
    metrics = Metrics(engine)
    app = FastAPIOffline(
        title="rank1_hf",
        version=rank1_hf.__version__,
        description="Reranks documents with a reasoning reranker, in the form that Jina, Cohere, vLLM and TEI speak.",
        redoc_url=None,
    )
    service = _Service(engine, metrics, limits, model)
    rerank_route: dict[str, Any] = {
        "dependencies": [] if api_key is None else [Depends(_key_check(api_key))],
        "response_model_exclude_none": True,
        "responses": _STREAM | DOCUMENTED,
    }

    @app.post(
        "/rerank",
        summary="Rerank, in Jina's and Cohere's form, or in TEI's with `texts`",
        response_model=RerankResponse | list[TextRank],
        **rerank_route,
    )
    async def rerank_either(request: Request, body: EitherRequest) -> Response | RerankResponse | list[TextRank]:
        if isinstance(body, TextsRequest):
            return await service.rank_texts(request, body)
        return await service.rerank(request, body)

    form = "Rerank, in Jina's and Cohere's form"

    @app.post("/v1/rerank", summary=form, response_model=RerankResponse, **rerank_route)
    @app.post("/v2/rerank", summary=form, response_model=RerankResponse, **rerank_route)
    async def rerank(request: Request, body: RerankRequest) -> Response | RerankResponse:
        return await service.rerank(request, body)

    @app.get("/health", summary="Whether the model works", responses={503: {"model": ErrorResponse}})
    async def health() -> dict[str, str]:
        if not engine.is_healthy:
            raise HTTPException(503, "the model has failed; the server's log says why")
        return {"status": "ok", "model": model}

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    handle_errors(app)
    app.add_middleware(BodyLimit, max_bytes=limits.body)
    app.add_middleware(CountRequests, metrics=metrics)
    return app


class _Service:
    """What the routes do."""

    def __init__(self, engine: Engine, metrics: Metrics, limits: Limits, model: str) -> None:
        self._engine = engine
        self._metrics = metrics
        self._limits = limits
        self._model = model

    async def rerank(self, request: Request, body: RerankRequest) -> Response | RerankResponse:
        if not body.stream:
            return self._response(await self._all(request, body), body)
        pending = self._submit(body)
        return PendingResponse(self._lines(pending, body), pending, media_type=NDJSON)

    async def rank_texts(self, request: Request, body: TextsRequest) -> list[TextRank]:
        judgments = await self._all(request, body.as_rerank())
        _check_some_judged(judgments)
        return text_ranks(judgments, body)

    def _submit(self, body: RerankRequest) -> Pending:
        self._limits.check(body)
        return Pending(self._engine, self._metrics, body.pairs())

    async def _all(self, request: Request, body: RerankRequest) -> list[Judgment]:
        """All judgments, for as long as the client waits for them.

        Raises:
            HTTPException: it has left.
        """
        with contextlib.closing(self._submit(body)) as pending:
            judging, leaving = asyncio.ensure_future(pending.all()), asyncio.ensure_future(_leaves(request))
            try:
                await asyncio.wait((judging, leaving), return_when=asyncio.FIRST_COMPLETED)
                if judging.done():
                    return judging.result()
            finally:
                judging.cancel()
                leaving.cancel()
        raise HTTPException(CLIENT_CLOSED_REQUEST, "the client has left")

    async def _lines(self, pending: Pending, body: RerankRequest) -> AsyncIterator[str]:
        judgments: list[Judgment] = []
        try:
            async for judgment in pending:
                judgments.append(judgment)
                if judgment.error is None:
                    yield result_of(judgment, body).model_dump_json(exclude_none=True) + "\n"
            yield self._response(judgments, body).model_dump_json(exclude_none=True) + "\n"
        except HTTPException as error:
            yield problem(error.status_code, error.detail).model_dump_json() + "\n"
        except EngineError as error:
            yield problem(503, str(error)).model_dump_json() + "\n"

    def _response(self, judgments: list[Judgment], body: RerankRequest) -> RerankResponse:
        _check_some_judged(judgments)
        return response_of(judgments, body, id_=uuid.uuid4().hex, model=self._model)


async def _leaves(request: Request) -> None:
    """Wait until the client is gone. The request's body has been read, so nothing else comes from it."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_some_judged(judgments: list[Judgment]) -> None:
    errors = [f"documents.{each.index}: {each.error}" for each in judgments if each.error is not None]
    if len(errors) == len(judgments):
        raise HTTPException(422, f"none of the documents could be judged; {errors[0]}")


# ---- the API key -----------------------------------------------------------------------------------------------------


def _key_check(api_key: str) -> Any:  # noqa: ANN401
    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        key = "" if given is None else given.credentials
        if not hmac.compare_digest(key.encode(), api_key.encode()):
            raise HTTPException(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check
