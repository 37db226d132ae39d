"""Every command and every snippet of the README and the docs is run, in order, in a folder with the inputs they name."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from pixeltrail import cli
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import Rendered, render
from pixeltrail.data.video import VideoWriter
from pixeltrail.types import LabelMap

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
FRAMES, SIZE = 3, (72, 96)

BLOCK = re.compile(
    r"^(?P<mark><!-- not run: .+? -->\n+)?```(?P<kind>console|bash|python)\n(?P<text>.*?)^```", re.M | re.S
)


@dataclass(frozen=True)
class Example:
    """A command line or a snippet, and where it stands."""

    place: str
    kind: str
    text: str
    run: bool


def examples(document: str) -> list[Example]:
    """The snippets and the command lines that begin with ``pixeltrail``. A comment <!-- not run: reason --> before the
    block says that it is only checked to be understood."""
    content = (ROOT / document).read_text()
    found = []
    for block in BLOCK.finditer(content):
        first = content[: block.start("text")].count("\n") + 1
        if block["kind"] == "python":
            found.append(Example(f"{document}:{first}", "python", block["text"], not block["mark"]))
            continue
        lines = block["text"].replace("\\\n", "  ").splitlines()
        for number, line in enumerate(lines, first):
            command = line.removeprefix("$ ")
            if command.startswith("pixeltrail "):
                found.append(Example(f"{document}:{number}", "command", command, not block["mark"]))
    return found


def write_video(path: Path, clip: Rendered) -> None:
    with VideoWriter(path, 24, clip.frames.shape[1:3]) as video:
        for image in clip.frames:
            video.write(image)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with video.mp4, frames/, first.png, points.csv, DAVIS/ and clips/."""
    root = tmp_path_factory.mktemp("readme")
    clip = render(5, frames=FRAMES, size=SIZE, objects=2, points=3)
    write_video(root / "video.mp4", clip)
    for folder in ("frames", "clips", "DAVIS/JPEGImages/480p/clip", "DAVIS/Annotations/480p/clip"):
        (root / folder).mkdir(parents=True)
    for t, (image, ids) in enumerate(zip(clip.frames, clip.labels, strict=True)):
        write_image(root / "frames" / f"{t:05d}.jpg", image)
        write_image(root / "DAVIS/JPEGImages/480p/clip" / f"{t:05d}.jpg", image)
        write_labels(root / "DAVIS/Annotations/480p/clip" / f"{t:05d}.png", LabelMap(ids))
    write_labels(root / "first.png", LabelMap(clip.labels[0]))
    rows = "".join(f"{x:.1f},{y:.1f}\n" for x, y in clip.tracks.xy[0])
    (root / "points.csv").write_text("x,y\n" + rows)
    for seed in (1, 2):
        write_video(root / "clips" / f"{seed}.mp4", render(seed, frames=16, size=(96, 128), objects=2))
    return root


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_snippet_runs(document: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for example in examples(document):
        if example.kind == "python":
            code = compile(example.text, example.place, "exec")
            if example.run:
                exec(code, {"__name__": "__main__"})
            continue
        arguments = shlex.split(example.text, comments=True)[1:]
        try:
            parsed = cli.parse(arguments)
            code = cli.main(arguments) if example.run else 0
        except SystemExit as refused:
            pytest.fail(f"{example.place}: {example.text}: exits with {refused.code}")
        assert parsed is not None
        assert code == 0, f"{example.place}: {example.text}: exits with {code}"


def test_examples_are_found() -> None:
    """The test above must not pass because it sees nothing."""
    found = examples("README.md")
    assert {"command", "python"} <= {example.kind for example in found}
    assert any(example.text.startswith("pixeltrail track video.mp4 --labels first.png") for example in found)
