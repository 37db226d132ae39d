"""``pixeltrail report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import File
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class Report:
    """Show reports of ``pixeltrail evaluate --out`` on one page, side by side; others are held against the first."""

    reports: Annotated[Positional[tuple[Path, ...]], arg(metavar="REPORT.json ...")]
    """JSON files, all of the same benchmark."""
    out: File
    """The page to write: one HTML file that needs nothing else."""
    names: Annotated[str, arg(metavar="LIST", help_behavior_hint="(default: the files' names)")] = ""
    """What to call them, separated by commas."""

    def run(self) -> int:
        from pixeltrail.data.files import require_writable_folder, write_text
        from pixeltrail.evaluation.page import page, read_report

        if not self.reports:
            raise InputError("report: name one JSON file or more that pixeltrail evaluate --out has written")
        names = [n.strip() for n in self.names.split(",")] if self.names else distinct_names(self.reports)
        if len(names) != len(self.reports):
            raise InputError(f"--names {self.names}: has {len(names)} names for {len(self.reports)} reports")
        if self.out.is_dir() or self.out.resolve() in {r.resolve() for r in self.reports}:
            raise InputError(f"--out {self.out}: is a folder or one of the reports; name a file such as page.html")
        require_writable_folder(self.out.absolute().parent)
        write_text(self.out, page([read_report(path) for path in self.reports], names))
        print(f"{len(names)} {'report' if len(names) == 1 else 'reports'} -> {self.out}")
        return 0


def distinct_names(paths: tuple[Path, ...]) -> list[str]:
    """The files' names, with their folders' where two are the same."""
    stems = [path.stem for path in paths]
    return [p.stem if stems.count(p.stem) == 1 else f"{p.absolute().parent.name}/{p.stem}" for p in paths]
