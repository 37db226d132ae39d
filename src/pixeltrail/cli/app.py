"""``pixeltrail app``."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Device, Folder, Method, Threads, prepared
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class App:
    """Open the page: paint or click in the browser, watch it followed, correct, export.

    Everything stays on this machine. What is done is saved at once in the workspace, one folder for each video, which
    pixeltrail convert reads.
    """

    video: Annotated[Positional[Path | None], arg(metavar="[VIDEO|FOLDER]", help_behavior_hint="")] = None
    """A video file, a GIF, a folder of frames, or a folder of videos; without it, what the workspace holds."""
    workspace: Folder = Path("pixeltrail-workspace")
    """Folder for what is made."""
    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --token."""
    port: Annotated[int, arg(metavar="PORT")] = 8321
    """Port to listen on; 0: any that is free."""
    token: Annotated[str, arg(metavar="TOKEN", help_behavior_hint="")] = ""
    """Who opens the page must have it, 22 letters and digits or more."""
    method: Method = "default"
    """default, a .safetensors file, or your own Python file."""
    browser: Annotated[bool, arg(help_behavior_hint="")] = True
    """Open no browser."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        for needed in ("fastapi", "uvicorn", "websockets"):
            if find_spec(needed) is None:
                raise InputError(f"the page needs {needed}, which is not installed; run: pip install 'pixeltrail[app]'")

        from pixeltrail.app.address import address, listening, require_safe
        from pixeltrail.app.workspace import Workspace
        from pixeltrail.data.clips import find_videos

        require_safe(self.host, self.token)
        if not 0 <= self.port < 65536:
            raise InputError(f"--port {self.port}: expected a number from 0 to 65535")
        if self.device != "cpu" or self.threads < 0:
            prepared(self.device, self.threads)  # which imports torch: a page on the processor is there sooner
        videos = [] if self.video is None else find_videos(self.video)
        workspace = Workspace(self.workspace)
        with workspace.reserved(), ExitStack() as stack:
            own = workspace.root.resolve()
            outside = [v for v in videos if own not in (v.resolve(), *v.resolve().parents)]
            for project in [workspace.add(video) for video in outside][:1]:  # its first frame is what the page shows
                Thread(target=project.frames.prepare, daemon=True).start()
            place = stack.enter_context(listening(self.host, self.port))
            port = place.getsockname()[1]
            where = address(self.host, port, self.token)
            print(f"open {where}  (Ctrl-C ends it; everything is saved in {self.workspace})", flush=True)
            if self.browser:
                import webbrowser

                webbrowser.open(where)
            from pixeltrail.app.server import application, server  # while the browser starts

            guard = application(
                workspace, host=self.host, port=port, token=self.token, method=self.method, device=self.device,
                threads=self.threads,
            )  # fmt: skip
            with suppress(KeyboardInterrupt):  # the way to end it
                server(guard).run(sockets=[place])
        return 0
