"""The job that writes a project in another program's format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pixeltrail import exchange
from pixeltrail.app.jobs import Job
from pixeltrail.app.project import Project
from pixeltrail.data.annotations import Annotations, Lazy
from pixeltrail.data.files import atomic
from pixeltrail.errors import InputError


def export(format: str, what: Literal["masks", "points"]) -> Callable[[Job], None]:
    """Write the project in another program's format: one file, or a folder as a ZIP archive."""

    def work(job: Job) -> None:
        project = job.project
        project.save()
        annotations = _counted(_annotations(project, what), job)
        exports = project.folder / "exports"
        exports.mkdir(exist_ok=True)
        name = f"{Path(project.name).stem}-{format}{exchange.WRITERS[format].SUFFIX}"
        target = exports / f"new-{name}"
        try:
            try:
                notes = exchange.write(annotations, target, format)
            except InputError as error:
                raise InputError(str(error).replace(f"{target}: ", "")) from None
            if target.is_dir():
                name += ".zip"
                with atomic(exports / name) as part:
                    made = shutil.make_archive(str(part), "zip", target)
                    Path(made).rename(part)
            else:
                target.replace(exports / name)
        finally:
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
        job.result, job.note = name, _told(notes)

    return work


def _told(notes: Sequence[str]) -> str:
    """What was changed, and in one sentence all that the format has no place for."""
    gone = [note.partition(" holds no ")[2].removesuffix(": left out") for note in notes if note.endswith(": left out")]
    changed = [note for note in notes if not note.endswith(": left out")]
    return ". ".join([*changed, *([f"Not in this format: {', '.join(gone)}"] if gone else [])])


def _annotations(project: Project, what: Literal["masks", "points"]) -> Annotations:
    if what == "points":
        if not project.followed:
            raise InputError("there are no points to export; set some first")
        found = exchange.read(project.folder / "points.csv", "csv", project.source)
        names = {str(p.id): p.name for p in project.points}
        return replace(found, points=tuple(names.get(n, n) for n in found.points))
    if not project.rows:
        raise InputError("there are no masks to export; paint or track something first")
    found = exchange.read(project.folder, "track", project.source)
    gone = {t.id for t in project.things.values() if t.deleted}
    labels = {t.id: t.name for t in project.things.values() if not t.deleted}
    source = found.rows
    rows = Lazy(lambda: (replace(r, shapes=tuple(s for s in r.shapes if s.id not in gone)) for r in source))
    return replace(found, labels=labels, rows=rows)


def _counted(annotations: Annotations, job: Job) -> Annotations:
    """The same, with progress: a frame that is read is a step, and where the job can be cancelled."""
    source = annotations.rows

    def rows() -> Iterator[object]:
        for row in source:
            job.check()
            job.step(row.frame + 1, job.project.count)
            yield row

    return replace(annotations, rows=Lazy(rows))  # type: ignore[arg-type]
