"""What a person waits for in the page: ``python benchmarks/page_browser.py VIDEO [--shots FOLDER]``. Needs Chromium.

Starts ``pixeltrail app VIDEO`` beside a browser that is open already, and uses the page as a person does. Prints:

- *shown*: seconds from the start of the command to the first frame in the page (median of ``--starts``),
- *track*: from the click on *Forward* to the first tracked frame in the page,
- *scrub*: while tracking goes on, the scrubber is dragged over the whole strip: from each move to the picture that
  follows it (the small one of the strip, or the frame itself), the longest time without a new picture of the page at
  all, and from letting go to the exact frame; then the same after tracking,
- *memory*: of the server and of the browser's processes, the most that they held.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).parents[1] / "tests")]

from page import Server  # noqa: E402

from browser import Browser  # noqa: E402

WATCH = """
window.longest = 0; window.followed = [];
(() => {
  let last = performance.now();
  const look = (now) => { window.longest = Math.max(window.longest, now - last); last = now; requestAnimationFrame(look); };
  requestAnimationFrame(look);
  const strip = document.querySelector('.strip');
  strip.addEventListener('pointermove', () => {
    const moved = performance.now();
    requestAnimationFrame(() => requestAnimationFrame(() => window.followed.push(performance.now() - moved)));
  });
})()
"""


def until(browser: Browser, script: str, seconds: float = 120) -> float:
    """Seconds until an expression is true, to a hundredth."""
    began = time.perf_counter()
    while not browser.run(script):
        assert time.perf_counter() - began < seconds, f"never true: {script}; errors: {browser.errors}"
        time.sleep(0.01)
    return time.perf_counter() - began


def shows(frame: int) -> str:
    return f"!!document.querySelector('.stage-canvas')?.ariaLabel?.startsWith('Frame {frame} ')"


class Memory:
    """The most that the processes of a group hold together, in MB, looked at four times a second."""

    def __init__(self, group: int) -> None:
        self.group, self.most = group, 0.0
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            total = 0.0
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if os.getpgid(int(folder.name)) == self.group:
                        lines = (folder / "smaps_rollup").read_text().splitlines()
                        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
                except (OSError, ValueError, StopIteration):
                    continue  # it has ended meanwhile
            self.most = max(self.most, total)

    def close(self) -> float:
        self._over.set()
        return self.most


def scrub(browser: Browser, count: int, shot: Path | None) -> str:
    """Drag over the strip and back to its middle, in three seconds; let go; wait for the frame."""
    x, y, width, height = browser.box(".strip")
    middle = y + height / 2
    browser.run("(window.longest = 0, window.followed.length = 0, 0)")
    places = [x + width * share for share in [*(k / 60 for k in range(2, 59)), *(1 - k / 60 for k in range(2, 30))]]
    browser.mouse("Moved", places[0], middle)
    browser.mouse("Pressed", places[0], middle, button="left", clickCount=1)
    for k, place in enumerate(places):
        browser.mouse("Moved", place, middle, button="left", buttons=1)
        time.sleep(0.03)
        if shot and k == 40:
            browser.shot(shot)
    frame = int((places[-1] - x) / width * count)
    browser.mouse("Released", places[-1], middle, button="left", clickCount=1)
    exact = until(browser, " || ".join(shows(t) for t in (frame - 1, frame, frame + 1)))
    followed, longest = browser.run("[window.followed, window.longest]")
    followed.sort()
    return (
        f"{statistics.median(followed) / 1000:.3f} {followed[int(0.95 * len(followed))] / 1000:.3f} {longest / 1000:.3f}"
        f" {exact:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--size", default="1280x800")
    parser.add_argument("--shots", type=Path)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    shot = (lambda name: given.shots / f"{name}.png") if given.shots else (lambda name: None)
    with Browser((width, height)) as browser:
        memory = Memory(os.getpgid(browser._process.pid))
        taken = []
        for k in range(given.starts):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                server = Server(given.video, Path(folder) / "work", ask=False)
                try:
                    browser.goto(server.address)
                    until(browser, shows(0))
                    taken.append(time.perf_counter() - began)
                    if k == given.starts - 1:
                        use(browser, server, given.quality, shot)
                finally:
                    browser.goto("about:blank")
                    server.close()
        print(f"start to frame shown   {statistics.median(taken):7.2f} s   (of {', '.join(f'{t:.2f}' for t in taken)})")
        print(f"memory of the browser  {memory.close():7.0f} MB at most")
        print("\n".join([f"errors in the page     {len(browser.errors):7d}", *browser.errors]))


def use(browser: Browser, server: Server, quality: str, shot: object) -> None:
    count = server.json(f"projects/{server.json('state')['projects'][0]['id']}")["count"]
    time.sleep(5)  # thumbnails, and torch in the background
    browser.run(WATCH)
    if shot("opened"):
        browser.shot(shot("opened"))
    print(f"scrub before tracking  {scrub(browser, count, None)}   (median, 95 %, longest still, exact frame)")
    browser.key("Home")
    until(browser, shows(0))
    x, y, width, height = browser.box(".stage-canvas")
    browser.key("r")
    browser.drag([(x + width * 0.4, y + height * 0.4), (x + width * 0.5, y + height * 0.55)])
    until(browser, "document.querySelector('.saved').textContent === 'Saved'")
    browser.run(f"document.querySelector('[aria-label=Quality]').value = '{quality}'")
    began = time.perf_counter()
    browser.key("t")
    until(browser, shows(1))
    print(f"click to tracked frame {time.perf_counter() - began:7.2f} s   ({quality})")
    for name in ("scrub1", "scrub2"):
        print(f"scrub while tracking   {scrub(browser, count, shot(name))}")
    assert browser.run("!!document.querySelector('.job')"), "tracking ended too soon; take a longer video"
    if shot("tracking"):
        browser.shot(shot("tracking"))
    done = browser.run("document.querySelector('.job .grow').textContent")
    print(f"memory of the server   {server.memory():7.0f} MB, at most {server.memory('VmHWM'):.0f}   ({done})")
    browser.run("document.querySelector('.job [aria-label=Cancel]').click()")
    until(browser, "!document.querySelector('.job')")


if __name__ == "__main__":
    main()
