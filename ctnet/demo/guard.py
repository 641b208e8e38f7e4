"""Limits the size of a request before any of it is stored."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyLimit:
    """ASGI middleware that refuses requests whose body is too long.

    Args:
        app: What answers all others.
        most: Bytes of a body.
    """

    def __init__(self, app: App, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, with status 413 where it says that it is too long."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            return await self._refuse(send)
        seen = 0

        async def bounded() -> Scope:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # One that does not say its length is cut off, as if its sender had gone.
            return message if seen <= self._most else {"type": "http.disconnect"}

        return await self._app(scope, bounded, send)

    async def _refuse(self, send: Send) -> None:
        text = f"that is too large: the demo takes at most {self._most / 2**20:.0f} MB at once."
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})
