"""The page in a real browser: open, paint, track, correct, undo, export, reload, go on. Screenshots show each step."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the page needs pixeltrail[app]")
pytest.importorskip("httpx", reason="the page's tests need httpx")

from browser import Browser, chromium
from pixeltrail.data.davis import read_ids
from pixeltrail.demo import write_rendered
from served import Served

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here; apt-get install chromium")

SIZE = (96, 160)
FRAMES = 8
CTRL, SHIFT = 2, 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    out = tmp_path_factory.mktemp("clip")
    write_rendered(out, 3, FRAMES, SIZE, 3)
    return out / "video.mp4"


class Page:
    """What a person does, in the picture's own pixels."""

    def __init__(self, browser: Browser, shots: Path) -> None:
        self.browser, self.shots = browser, shots
        x, y, width, height = browser.box(".stage-canvas")
        self.scale = min((width - 32) / SIZE[1], (height - 32) / SIZE[0])
        self.left, self.top = x + (width - SIZE[1] * self.scale) / 2, y + (height - SIZE[0] * self.scale) / 2

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + (x + 0.5) * self.scale, self.top + (y + 0.5) * self.scale

    def drag(self, *places: tuple[float, float]) -> None:
        self.browser.drag([self.at(*place) for place in places])

    def saved(self) -> None:
        self.browser.until("document.querySelector('.saved').textContent === 'Saved'")

    def shows(self, frame: int) -> None:
        self.browser.until(f"document.querySelector('.stage-canvas')?.ariaLabel?.startsWith('Frame {frame} ')")

    def track(self) -> None:
        self.browser.key("t")
        self.browser.until("!!document.querySelector('.job')")
        self.browser.until("!document.querySelector('.job')", 90)

    def shot(self, name: str) -> None:
        """Kept where PIXELTRAIL_SHOTS says, for people to look at."""
        time.sleep(0.2)
        self.browser.shot(self.shots / f"{name}.png")
        assert (self.shots / f"{name}.png").stat().st_size > 10_000


