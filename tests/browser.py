"""A browser for tests: Chromium over its DevTools protocol, and nothing but ``websockets`` to speak it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
    "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars", "--remote-debugging-port=0", "--lang=en-US",
    "--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider",
)  # fmt: skip


def chromium() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab. To be used in ``with``; the browser has ended when the block has."""

    def __init__(self, size: tuple[int, int] = (1280, 800)) -> None:
        self.size = size

    def __enter__(self) -> Browser:
        self._stack = ExitStack()
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        program = chromium()
        assert program is not None
        own = (f"--user-data-dir={self._home.name}", "--window-size={},{}".format(*self.size))
        self._process = subprocess.Popen(
            [program, *FLAGS, *own, "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = self._wait(lambda: (Path(self._home.name) / "DevToolsActivePort").read_text().split()[0], 60)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
                page = next(t for t in json.load(answer) if t["type"] == "page")
            address = page["webSocketDebuggerUrl"]
            self._socket = self._stack.enter_context(connect(address, max_size=None, compression=None, proxy=None))
            self._number, self.requests, self.errors = 0, [], []
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.send(f"{domain}.enable")
            self.resize(*self.size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        self._home.cleanup()

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        """One command and its answer; what the page reports in between is kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            told = json.loads(self._socket.recv(timeout=60))
            if told.get("method") == "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            elif told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["params"]["exceptionDetails"])[:2000])
            elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.errors.append(json.dumps(told["params"]["entry"])[:1000])
            elif told.get("id") == self._number:
                if "error" in told:
                    raise AssertionError(f"{method}: {told['error']}")
                return dict(told["result"])

    def resize(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def goto(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def reload(self) -> None:
        self.run("window.before = true")
        self.send("Page.reload")
        self.until("window.before === undefined && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        told = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise AssertionError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> Any:
        """Wait until an expression is true."""
        try:
            return self._wait(lambda: self.run(script) or None, seconds)
        except TimeoutError:
            raise AssertionError(f"never true: {script}; errors: {self.errors}") from None

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """x, y, width, height of the first element on the page."""
        found = self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            " const r = e.getBoundingClientRect(); return r.width ? [r.x, r.y, r.width, r.height] : null; })()"
        )
        return tuple(found)  # type: ignore[return-value]

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, selector: str) -> None:
        x, y, width, height = self.box(selector)
        self.drag([(x + width / 2, y + height / 2)])

    def drag(self, places: list[tuple[float, float]]) -> None:
        """Press at the first place, move over the others, let go."""
        self.mouse("Moved", *places[0])
        self.mouse("Pressed", *places[0], button="left", clickCount=1)
        for place in places[1:]:
            self.mouse("Moved", *place, button="left", buttons=1)
        self.mouse("Released", *places[-1], button="left", clickCount=1)

    def touch(self, *steps: list[tuple[float, float]]) -> None:
        """Fingers put down at the places of the first step, moved to those of the others, and lifted."""
        for kind, places in zip(("Start", *["Move"] * (len(steps) - 1), "End"), (*steps, []), strict=True):
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
            self.send("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    def pen(self, places: list[tuple[float, float]], pressure: float) -> None:
        """As `drag`, with a pen pressed so hard (0–1)."""
        for kind, (x, y) in zip(
            ("Pressed", *["Moved"] * (len(places) - 1), "Released"), (*places, places[-1]), strict=True
        ):
            self.mouse(kind, x, y, button="left", buttons=1, clickCount=1, pointerType="pen", force=pressure)

    def key(self, key: str, modifiers: int = 0) -> None:
        """Press a key; modifiers: 1 alt, 2 ctrl, 8 shift."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers)

    def type(self, selector: str, text: str) -> None:
        """Put text into a field in place of what it holds, and press Enter."""
        self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e?.focus(); e?.select(); return !!e; }})()"
        )
        self.send("Input.insertText", text=text)
        self.key("Enter")

    def drop(self, x: float, y: float, *files: Path) -> None:
        """Drag files of the system to a place, and let go."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def shot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _wait(self, ask: Any, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                found = ask()
            except (
                OSError,
                IndexError,
                AssertionError,
            ):  # not there yet, or the page is just being changed for another
                found = None
            if found is not None:
                return found
            time.sleep(0.1)
        raise TimeoutError
