"""The routes: the page's questions, each answered by one call. Made by `application`, run by `serve`.

No route takes a path or an address from the page: videos, jobs and exports are named by ids that the server gave out.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastapi import BackgroundTasks, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field
from starlette.staticfiles import StaticFiles

from pixeltrail.app import runs
from pixeltrail.app.jobs import Job, Jobs
from pixeltrail.app.project import COLORS, Point, Project, Thing
from pixeltrail.app.security import Guard, TooLargeError
from pixeltrail.app.trackers import Quality, Trackers, Weights
from pixeltrail.app.views import Body, Frame, Number, add_views, picture, runs_of
from pixeltrail.app.workspace import Workspace, told
from pixeltrail.data.files import PART
from pixeltrail.errors import DiskError, InputError, PixeltrailError

IMPORTS = (".png", ".json", ".csv", ".txt", ".xml", ".npz", ".zip")
STATIC = Path(__file__).parent / "static"
BEHIND = 48
"""Masks that may wait for a slow page; beyond that it is only told which frames are new."""


class ThingBody(Body):
    id: int = Field(ge=1, le=254)
    name: str = Field(max_length=200)
    color: str = Field(pattern="^#[0-9a-f]{6}$")
    hidden: bool = False
    locked: bool = False
    deleted: bool = False


class PointBody(Body):
    id: int = Field(ge=0, lt=10**6)
    name: str = Field(max_length=200)
    keys: dict[int, tuple[float, float]] = Field(max_length=100_000)


class JobBody(Body):
    kind: Literal["masks", "points", "adapt", "export"]
    begin: int = Field(0, ge=0, lt=10**9)
    end: int = Field(0, ge=0, lt=10**9)
    objects: list[int] = Field(default=[], max_length=254)
    method: Weights = "standard"
    quality: Quality = "balanced"
    minutes: float = Field(1.0, ge=0, le=240)
    format: str = Field("", max_length=20)
    what: Literal["masks", "points"] = "masks"


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
) -> Guard:
    """The whole server as an ASGI application, behind its `Guard`."""
    hub, jobs, trackers = Hub(), Jobs(), Trackers(method, device, threads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub.loop = asyncio.get_running_loop()
        yield
        await run_in_threadpool(jobs.close)
        hub.loop = None
        workspace.close()

    app = FastAPI(title="pixeltrail", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(PixeltrailError)
    async def refuse(_: Request, error: PixeltrailError) -> JSONResponse:
        return JSONResponse({"error": told(error, workspace.root)}, 507 if isinstance(error, DiskError) else 400)

    @app.exception_handler(TooLargeError)
    async def too_large(_: Request, error: TooLargeError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 413, {"connection": "close"})

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return {"projects": workspace.listing(), "colors": COLORS, "uploadBytes": upload_bytes}

    @app.get("/api/formats")
    def formats() -> dict[str, Any]:
        """What can be written, and which files can be read. Asked for once there is something to look at."""
        from pixeltrail import exchange

        return {"writes": {name: w.TITLE for name, w in exchange.WRITERS.items()}, "reads": IMPORTS}

    @app.put("/api/upload")
    async def upload(request: Request, name: str) -> dict[str, str]:
        plain = Path(name.replace("\\", "/")).name[:120]
        _suffix(plain, "a video file, such as clip.mp4")
        part = workspace.root / f"{secrets.token_hex(8)}{PART}"
        try:
            with open(part, "xb") as file:
                async for chunk in request.stream():
                    await run_in_threadpool(file.write, chunk)
            return {"id": (await run_in_threadpool(_adopt, workspace, part, plain)).id}
        finally:
            part.unlink(missing_ok=True)

    @app.get("/api/projects/{number}")
    def describe(number: Number) -> dict[str, Any]:
        project = workspace.project(number)
        return {**project.describe(), "jobs": jobs.of(project)}

    @app.get("/api/projects/{number}/frames/{index}.jpg")
    def frame(number: Number, index: Frame, later: BackgroundTasks) -> Response:
        later.add_task(trackers.warm)  # torch is not imported before there is something to look at
        return picture(workspace.project(number).frames.jpeg(index), "image/jpeg")

    @app.get("/api/projects/{number}/thumbs/{index}.jpg")
    def thumb(number: Number, index: Frame) -> Response:
        return picture(workspace.project(number).frames.jpeg(index, thumb=True), "image/jpeg")

    @app.get("/api/projects/{number}/masks/{index}")
    def mask(number: Number, index: Frame) -> Response:
        return runs_of(workspace.project(number).mask(index))

    @app.put("/api/projects/{number}/masks/{index}")
    async def paint(number: Number, index: Frame, request: Request, key: bool = True) -> dict[str, Any]:
        body = await request.body()
        return await run_in_threadpool(_paint, workspace.project(number), index, body, key)

    @app.put("/api/projects/{number}/import/{index}")
    async def take(number: Number, index: Frame, name: str, request: Request) -> dict[str, Any]:
        """Annotations made elsewhere; those of a single picture are taken for frame ``index``. Undone as a run is."""
        project, body = workspace.project(number), await request.body()
        run = await run_in_threadpool(_import, project, index, body, name)
        hub.publish(project.id, {"type": "changed"}, b"")
        past = project.past(run)
        return {"run": run, "frames": len(past.frames), "points": len(past.points)}

    @app.post("/api/projects/{number}/runs/{run}/swap")
    def swap(number: Number, run: Number) -> None:
        """Take back what a job or an import has done; a second time, do it again."""
        project = workspace.project(number)
        project.swap(run)
        hub.publish(project.id, {"type": "changed"}, b"")

    @app.put("/api/projects/{number}/objects")
    def objects(number: Number, body: list[ThingBody]) -> None:
        workspace.project(number).set_things([Thing(**b.model_dump()) for b in body])

    @app.put("/api/projects/{number}/points")
    def points(number: Number, body: list[PointBody]) -> None:
        workspace.project(number).set_points([Point(b.id, b.name, dict(b.keys)) for b in body])

    add_views(app, workspace, trackers)

    @app.post("/api/projects/{number}/jobs")
    def begin(number: Number, body: JobBody) -> dict[str, Any]:
        project = workspace.project(number)
        job = Job(project, body.kind, hub.publish)
        work = _work(project, body, trackers)
        project.past(job.id)  # also a job that is cancelled before it begins can be taken back
        return jobs.start(job, work).describe()

    @app.post("/api/projects/{number}/jobs/{job}/{action}")
    def act(number: Number, job: Number, action: Literal["pause", "resume", "cancel"]) -> None:
        found = jobs.get(job, workspace.project(number))
        found.cancel() if action == "cancel" else found.pause(action == "pause")

    @app.get("/api/projects/{number}/exports/{name}")
    def exported(number: Number, name: str) -> Response:
        folder = workspace.project(number).folder / "exports"
        files = {file.name: file for file in folder.iterdir() if file.is_file() and not file.is_symlink()}
        if name not in files or name.endswith(PART) or name.startswith("new-"):
            raise InputError("no such export; export again")
        return FileResponse(files[name], media_type="application/octet-stream", filename=name)

    @app.websocket("/api/projects/{number}/events")
    async def events(socket: WebSocket, number: str) -> None:
        try:
            project = await run_in_threadpool(workspace.project, number)
        except PixeltrailError:
            return await socket.close(1008)
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

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return Guard(app, host=host, port=port, token=token, upload_bytes=upload_bytes)


async def _until_gone(socket: WebSocket) -> None:
    """Read what the page sends, which is nothing, until it is closed."""
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_bytes()


def _adopt(workspace: Workspace, part: Path, name: str) -> Project:
    """Move an uploaded video into a folder of its own, if it is one."""
    folder = workspace.free_folder(Path(name).stem)
    plain = folder / f"video{Path(name).suffix.lower()}"
    try:
        part.replace(plain)
        project = workspace.add(plain, folder)
    except BaseException:
        plain.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise
    project.name = "".join(c for c in name if c.isprintable())
    project.save()
    return project


def _paint(project: Project, index: int, body: bytes, key: bool) -> dict[str, Any]:
    ids = runs.decode(body, project.size)
    sure = {o["id"]: o["confidence"] for o in project.rows.get(index, {"objects": []})["objects"]}
    project.restore(index, ids, key=key, confidence=sure)
    row = project.rows.get(index, {"objects": []})
    return {"key": index in project.keys, "confidence": {o["id"]: o["confidence"] for o in row["objects"]}}


def _import(project: Project, index: int, body: bytes, name: str) -> str:
    """The number of the run that it counts as."""
    from pixeltrail.app import importing

    known = f"masks or points as {', '.join(IMPORTS[:-1])} or {IMPORTS[-1]}"
    if (suffix := _suffix(name, known)) not in IMPORTS:
        raise InputError(f"expected {known}, got {suffix}")
    folder, run = project.folder / f"import-{secrets.token_hex(8)}", secrets.token_hex(16)
    if not project.busy.acquire(blocking=False):
        raise InputError("this video is being tracked; wait for its end, or cancel it")
    things, points = list(project.things.values()), project.points
    try:
        folder.mkdir()
        part = folder / f"file{suffix}"
        part.write_bytes(body)
        found = importing.read(part, project, index)
        try:
            importing.take(project, found, index, project.past(run))
        except InputError:
            project.exchange(project.past(run))
            project.set_things(things)
            project.set_points(points)
            raise
    except InputError as error:
        text = str(error)
        for place in (f"{part}: ", f"{part.with_suffix('')}/", f"{part.with_suffix('')}: "):
            text = text.replace(place, "")
        raise InputError(text) from None
    finally:
        project.busy.release()
        shutil.rmtree(folder, ignore_errors=True)
    return run


def _suffix(name: str, expected: str) -> str:
    """Of a file of the user's, such as ".mp4"; nothing else of its name is used. Raises InputError."""
    suffix = Path(name[-20:]).suffix.lower()
    if not suffix[1:].isalnum() or len(suffix) > 6:
        raise InputError(f"expected {expected}")
    return suffix


