"""Errors, all in one shape."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rank1_hf.serving.bodies import ErrorResponse, Problem
from rank1_hf.serving.engine import BusyError, EngineError

RETRY_AFTER = 2
"""Seconds that a client is asked to wait when the queue is full."""

CLIENT_CLOSED_REQUEST = 499
"""What nginx calls it; nobody reads it but the metrics."""

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in (
        (400, "The body is not JSON."),
        (401, "The API key is missing or wrong."),
        (413, "Too many documents, or too long ones."),
        (422, "The request is not as described, or none of its documents could be judged."),
        (429, "The queue is full; Retry-After says when to come back."),
        (503, "The model has failed, or the server is shutting down."),
    )
}
"""The errors of a rerank request."""


def problem(status: int, message: str) -> ErrorResponse:
    """The body of an error."""
    words = "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
    return ErrorResponse(error=Problem(code=status, type=words, message=message))


def _place(loc: Sequence[str | int]) -> str:
    """A place in the body, without the names that Pydantic gives to alternatives."""
    return ".".join(str(part) for part in loc[1:] if part not in ("cohere", "tei", "str", "Document"))


def handle_errors(app: FastAPI) -> None:
    """Give an application's errors their shape. Nothing that a client has sent is said back."""

    def response(status: int, message: str, **headers: str) -> JSONResponse:
        return JSONResponse(problem(status, message).model_dump(), status, headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return response(error.status_code, error.detail, **(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        if problems[0].get("type") == "json_invalid":
            (_, at), reason = problems[0]["loc"], problems[0]["ctx"]["error"]
            return response(400, f"the body is not JSON: {reason} at character {at}")
        said = [": ".join(filter(None, (_place(each["loc"]), each["msg"]))) for each in problems]
        more = f"; and {len(said) - 5} more" if len(said) > 5 else ""
        return response(422, "; ".join(said[:5]) + more)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return response(429, str(error), **{"Retry-After": str(RETRY_AFTER)})

    @app.exception_handler(EngineError)
    async def unavailable(request: Request, error: EngineError) -> JSONResponse:
        return response(503, str(error))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return response(500, "the server has failed; its log says why")
