"""Errors, all in one shape."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from rank1_hf.serving.engine import BusyError, EngineError
from rank1_hf.serving.requests import NO_TEXTS, TAG

RETRY_AFTER = 2
"""Seconds that a client is asked to wait when the queue is full."""

CLIENT_CLOSED_REQUEST = 499
"""nginx's status code; only the metrics show it."""


class Problem(BaseModel):
    """What was wrong."""

    code: int = Field(description="The HTTP status.")
    type: str = Field(description="The status in words.")
    message: str


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: Problem


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
"""The errors of a request to rerank or to score."""

UNAUTHORIZED: dict[int | str, dict[str, Any]] = {401: DOCUMENTED[401]}
"""The one error of what is only read."""

_MESSAGE_OF_STATUS = {
    400: "the body cannot be read as JSON: it is not UTF-8, or something in it is too deep or too long",
    404: "there is no such address; /docs lists those that there are",
    405: "this address does not take this method",
}
"""What we never raise ourselves, in our words."""

_MESSAGE_OF_FIELD = {
    "missing": "is missing",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    NO_TEXTS: "must be a text or a list of texts",
    "too_short": "must not be empty",
    "greater_than_equal": "must not be negative",
    "model_attributes_type": "must be an object",
}
"""Pydantic's types of error, in our words."""


def problem(status: int, message: str) -> ErrorResponse:
    """The body of an error."""
    words = "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
    return ErrorResponse(error=Problem(code=status, type=words, message=message))


def _message_of(error: Mapping[str, Any]) -> str:
    """What is wrong with a field, by the name that the client sent."""
    place = ".".join(str(part) for part in error["loc"][1:] if not str(part).startswith(TAG))
    return f"{place or 'the body'} {_MESSAGE_OF_FIELD.get(error['type'], 'is not as /docs describes it')}"


def handle_errors(app: FastAPI) -> None:
    """Give an application's errors their shape. Nothing that a client has sent is repeated."""

    def response(status: int, message: str, **headers: str) -> JSONResponse:
        return JSONResponse(problem(status, message).model_dump(), status, headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message, headers = _MESSAGE_OF_STATUS.get(error.status_code, error.detail), error.headers or {}
        it_takes = f"; it takes {headers['Allow']}" if "Allow" in headers else ""
        return response(error.status_code, message + it_takes, **headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        if problems[0]["type"] == "json_invalid":
            (_, at), reason = problems[0]["loc"], problems[0]["ctx"]["error"]
            return response(400, f"the body is not JSON: {reason} at character {at}")
        messages = [_message_of(each) for each in problems]
        more = f"; and {len(messages) - 5} more" if len(messages) > 5 else ""
        return response(422, "; ".join(messages[:5]) + more)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return response(429, str(error), **{"Retry-After": str(RETRY_AFTER)})

    @app.exception_handler(EngineError)
    async def unavailable(request: Request, error: EngineError) -> JSONResponse:
        return response(503, str(error))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return response(500, "the server has failed; its log says why")
