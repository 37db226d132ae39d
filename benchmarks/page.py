"""What the page costs: ``python benchmarks/page.py VIDEO [--users 8 --jobs 20]``.

Starts ``pixeltrail app VIDEO`` as a person does, and asks it what the page asks. Prints, in seconds and MB:

- *start*: from the start of the process to the first frame's bytes (median of ``--starts``), and its processor time,
- *track*: from the click to the first tracked mask, the first time (weights are loaded) and again,
- *jump* and *next*: a frame anywhere and the one after it, alone and while the video is tracked,
- *memory*: what the server holds after each of these, and the most that it held,
- *outgoing*: connections of the server to anywhere but this machine, looked for all the while,
- with a folder of videos in VIDEO's place, *open* alone: from the choice of another video to its first frame's bytes,
- with ``--users``: so many people with a project of their own, each with ``--jobs`` jobs one after the other, all at the
  same time; every mask that comes back must hold their own object and no other's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

from pixeltrail.app import runs


class Server:
    """``pixeltrail app`` on a free port; ``first`` is how long its first frame took, ``spent`` the processor's part."""

    def __init__(self, video: Path, workspace: Path, *, ask: bool = True) -> None:
        began = time.perf_counter()
        command = ["app", str(video), "--workspace", str(workspace), "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pixeltrail", *command], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        self.address = re.search(r"http://[^/]+", said).group()  # type: ignore[union-attr]
        self.projects: list[str] = []
        if ask:
            self.projects = [p["id"] for p in self.json("state")["projects"]]
            self.ask(f"projects/{self.projects[0]}/frames/0.jpg")
        self.first, self.spent = time.perf_counter() - began, self.processor()
        self.outgoing: set[str] = set()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, kind: str = "application/json") -> bytes:
        headers = {"x-pixeltrail": "1", "content-type": kind}
        request = urllib.request.Request(f"{self.address}/api/{path}", body, headers, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=600) as answer:
            return bytes(answer.read())

    def json(self, path: str, method: str = "GET", body: Any = None) -> Any:
        return json.loads(self.ask(path, method, None if body is None else json.dumps(body).encode()))

    def events(self, project: str) -> Any:
        place = f"{self.address.replace('http', 'ws')}/api/projects/{project}/events"
        return connect(place, origin=self.address, proxy=None, max_size=None)  # type: ignore[arg-type]

    def paint(self, project: str, ids: np.ndarray) -> None:
        things = [{"id": int(i), "name": f"{i}", "color": "#ff0000"} for i in np.unique(ids) if i]
        self.ask(f"projects/{project}/objects", "PUT", json.dumps(things).encode())
        self.ask(f"projects/{project}/masks/0", "PUT", runs.encode(ids), "application/octet-stream")

    def processor(self) -> float:
        """Seconds of processor time so far: on a busy machine they say more than those on the clock."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, what: str = "VmRSS") -> float:
        """MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{self.process.pid}/net/{table}").read_text().splitlines()[1:]:
                    remote, inode = line.split()[2].split(":")[0], line.split()[9]
                    if remote.strip("0") and not remote.endswith("0100007F") and inode in self._sockets():
                        self.outgoing.add(remote)

    def _sockets(self) -> set[str]:
        found = set()
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                found.add(link.readlink().name.removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue
        return found

    def close(self) -> None:
        self._over.set()
        self.process.terminate()
        self.process.wait(60)


def told(socket: Any) -> tuple[dict[str, Any], bytes]:
    data = socket.recv(timeout=600)
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def over(head: dict[str, Any], job: str) -> bool:
    return head["type"] == "job" and head["id"] == job and head["state"] in ("done", "failed", "cancelled")


def first_mask(server: Server, project: str, quality: str, end: int) -> float:
    """Seconds from the click on *Forward* to the first mask; the job is cancelled then."""
    with server.events(project) as socket:
        began = time.perf_counter()
        body = {"kind": "masks", "begin": 0, "end": end, "quality": quality}
        job = server.json(f"projects/{project}/jobs", "POST", body)["id"]
        while (head := told(socket)[0])["type"] != "mask":
            assert not over(head, job), head
        took = time.perf_counter() - began
        server.ask(f"projects/{project}/jobs/{job}/cancel", "POST")
        while not over(told(socket)[0], job):
            pass
    return took


def scrub(server: Server, project: str, count: int, seed: int) -> tuple[float, float, float]:
    """Seconds for a jump (median of 20, and the worst) and for the frame after it (median)."""
    jumps, nexts = [], []
    for t in random.Random(seed).sample(range(count - 1), min(20, count - 1)):
        for k, into in enumerate((jumps, nexts)):
            began = time.perf_counter()
            server.ask(f"projects/{project}/frames/{t + k}.jpg")
            into.append(time.perf_counter() - began)
    return statistics.median(jumps), max(jumps), statistics.median(nexts)


def one_video(video: Path, quality: str, starts: int) -> None:
    firsts, spent = [], []
    for _ in range(starts):
        with tempfile.TemporaryDirectory() as folder:
            server = Server(video, Path(folder) / "work")
            firsts.append(server.first)
            spent.append(server.spent)
            server.close()
    times = ", ".join(f"{first:.2f}" for first in firsts)
    print(f"start to first frame   {statistics.median(firsts):7.2f} s   (of {times})")
    print(f"  processor time       {statistics.median(spent):7.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(video, Path(folder) / "work")
        try:
            project = server.projects[0]
            about = server.json(f"projects/{project}")
            width, height, count = about["width"], about["height"], about["count"]
            print(f"video                  {width}x{height}, {count} frames")
            print(f"memory at start        {server.memory():7.0f} MB")
            print("jump, worst, next      {:7.3f} {:.3f} {:.3f} s".format(*scrub(server, project, count, 0)))
            print(f"memory after scrubbing {server.memory():7.0f} MB")
            ids = np.zeros((height, width), np.uint8)
            ids[height // 3 : height // 2, width // 3 : width // 2] = 1
            server.paint(project, ids)
            end = min(count - 1, 2000)
            takes = [first_mask(server, project, quality, end) for _ in range(3)]
            print(f"click to first mask    {takes[0]:7.2f} s, then {takes[1]:.2f}, {takes[2]:.2f}   ({quality})")
            body = {"kind": "masks", "begin": 0, "end": end, "quality": quality}
            job = server.json(f"projects/{project}/jobs", "POST", body)["id"]
            print("while tracking         {:7.3f} {:.3f} {:.3f} s".format(*scrub(server, project, count, 1)))
            print(f"memory while tracking  {server.memory():7.0f} MB, at most {server.memory('VmHWM'):.0f}")
            server.ask(f"projects/{project}/jobs/{job}/cancel", "POST")
            print(f"outgoing connections   {len(server.outgoing):7d}")
        finally:
            server.close()


def many_users(video: Path, users: int, jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for k in range(users):
            shutil.copy(video, videos / f"{k}{video.suffix}")
        server = Server(videos, Path(folder) / "work")
        trouble: list[str] = []
        masks = 0

        def user(k: int) -> None:
            nonlocal masks
            project = server.projects[k]
            about = server.json(f"projects/{project}")
            ids = np.zeros((about["height"], about["width"]), np.uint8)
            ids[8:40, 8 : 40 + 8 * k] = k + 1
            server.paint(project, ids)
            with server.events(project) as socket:
                for _ in range(jobs):
                    body = {"kind": "masks", "begin": 0, "end": 3, "quality": "fast"}
                    job = server.json(f"projects/{project}/jobs", "POST", body)["id"]
                    while True:
                        head, data = told(socket)
                        if head["type"] == "mask":
                            masks += 1
                            strange = set(np.unique(runs.decode(data, ids.shape)).tolist()) - {0, k + 1}
                            if strange or head["job"] != job:
                                trouble.append(f"user {k} saw {strange} of job {head['job']}")
                        elif over(head, job):
                            if head["state"] != "done":
                                trouble.append(f"user {k}: {head}")
                            break

        try:
            threads = [threading.Thread(target=user, args=(k,)) for k in range(users)]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.perf_counter() - began
            print(f"{users} users x {jobs} jobs      {masks} masks, {len(trouble)} strange, {took:.0f} s")
            print(f"memory                 {server.memory():7.0f} MB, at most {server.memory('VmHWM'):.0f}")
            print(f"outgoing connections   {len(server.outgoing):7d}")
            print("\n".join(trouble))
        finally:
            server.close()


def opened(folder: Path, times: int) -> None:
    """From the choice of a video in an open page to its first frame, for all of a folder but the first."""
    found: dict[str, list[float]] = {}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as work:
            server = Server(folder, Path(work) / "work")
            try:
                for project in server.projects[1:]:
                    began = time.perf_counter()
                    name = server.json(f"projects/{project}")["name"]
                    server.ask(f"projects/{project}/frames/0.jpg")
                    found.setdefault(name, []).append(time.perf_counter() - began)
            finally:
                server.close()
    for name, seconds in found.items():
        print(f"open {name:17s} {statistics.median(seconds):7.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--quality", default="balanced")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=20)
    given = parser.parse_args()
    if given.video.is_dir():
        opened(given.video, given.starts)
    elif given.users:
        many_users(given.video, given.users, given.jobs)
    else:
        one_video(given.video, given.quality, given.starts)


if __name__ == "__main__":
    main()
