"""What a web application lets in: ASGI middleware around a framework that exposes more than one page needs."""

import re


class Gate:
    """Answers 404 to all but some requests, and 413 to bodies that are too large; adds headers to each answer.

    Args:
        app: the ASGI application behind it.
        open_paths: list of (method, regular expression of whole paths, most bytes of a body).
        headers: name -> value.
    """

    def __init__(self, app, open_paths, headers):
        self.app = app
        self.open_paths = [(method, re.compile(path), most) for method, path, most in open_paths]
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # nothing here speaks WebSocket
            await self._answer(scope, receive, send)

    async def _answer(self, scope, receive, send):
        left = next(
            (
                most
                for method, path, most in self.open_paths
                if method == scope["method"].replace("HEAD", "GET") and path.fullmatch(scope["path"])
            ),
            None,
        )
        if left is None:
            await self._refuse(send, 404, "Not found")
            return
        answered = refused = False

        async def limited():
            nonlocal left, refused
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                refused = True
                return {"type": "http.disconnect"}  # the framework clears up what has come so far
            return message

        async def with_headers(message):
            nonlocal answered
            if message["type"] == "http.response.start":
                if refused:
                    return
                answered = True
                message = message | {"headers": [*message.get("headers", []), *self.headers]}
            if not refused or answered:
                await send(message)

        try:
            await self.app(scope, limited, with_headers)
        except Exception:
            if not refused:
                raise
        if refused and not answered:
            await self._refuse(send, 413, "Too large")

    async def _refuse(self, send, status, text):
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *self.headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})
