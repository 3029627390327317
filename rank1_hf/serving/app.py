"""The HTTP side: the routes and the API key."""

import hmac
import time
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr

from rank1_hf import __version__
from rank1_hf.serving.about import Info, ModelList, info, model_list
from rank1_hf.serving.engine import Engine
from rank1_hf.serving.errors import DOCUMENTED, UNAUTHORIZED, ErrorResponse, handle_errors
from rank1_hf.serving.limits import Limits
from rank1_hf.serving.metrics import CountRequests, Metrics
from rank1_hf.serving.middleware import AllIsJson, BodyLimit, NoQueryString
from rank1_hf.serving.requests import AnyScoreRequest, EitherRequest, RerankRequest, TextsRequest
from rank1_hf.serving.responses import RerankResponse, ScoreResponse, TextRank
from rank1_hf.serving.service import NDJSON, Service

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The ranking. With `stream`: a line of JSON for each document as soon as it is judged, and this "
        "as the last line. A failed document has no line of its own; it is in `errors` of the last.",
        "content": {NDJSON: {"schema": {"type": "string"}}},
    }
}


def make_app(
    engine: Engine, *, model: str = "rank1", api_key: str | SecretStr | None = None, limits: Limits | None = None
) -> FastAPI:
    """The application.

    Args:
        engine: what judges.
        model: what responses call the model.
        api_key: what clients must send as `Authorization: Bearer KEY` for all but `/health`, `/metrics` and `/docs`;
            None: nothing. It is shown nowhere.
        limits: the most a request may have.
    """
    limits = limits or Limits()
    metrics = Metrics(engine)
    app = FastAPIOffline(
        title="rank1_hf",
        version=__version__,
        description="Reranks documents with a reasoning reranker, in the form that Jina, Cohere, vLLM and TEI speak.",
        redoc_url=None,
    )
    if isinstance(api_key, str):
        api_key = SecretStr(api_key)
    service = Service(engine, metrics, limits, model)
    started = int(time.time())
    guarded: dict[str, Any] = {"dependencies": [] if api_key is None else [Depends(_key_check(api_key))]}
    rerank_route = guarded | {"response_model_exclude_none": True, "responses": _STREAM | DOCUMENTED}

    @app.post(
        "/rerank",
        summary="Rerank, in the form of Jina, Cohere and vLLM, or in TEI's with `texts`",
        response_model=RerankResponse | list[TextRank],
        **rerank_route,
    )
    async def rerank_either(
        request: Request, response: Response, body: EitherRequest
    ) -> Response | RerankResponse | list[TextRank]:
        if isinstance(body, TextsRequest):
            return await service.rank_texts(request, response, body)
        return await service.rerank(request, body)

    form = "Rerank, in the form of Jina, Cohere and vLLM"

    @app.post("/v1/rerank", summary=form, response_model=RerankResponse, **rerank_route)
    @app.post("/v2/rerank", summary=form, response_model=RerankResponse, **rerank_route)
    async def rerank(request: Request, body: RerankRequest) -> Response | RerankResponse:
        return await service.rerank(request, body)

    @app.post("/score", summary="Score pairs, in vLLM's form", responses=DOCUMENTED, **guarded)
    @app.post("/v1/score", summary="Score pairs, in vLLM's form", responses=DOCUMENTED, **guarded)
    async def score(request: Request, body: AnyScoreRequest) -> ScoreResponse:
        return await service.score(request, body)

    @app.get("/v1/models", summary="The model, in the form of OpenAI and vLLM", responses=UNAUTHORIZED, **guarded)
    async def models() -> ModelList:
        return model_list(engine, model, started)

    @app.get("/info", summary="The model and the limits, in TEI's form", responses=UNAUTHORIZED, **guarded)
    async def about() -> Info:
        return info(engine, model, limits)

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
    app.add_middleware(AllIsJson)
    app.add_middleware(NoQueryString)
    app.add_middleware(BodyLimit, max_bytes=limits.body)
    app.add_middleware(CountRequests, metrics=metrics)
    return app


# ---- the API key -----------------------------------------------------------------------------------------------------


def _key_check(api_key: SecretStr) -> Any:  # noqa: ANN401
    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        key = "" if given is None else given.credentials
        if not hmac.compare_digest(key.encode(), api_key.get_secret_value().encode()):
            raise HTTPException(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check