def _work(project: Project, body: JobBody, trackers: Trackers) -> Callable[[Job], None]:
    """What a job is to do. Raises InputError, before it begins, for what it cannot."""
    if body.kind == "export":
        from pixeltrail import exchange
        from pixeltrail.app import exporting

        if body.format not in exchange.WRITERS:
            raise InputError(f"no format {body.format[:20]!r}; there are {', '.join(exchange.WRITERS)}")
        return exporting.export(body.format, body.what)
    project.frame_name(body.begin), project.frame_name(body.end)

    def work(job: Job) -> None:
        from pixeltrail.app import tracking  # which brings torch

        if body.kind == "adapt":
            return tracking.adapt(trackers.method, body.quality, body.minutes, trackers.device)(job)
        tracker = trackers.get(project, body.method, body.quality)
        if body.kind == "points":
            return tracking.track_points(tracker, body.begin, body.end)(job)
        free = [t.id for t in project.things.values() if not (t.locked or t.deleted)]
        chosen = [i for i in body.objects if i in free] if body.objects else free
        return tracking.track_masks(tracker, body.begin, body.end, chosen)(job)

    return work


def serve(guard: Guard, on_start: Callable[[Callable[[], None]], None]) -> None:
    """Run until Ctrl-C or SIGTERM, or until what ``on_start`` is given is called; ``guard.port`` is by then the real one.

    Raises InputError where the port is taken.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in guard.host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((guard.host, guard.port))
        except OSError as error:
            raise InputError(f"port {guard.port} of {guard.host}: {error.strerror}; choose another --port") from error
        guard.port = listening.getsockname()[1]
        config = uvicorn.Config(
            guard, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=3,
            limit_concurrency=256, ws="websockets-sansio", ws_max_size=1 << 16,
        )  # fmt: skip
        server = uvicorn.Server(config)

        def stop() -> None:
            server.should_exit = True

        listening.listen()  # whoever comes from now on waits instead of being refused
        on_start(stop)
        server.run(sockets=[listening])
