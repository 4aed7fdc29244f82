"""ASGI middleware that blocks all routes of a framework except the ones that a page needs."""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestFilter:
    """Responds 404 to all but the allowed requests, and 413 to request bodies that are too large; adds headers.

    Args:
        app: the filtered ASGI application.
        allowed: (method, regular expression of whole paths, maximum bytes of a body); GET allows HEAD too.
        headers: name -> value, of every response.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[tuple[str, str, int]], headers: dict[str, str]) -> None:
        self.app = app
        self.allowed = [(method, re.compile(path), max_bytes) for method, path, max_bytes in allowed]
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # WebSockets are not used
            await self._filter(scope, receive, send)

    def _max_bytes(self, method: str, path: str) -> int | None:
        """Maximum bytes of the body of a request; None if it is not allowed."""
        method = "GET" if method == "HEAD" else method
        matches = (size for allowed, pattern, size in self.allowed if allowed == method and pattern.fullmatch(path))
        return next(matches, None)

    async def _filter(self, scope: Scope, receive: Receive, send: Send) -> None:
        max_bytes = self._max_bytes(scope["method"], scope["path"])
        if max_bytes is None:
            await self._refuse(send, 404, "Not found")
            return
        remaining = max_bytes
        started = refused = False

        async def receive_limited() -> Message:
            nonlocal remaining, refused
            message = await receive()
            remaining -= len(message.get("body", b""))
            if remaining < 0:
                refused = True
                return {"type": "http.disconnect"}  # the framework discards what it has received
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if refused:
                    return
                started = True
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            if not refused or started:
                await send(message)

        try:
            await self.app(scope, receive_limited, send_with_headers)
        except Exception:
            if not refused:
                raise
        if refused and not started:
            await self._refuse(send, 413, "Too large")

    async def _refuse(self, send: Send, status: int, text: str) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *self.headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})