@pytest.fixture
def shots(tmp_path):
    folder = Path(os.environ.get("PIXELTRAIL_SHOTS", tmp_path / "shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_from_a_video_to_masks(clip, tmp_path, shots):
    downloads = tmp_path / "downloads"
    with Served(tmp_path / "work", clip) as server, Browser() as browser:
        browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        browser.goto(server.address)
        browser.until("!!document.querySelector('.stage-canvas')?.ariaLabel")
        page = Page(browser, shots)
        page.shows(0)
        browser.run("document.querySelector('[aria-label=Quality]').value = 'fast'")

        page.drag((60, 40), (70, 44), (80, 40))  # the brush makes an object
        page.saved()
        first = server.mask(0)
        assert set(np.unique(first)) == {0, 1}
        assert first[40, 60] == first[44, 70] == first[40, 80] == 1
        browser.key("r")
        browser.key("n")
        page.drag((110, 20), (130, 50))  # a box, of another object
        page.saved()
        painted = server.mask(0)
        np.testing.assert_array_equal(painted[20:51, 110:131], 2)
        assert (painted == 2).sum() == 31 * 21
        page.shot("1-painted")

        browser.key("z", CTRL)
        page.saved()
        np.testing.assert_array_equal(server.mask(0), first)
        browser.key("Z", CTRL | SHIFT)
        page.saved()
        np.testing.assert_array_equal(server.mask(0), painted)

        page.track()
        page.shows(FRAMES - 1)
        tracked = server.mask(FRAMES - 1)
        assert {1, 2} <= set(np.unique(tracked).tolist())
        page.shot("2-tracked")

        browser.key("ArrowLeft")  # correct the last frame but one, and go on from there
        page.shows(FRAMES - 2)
        browser.key("p")
        page.drag((20, 60))
        page.drag((50, 62))
        page.drag((36, 84))
        browser.key("Enter")
        page.saved()
        assert server.mask(FRAMES - 2)[66, 36] == 2
        assert server.client.get(server.url()).json()["keys"] == [0, FRAMES - 2]
        page.track()
        assert (server.mask(FRAMES - 1) != tracked).any()
        np.testing.assert_array_equal(server.mask(0), painted)
        page.shot("3-corrected")

        browser.run("document.querySelector('[aria-label=Format]').value = 'coco'")
        browser.run("[...document.querySelectorAll('.panel button')].find((b) => b.textContent === 'Export').click()")
        end = time.monotonic() + 30
        while not list(downloads.glob("*.json")):
            assert time.monotonic() < end
            time.sleep(0.1)

        browser.reload()
        page.shows(FRAMES - 1)
        assert browser.run("document.querySelectorAll('.things .name').length") == 2
        browser.key("k")
        page.drag((30, 30))  # a point
        page.saved()
        assert server.client.get(server.url()).json()["points"][0]["keys"] == {
            str(FRAMES - 1): pytest.approx([30, 30], abs=0.5)
        }
        browser.key("w")
        browser.mouse("Moved", *page.at(70, 42))
        browser.until("document.querySelector('.looks').hidden === false")
        page.shot("4-why")
        browser.key("?", SHIFT)
        assert browser.run("document.querySelector('dialog').open")
        page.shot("5-keyboard")
        assert browser.errors == []
        asked = [r for r in browser.requests if not r.startswith((server.address, "data:", "blob:"))]
        assert asked == []


def test_pause_cancel_backward_doubt_loop_rename_and_drop(clip, tmp_path, shots):
    with Served(tmp_path / "work", clip) as server, Browser() as browser:
        browser.goto(server.address)
        browser.until("!!document.querySelector('.stage-canvas')?.ariaLabel")
        page = Page(browser, shots)
        page.shows(0)
        browser.until("!document.querySelector('[aria-label=\"Export and download\"]').disabled")
        browser.click("[aria-label='Export and download']")
        browser.until("document.querySelector('.toast.error')?.textContent.startsWith('there are no masks to export')")
        browser.until("!document.querySelector('.job')")  # however soon it has failed
        browser.run("document.querySelector('.toast button').click()")
        browser.key("t")  # nothing is painted
        browser.until("document.querySelector('.toast')?.textContent.startsWith('Frame 0 shows no object')")

        def tracked() -> dict[int, dict[str, float]]:
            return {int(t): sure for t, sure in server.client.get(server.url()).json()["tracked"].items()}

        browser.key("r")
        page.drag((60, 30), (90, 60))
        page.saved()
        browser.run("document.querySelector('[aria-label=Quality]').value = 'best'")
        browser.run(  # pause as soon as there is something to pause
            "window.paused = (async () => { let b; while (!(b = document.querySelector('.job [aria-label=Pause]')))"
            " await new Promise(requestAnimationFrame); b.click(); })(), 0"
        )
        browser.key("t")
        browser.until("document.querySelector('.job')?.textContent.includes('paused')")
        time.sleep(0.5)  # the step that was under way may end
        done = tracked()
        page.shot("10-paused")
        time.sleep(0.5)
        assert tracked() == done
        assert len(done) < FRAMES
        browser.click(".job [aria-label='Go on']")
        browser.until(
            "!document.querySelector('.job') || !document.querySelector('.job').textContent.includes('paused')"
        )
        browser.run("document.querySelector('.job [aria-label=Cancel]')?.click()")
        browser.until("!document.querySelector('.job')")

        browser.run("document.querySelector('[aria-label=Quality]').value = 'fast'")
        browser.key("End")
        page.shows(FRAMES - 1)
        page.drag((20, 30), (50, 60))
        page.saved()
        browser.key("T", SHIFT)
        browser.until("!!document.querySelector('.job')")
        browser.until("!document.querySelector('.job')", 90)
        assert sorted(tracked()) == list(range(FRAMES))
        assert server.client.get(server.url()).json()["keys"] == [0, FRAMES - 1]
        browser.key("d")
        page.shows(min(range(1, FRAMES - 1), key=lambda t: tracked()[t]["1"]))

        browser.key("Home")
        page.shows(0)
        browser.key("l")
        browser.key(" ")
        page.shows(FRAMES - 1)
        page.shows(0)  # round again
        browser.key(" ")

        browser.type(".things .name", "Grey cat")
        page.saved()
        assert server.client.get(server.url()).json()["objects"][0]["name"] == "Grey cat"
        browser.key("Home")  # the keyboard is the page's again
        page.shows(0)
        browser.key("ArrowRight")
        page.shows(1)
        (truth := tmp_path / "truth.png").write_bytes((clip.parent / "masks" / "00003.png").read_bytes())
        browser.drop(*page.at(80, 48), truth)
        browser.until(
            "[...document.querySelectorAll('.toast')].some((t) => t.textContent.startsWith('Imported masks on 1 frame'))"
        )
        np.testing.assert_array_equal(server.mask(1), read_ids(truth))
        browser.drop(*page.at(80, 48), truth, clip)
        browser.until("document.querySelector('.toast.error')?.textContent.startsWith('Drop one file at a time')")
        (other := tmp_path / "other.mp4").write_bytes(clip.read_bytes())
        browser.drop(*page.at(80, 48), other)
        browser.until("document.querySelector('.stage-canvas')?.ariaLabel === 'Frame 0 of other.mp4'")
        assert browser.errors == []


def test_fingers_paint_and_zoom_and_a_pen_presses(clip, tmp_path, shots):
    with Served(tmp_path / "work", clip) as server, Browser() as browser:
        browser.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)
        browser.goto(server.address)
        browser.until("!!document.querySelector('.stage-canvas')?.ariaLabel")
        page = Page(browser, shots)
        page.shows(0)
        browser.touch(*([page.at(x, 48)] for x in range(40, 61, 4)))
        page.saved()
        mask = server.mask(0)
        assert (mask[48, 38:63] == 1).all()
        assert mask[48, 90] == 0

        middle = page.at(80, 48)
        apart = [[(middle[0] - d, middle[1]), (middle[0] + d, middle[1])] for d in range(60, 121, 10)]
        browser.touch(*apart)  # two fingers, twice as far apart: zoom about the middle, and nothing is painted
        page.saved()
        np.testing.assert_array_equal(server.mask(0), mask)
        browser.touch([(middle[0] + 40 * page.scale, middle[1])], [(middle[0] + 41 * page.scale, middle[1])])
        page.saved()
        ys, xs = np.nonzero(server.mask(0) != mask)
        assert xs.mean() == pytest.approx(80 + 20, abs=1.5)
        assert ys.mean() == pytest.approx(48, abs=1.5)
        page.shot("9-touch")

        browser.key("0")  # the whole picture again
        widths = []
        for y, pressure in ((10, 0.1), (85, 1.0)):
            before = server.mask(0)
            browser.pen([page.at(x, y) for x in range(30, 61, 6)], pressure)
            page.saved()
            widths.append(int((server.mask(0) != before)[:, 45].sum()))
        assert 0 < widths[0] < widths[1]
        assert browser.errors == []


def test_without_a_video_there_is_a_place_to_drop_one(clip, tmp_path, shots):
    with Served(tmp_path / "work") as server, Browser((1280, 800)) as browser:
        browser.goto(server.address)
        assert "Open a video" in browser.until("document.querySelector('.drop')?.textContent || null")
        browser.shot(shots / "6-empty.png")
        document = browser.send("DOM.getDocument")["root"]["nodeId"]
        field = browser.send("DOM.querySelector", nodeId=document, selector="header input[type=file]")["nodeId"]
        (tmp_path / "broken.mp4").write_bytes(b"this is no video")
        browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / "broken.mp4")])
        said = browser.until("document.querySelector('.toast.error')?.textContent || null")
        assert said.startswith("broken.mp4: is not a video")
        assert str(tmp_path) not in said
        browser.shot(shots / "7-error.png")
        browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(clip)])
        browser.until("document.querySelector('.stage-canvas')?.ariaLabel === 'Frame 0 of video.mp4'")
        for width, height in ((1280, 720), (2560, 1440)):
            browser.resize(width, height)
            time.sleep(0.2)
            outside = "[...document.querySelectorAll('button, select, input')].filter((e) => e.offsetWidth &&"
            outside += " e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.ariaLabel)"
            assert browser.run(outside) == []
            unnamed = "[...document.querySelectorAll('button, select, input:not([hidden]), canvas')].filter((e) => !e.hidden &&"
            unnamed += " !e.ariaLabel && !e.textContent && !e.labels?.length).map((e) => e.outerHTML)"
            assert browser.run(unnamed) == []
            browser.shot(shots / f"8-{width}.png")
