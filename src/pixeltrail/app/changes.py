"""What the page changes, and long work: the routes whose questions are checked by FastAPI.

No route takes a path or an address from the page: videos, jobs and exports are named by ids that the server gave out.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import Field

from pixeltrail.app import runs
from pixeltrail.app.answers import refusals
from pixeltrail.app.jobs import Job, Jobs, Publish
from pixeltrail.app.project import Point, Project, Thing
from pixeltrail.app.trackers import Quality, Trackers, Weights
from pixeltrail.app.views import Body, Frame, Number, add_views
from pixeltrail.app.workspace import Workspace
from pixeltrail.data.files import PART
from pixeltrail.errors import InputError

IMPORTS = (".png", ".json", ".csv", ".txt", ".xml", ".npz", ".zip")


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


def changes(workspace: Workspace, jobs: Jobs, trackers: Trackers, publish: Publish) -> FastAPI:
    """All these routes, to be mounted at ``/api``."""
    app = FastAPI(
        title="pixeltrail", docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=refusals(workspace)
    )

    @app.get("/formats")
    def formats() -> dict[str, Any]:
        """What can be written, and which files can be read. Asked for once there is something to look at."""
        from pixeltrail import exchange

        return {"writes": {name: w.TITLE for name, w in exchange.WRITERS.items()}, "reads": IMPORTS}

    @app.put("/upload")
    async def upload(request: Request, name: str) -> dict[str, str]:
        plain = Path(name.replace("\\", "/")).name[:120]
        _suffix(plain, "a video file, such as clip.mp4")
        part = workspace.root / f"{secrets.token_hex(8)}{PART}"
        try:
            await _receive(request, part)
            return {"id": (await run_in_threadpool(_adopt, workspace, part, plain)).id}
        finally:
            part.unlink(missing_ok=True)

    @app.put("/projects/{number}/masks/{index}")
    async def paint(number: Number, index: Frame, request: Request, key: bool = True) -> dict[str, Any]:
        body = await request.body()
        return await run_in_threadpool(_paint, workspace.project(number), index, body, key)

    @app.put("/projects/{number}/import/{index}")
    async def take(number: Number, index: Frame, name: str, request: Request) -> dict[str, Any]:
        """Annotations made elsewhere; those of a single picture are taken for frame ``index``. Undone as a run is."""
        project, known = workspace.project(number), f"masks or points as {', '.join(IMPORTS[:-1])} or {IMPORTS[-1]}"
        if (suffix := _suffix(name, known)) not in IMPORTS:
            raise InputError(f"expected {known}, got {suffix}")
        folder = project.folder / f"import-{secrets.token_hex(8)}"
        folder.mkdir()
        try:
            await _receive(request, folder / f"file{suffix}")
            run = await run_in_threadpool(_import, project, index, folder / f"file{suffix}")
        finally:
            await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
        publish(project.id, {"type": "changed"}, b"")
        past = project.past(run)
        return {"run": run, "frames": len(past.frames), "points": len(past.points)}

    @app.post("/projects/{number}/runs/{run}/swap")
    def swap(number: Number, run: Number) -> None:
        """Take back what a job or an import has done; a second time, do it again."""
        project = workspace.project(number)
        project.swap(run)
        publish(project.id, {"type": "changed"}, b"")

    @app.put("/projects/{number}/objects")
    def objects(number: Number, body: list[ThingBody]) -> None:
        workspace.project(number).set_things([Thing(**b.model_dump()) for b in body])

    @app.put("/projects/{number}/points")
    def points(number: Number, body: list[PointBody]) -> None:
        workspace.project(number).set_points([Point(b.id, b.name, dict(b.keys)) for b in body])

    add_views(app, workspace, trackers)

    @app.post("/projects/{number}/jobs")
    def begin(number: Number, body: JobBody) -> dict[str, Any]:
        project = workspace.project(number)
        job = Job(project, body.kind, publish)
        work = _work(project, body, trackers)
        project.past(job.id)  # also a job that is cancelled before it begins can be taken back
        return jobs.start(job, work).describe()

    @app.post("/projects/{number}/jobs/{job}/{action}")
    def act(number: Number, job: Number, action: Literal["pause", "resume", "cancel"]) -> None:
        found = jobs.get(job, workspace.project(number))
        found.cancel() if action == "cancel" else found.pause(action == "pause")

    @app.get("/projects/{number}/exports/{name}")
    def exported(number: Number, name: str) -> Response:
        folder = workspace.project(number).folder / "exports"
        files = {file.name: file for file in folder.iterdir() if file.is_file() and not file.is_symlink()}
        if name not in files or name.endswith(PART) or name.startswith("new-"):
            raise InputError("no such export; export again")
        return FileResponse(files[name], media_type="application/octet-stream", filename=name)

    return app


def _adopt(workspace: Workspace, part: Path, name: str) -> Project:
    """Move an uploaded video into a folder of its own, if it is one."""
    folder = workspace.free_folder(Path(name).stem)
    plain = folder / f"video{Path(name).suffix.lower()}"
    try:
        part.replace(plain)
        project = workspace.add(plain, folder)
    except BaseException as error:
        plain.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        if isinstance(error, InputError):  # by the name that the user knows it by
            raise InputError(str(error).replace(str(plain), name)) from None
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


def _import(project: Project, index: int, file: Path) -> str:
    """The number of the run that it counts as."""
    from pixeltrail.app import importing

    if not project.busy.acquire(blocking=False):
        raise InputError("this video is being tracked; wait for its end, or cancel it")
    run, things, points = secrets.token_hex(16), list(project.things.values()), project.points
    try:
        found = importing.read(file, project, index)
        try:
            importing.take(project, found, index, project.past(run))
        except InputError:
            project.exchange(project.past(run))
            project.set_things(things)
            project.set_points(points)
            raise
    except InputError as error:
        text = str(error)
        for place in (f"{file}: ", f"{file.with_suffix('')}/", f"{file.with_suffix('')}: "):
            text = text.replace(place, "")
        raise InputError(text) from None
    finally:
        project.busy.release()
    return run


async def _receive(request: Request, file: Path) -> None:
    """Write a body to a new file as it comes in."""
    with open(file, "xb") as out:
        async for chunk in request.stream():
            await run_in_threadpool(out.write, chunk)


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
