"""What a client may send, and what it is told where that is too much."""

from dataclasses import dataclass, fields

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rank1_hf.prompt import PairError, passage_text, query_text
from rank1_hf.serving.bodies import RerankRequest
from rank1_hf.values import whole_number


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a request may have.

    Attributes:
        documents: how many.
        characters: of a document, or of the query and its instruction.
        body: bytes of the whole request.

    Raises:
        ValueError: one is no whole number above 0.
    """

    documents: int = 1000
    characters: int = 100_000
    body: int = 16 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            whole_number(field.name, getattr(self, field.name), least=1)

    def check(self, request: RerankRequest) -> None:
        """Say what is wrong with a request before any of it is judged.

        Raises:
            HTTPException: 413, there is too much of something.
            RequestValidationError: a text is blank, or no Unicode.
        """
        if len(request.documents) > self.documents:
            raise HTTPException(
                413, f"{len(request.documents)} documents are too many: a request may have {self.documents}"
            )
        problems = []
        pairs = request.pairs()
        try:
            self._check_length("query", query_text(pairs[0][0]))
        except PairError as error:
            problems.append(_problem(("query",), str(error)))
        for number, (_, passage) in enumerate(pairs):
            try:
                text = passage_text(passage)
            except PairError as error:
                problems.append(_problem(("documents", number), str(error)))
                continue
            self._check_length(f"documents.{number}", text)
            if not text.strip():
                problems.append(_problem(("documents", number), "the document is blank; leave it out"))
        if problems:
            raise RequestValidationError(problems)

    def _check_length(self, name: str, text: str) -> None:
        if len(text) > self.characters:
            raise HTTPException(413, f"{name}: {len(text)} characters are too many: it may have {self.characters}")


def _problem(place: tuple[str | int, ...], message: str) -> dict[str, object]:
    return {"loc": ("body", *place), "msg": message}


class BodyLimit:
    """Middleware that reads no more of a request than it may have."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, as ASGI has it."""
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            check(declared)
            message = await receive()
            n_bytes += len(message.get("body", b""))
            check(n_bytes)
            return message

        def check(size: float) -> None:
            if size > self._max_bytes:
                raise HTTPException(413, f"the request is too large: it may have {self._max_bytes} bytes")

        length = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        declared = float(length) if length.isdecimal() else 0
        await self._app(scope, counted, send)
