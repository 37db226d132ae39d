"""The server: the page itself, and what it looks at. What the page changes is in `changes`.

Until the first frame is shown the page asks for nothing but what is here, in plain Starlette: FastAPI takes as long to
import as all the rest, and comes after that frame.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from pixeltrail.app.answers import picture, refusals, runs_of
from pixeltrail.app.jobs import Jobs
from pixeltrail.app.project import COLORS, Project
from pixeltrail.app.security import Guard
from pixeltrail.app.trackers import Trackers
from pixeltrail.app.workspace import Workspace
from pixeltrail.errors import InputError, PixeltrailError

STATIC = Path(__file__).parent / "static"
BEHIND = 48
"""Masks that may wait for a slow page; beyond that it is only told which frames are new."""


@dataclass
class Hub:
    """Brings what jobs say, from their threads, to the pages that show their project."""

    pages: dict[str, set[asyncio.Queue[bytes]]] = field(default_factory=lambda: defaultdict(set))
    loop: asyncio.AbstractEventLoop | None = None

    def publish(self, project: str, message: dict[str, Any], data: bytes) -> None:
        if self.loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self.loop.call_soon_threadsafe(self._put, project, json.dumps(message).encode(), data)

    def _put(self, project: str, head: bytes, data: bytes) -> None:
        for queue in self.pages.get(project, ()):
            body = data if queue.qsize() < BEHIND else b""
            queue.put_nowait(len(head).to_bytes(4, "little") + head + body)


class Later:
    """An ASGI application that is made when it is first needed."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._app: ASGIApp | None = None

    def ready(self) -> ASGIApp:
        with self._lock:
            if self._app is None:
                self._app = self._make()
            return self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = await run_in_threadpool(self.ready) if self._app is None else self._app
        await app(scope, receive, send)


def application(
    workspace: Workspace,
    *,
    host: str = "127.0.0.1",
    port: int = 8321,
    token: str = "",
    method: str = "default",
    device: str = "cpu",
    threads: int = 0,
    upload_bytes: int = 4 << 30,
    import_bytes: int = 1 << 30,
) -> Guard:
    """The whole server as an ASGI application, behind its `Guard`. ``port`` is the one that is listened on."""
    hub, jobs, trackers = Hub(), Jobs(), Trackers(method, device, threads)

    def make() -> ASGIApp:
        from pixeltrail.app.changes import changes

        return changes(workspace, jobs, trackers, hub.publish)

    later = Later(make)

    def prepare() -> None:
        later.ready()
        trackers.prepare()

    preparing = threading.Thread(target=prepare, name="prepare", daemon=True)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        hub.loop = asyncio.get_running_loop()
        yield
        await run_in_threadpool(jobs.close)
        hub.loop = None
        workspace.close()

    def state(_: Request) -> Response:
        most = {"uploadBytes": upload_bytes, "importBytes": import_bytes}
        return JSONResponse({"projects": workspace.listing(), "colors": COLORS, **most})

    def describe(request: Request) -> Response:
        project = _project(workspace, request)
        return JSONResponse({**project.describe(), "jobs": jobs.of(project)})

    def frame(request: Request) -> Response:
        answer = picture(_project(workspace, request).frames.jpeg(_index(request)), "image/jpeg")
        answer.background = BackgroundTask(_start_once, preparing)
        return answer

    def thumb(request: Request) -> Response:
        return picture(_project(workspace, request).frames.jpeg(_index(request), thumb=True), "image/jpeg")

    def mask(request: Request) -> Response:
        return runs_of(_project(workspace, request).mask(_index(request)))

    async def events(socket: WebSocket) -> None:
        try:
            project = await run_in_threadpool(workspace.project, socket.path_params["number"])
        except PixeltrailError:
            await socket.close(1008)
        else:
            await _tell(socket, hub, project)

    ours = "/api/projects/{number}"
    routes = [
        Route("/api/state", state), Route(ours, describe), Route(ours + "/frames/{index}.jpg", frame),
        Route(ours + "/thumbs/{index}.jpg", thumb), Route(ours + "/masks/{index}", mask, methods=["GET"]),
        WebSocketRoute(ours + "/events", events), Mount("/api", later), Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]  # fmt: skip
    app = Starlette(routes=routes, exception_handlers=refusals(workspace), lifespan=lifespan)
    return Guard(app, host=host, port=port, token=token, upload_bytes=upload_bytes, import_bytes=import_bytes)


def _project(workspace: Workspace, request: Request) -> Project:
    return workspace.project(request.path_params["number"])


def _index(request: Request) -> int:
    """The frame that is asked for. Raises InputError for what is no number."""
    index = request.path_params["index"]
    if not (index.isdecimal() and len(index) < 10):
        raise InputError("expected a frame's number, from 0")
    return int(index)


def _start_once(thread: threading.Thread) -> None:
    with suppress(RuntimeError):  # it was started before
        thread.start()


async def _tell(socket: WebSocket, hub: Hub, project: Project) -> None:
    """Send the page what jobs of its project say, until it is closed."""
    await socket.accept()
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    hub.pages[project.id].add(queue)
    reader = asyncio.create_task(_until_gone(socket))
    try:
        while not reader.done():
            getting = asyncio.create_task(queue.get())
            await asyncio.wait({getting, reader}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                await socket.send_bytes(getting.result())
            else:
                getting.cancel()
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        reader.cancel()
        hub.pages[project.id].discard(queue)


async def _until_gone(socket: WebSocket) -> None:
    """Read what the page sends, which is nothing, until it is closed."""
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_bytes()


def server(guard: Guard) -> uvicorn.Server:
    """What answers, until Ctrl-C or SIGTERM, or until its ``should_exit`` is set: ``server(guard).run(sockets=[place])``."""
    config = uvicorn.Config(
        guard, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=3,
        limit_concurrency=256, ws="websockets-sansio", ws_max_size=1 << 16,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_is_trouble)
    return uvicorn.Server(config)


def _is_trouble(record: logging.LogRecord) -> bool:
    """A request that is cut off because the server is told to end is none."""
    cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "timeout graceful shutdown" not in record.getMessage()
