"""A running page server for tests, and a client that speaks to it as the page does."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from websockets.sync.client import connect

from pixeltrail.app import runs
from pixeltrail.app.address import listening
from pixeltrail.app.server import application, server
from pixeltrail.app.workspace import Workspace


class Served:
    """A server on a free port of this machine; it and its jobs have ended when the block has."""

    def __init__(self, workspace: Path, *videos: Path, **options: Any) -> None:
        self.workspace = Workspace(workspace)
        self.projects = [self.workspace.add(video) for video in videos]
        self.options = options

    def __enter__(self) -> Served:
        self._stack = ExitStack()
        place = self._stack.enter_context(listening("127.0.0.1", 0))
        self.guard = application(self.workspace, port=place.getsockname()[1], **self.options)
        self._server = server(self.guard)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [place]})
        self._thread.start()
        self.address = f"http://127.0.0.1:{self.guard.port}"
        self.client = httpx.Client(
            base_url=self.address, headers={"x-pixeltrail": "1", "origin": self.address}, timeout=60, trust_env=False
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._stack.close()

    def url(self, rest: str = "", project: int = 0) -> str:
        return f"/api/projects/{self.projects[project].id}{rest}"

    def put_mask(self, frame: int, ids: np.ndarray, project: int = 0) -> None:
        """Paint, with objects made where there are none."""
        things = [{"id": int(i), "name": f"Thing {i}", "color": "#ff0000"} for i in np.unique(ids) if i]
        assert self.client.put(self.url("/objects", project), json=things).status_code == 200
        answer = self.client.put(self.url(f"/masks/{frame}", project), content=runs.encode(ids))
        assert answer.status_code == 200, answer.text

    def mask(self, frame: int, project: int = 0) -> np.ndarray:
        answer = self.client.get(self.url(f"/masks/{frame}", project))
        assert answer.status_code == 200, answer.text
        return runs.decode(answer.content, self.projects[project].size)

    def events(self, project: int = 0) -> Any:
        """The WebSocket of a project; give it to `told`."""
        address = self.address.replace("http", "ws") + self.url("/events", project)
        return connect(address, origin=self.address, proxy=None)  # type: ignore[arg-type]

    def job(self, project: int = 0, **body: Any) -> tuple[dict[str, Any], list[tuple[dict[str, Any], bytes]]]:
        """Run a job to its end: how it ended, and all that was said."""
        with self.events(project) as socket:
            answer = self.client.post(self.url("/jobs", project), json=body)
            assert answer.status_code == 200, answer.text
            said = []
            while True:
                head, data = told(socket)
                said.append((head, data))
                if head["type"] == "job" and head["id"] == answer.json()["id"] and over(head):
                    return head, said


def told(socket: Any) -> tuple[dict[str, Any], bytes]:
    """The next message of a project's WebSocket."""
    data = socket.recv(timeout=60)
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def over(head: dict[str, Any]) -> bool:
    return head["state"] in ("done", "failed", "cancelled")
