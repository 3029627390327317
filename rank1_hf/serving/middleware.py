"""What happens to every request before it is read."""

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Reads no more of a request than it may have."""

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


class AllIsJson:
    """Reads every body as JSON, whatever its content type: `curl -d` alone calls it a form.

    So a page in a browser can send a request too. It cannot read the answer, and a key keeps it out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, as ASGI has it."""
        if scope["type"] == "http":
            MutableHeaders(scope=scope)["content-type"] = "application/json"
        await self._app(scope, receive, send)


class NoQueryString:
    """Drops what stands behind the `?` of an address: none takes anything there, and the log would show a key in it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, as ASGI has it."""
        if scope["type"] == "http":
            scope["query_string"] = b""
        await self._app(scope, receive, send)
