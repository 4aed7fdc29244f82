"""ASGI middleware that closes all of a framework's routes but those that a page needs."""

import re
from collections.abc import Callable, Sequence
from typing import Any


class RequestFilter:
    """Answers 404 to all requests but the allowed ones, and 413 to bodies that are too large; adds headers.

    Args:
        app: the ASGI application behind it.
        allowed: (method, regular expression of whole paths, maximum bytes of a body); GET allows HEAD too.
        headers: name -> value, of every response.
    """

    def __init__(self, app: Callable, allowed: Sequence[tuple[str, str, int]], headers: dict[str, str]) -> None:
        self.app = app
        self.allowed = [(method, re.compile(path), max_bytes) for method, path, max_bytes in allowed]
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # WebSockets are not used
            await self._filter(scope, receive, send)

    async def _filter(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        remaining = next(
            (
                max_bytes
                for method, path, max_bytes in self.allowed
                if method == scope["method"].replace("HEAD", "GET") and path.fullmatch(scope["path"])
            ),
            None,
        )
        if remaining is None:
            await self._refuse(send, 404, "Not found")
            return
        started = refused = False

        async def receive_limited():
            nonlocal remaining, refused
            message = await receive()
            remaining -= len(message.get("body", b""))
            if remaining < 0:
                refused = True
                return {"type": "http.disconnect"}  # the framework removes what it has received
            return message

        async def send_with_headers(message):
            nonlocal started
            if message["type"] == "http.response.start":
                if refused:
                    return
                started = True
                message = message | {"headers": [*message.get("headers", []), *self.headers]}
            if not refused or started:
                await send(message)

        try:
            await self.app(scope, receive_limited, send_with_headers)
        except Exception:
            if not refused:
                raise
        if refused and not started:
            await self._refuse(send, 413, "Too large")

    async def _refuse(self, send: Callable, status: int, text: str) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *self.headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})
