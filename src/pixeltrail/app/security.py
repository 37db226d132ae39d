"""Who may ask the server anything. Every request and every WebSocket passes here before a route sees it.

- ``Host`` must be a name of this server. A page of another site that has its own name point here (DNS rebinding) sends
  that name, and is refused. An address in digits cannot be rebound.
- ``Origin``, where the browser says it, must be this server; a WebSocket must say it. Requests that another site's page
  makes are refused by ``Sec-Fetch-Site`` too, and changes need a header that no form of another site can send.
- With a token, it must come as a cookie or as ``Authorization: Bearer``. The address with ``?token=`` that the terminal
  shows is exchanged for a cookie at once, so that the token is in no history, log or referrer.
- Bodies are cut off at a limit with 413, whatever length they announce.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixeltrail.app.address import LOOPBACK

COOKIE = "pixeltrail"
CHANGE = "x-pixeltrail"
"""The header that a request which changes something must have."""
BODY_BYTES = 32 << 20
DRAINED = 8 << 20
UPLOAD = re.compile("/api/upload")
IMPORT = re.compile("/api/projects/[^/]*/import/[^/]*")

_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class TooLargeError(Exception):
    """A body beyond its limit; the application answers it with 413."""


class Guard:
    """The ASGI application in front of ``app``."""

    def __init__(
        self, app: ASGIApp, *, host: str, port: int, token: str = "", upload_bytes: int = 4 << 30,
        import_bytes: int = 1 << 30,
    ) -> None:  # fmt: skip
        self.app, self.host, self.port, self.token = app, host, port, token
        self.limits = (
            (UPLOAD, upload_bytes, "a larger video is opened from the terminal: pixeltrail app VIDEO"),
            (IMPORT, import_bytes, "split what is larger, by frames or by objects"),
            (re.compile(""), BODY_BYTES, "ask in parts"),
        )
        self.names = {*LOOPBACK, host.lower(), *([socket.gethostname().lower()] if host not in LOOPBACK else [])}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if scope["type"] == "websocket":
            if refused:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found[name] = value
                found.setdefault("cache-control", "no-store")
            await send(message)

        if refused:
            answer: Response = PlainTextResponse(refused[1], refused[0])
            if refused[0] == 303:
                answer = RedirectResponse("/", 303)
                answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, sending)
        else:
            await self._limited(scope, headers, receive, sending)

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, or None for a request that may pass."""
        if not self._is_me(headers.getlist("host")):
            return 403, "This server does not go by that name."
        origin = headers.get("origin")
        if origin is not None and not self._is_mine(origin, headers["host"]):
            return 403, "Another site's page may not ask here."
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "Another site's page may not ask here."
        if self.token and not self._has_token(headers):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
            if scope["type"] == "http" and scope["path"] == "/" and self._same(given[0]):
                return 303, ""
            return 401, "Open the address that the terminal shows: it holds the token."
        if scope["type"] == "websocket":
            return None if origin else (403, "A WebSocket must say where it comes from.")
        if scope["method"] not in ("GET", "HEAD") and headers.get(CHANGE) != "1":
            return 403, f"Changes need the header {CHANGE}: 1."
        return None

    def _is_me(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        try:
            parts = urlsplit(f"//{hosts[0]}")
            name, port = (parts.hostname or ""), parts.port
        except ValueError:
            return False
        if parts.netloc != hosts[0] or "@" in hosts[0] or (port or 80) != self.port:
            return False
        return name in self.names or (self.host not in LOOPBACK and _is_address(name))

    def _is_mine(self, origin: str, host: str) -> bool:
        return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._same(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._same(cookie.value)

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    async def _limited(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        limit, instead = next((most, how) for paths, most, how in self.limits if paths.match(scope["path"]))
        refusal = f"{size(limit)} are the most that is taken here; {instead}"
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            await _drained(receive)
            await PlainTextResponse(refusal, 413, {"connection": "close"})(scope, receive, send)
            return
        seen = 0

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                if message.get("more_body"):
                    await _drained(receive)
                raise TooLargeError(refusal)
            return message

        await self.app(scope, counting, send)


async def _drained(receive: Receive) -> None:
    """Take in what is left of a body, within reason: whoever is still sending when the connection closes reads no answer."""
    left, more = DRAINED, True
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)


def size(count: int) -> str:
    """Bytes as people say it."""
    return f"{count / (1 << 30):.3g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.3g} MiB"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
