"""The shape of the project itself: who imports whom, what an import costs, which names are public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pixeltrail

SOURCE = Path(pixeltrail.__file__).parent
ROOT = SOURCE.parents[1]

# Imports point downwards: a module may import from its own level and from those above it in this list.
LEVELS = [
    {"errors", "types"},
    {"geometry", "colour", "pickles"},
    {"affinity", "appearance", "boxes", "guided", "kernels", "memory", "bottleneck", "nets"},
    {"tracker", "sessions", "flow"},
    {"methods"},
    {"catalogue", "weights", "backbone", "flow_networks"},
    {"protocols"},
    {"predictors", "flow_methods", "training", "jobs", "exchange", "checkpoints"},
    {"demo", "batch", "export"},
    {"cli", "__main__", "app"},
]
BESIDE = {"data", "evaluation", "visual"}  # these see the first two levels and themselves
READS_FILES = {
    "training",
    "jobs",
    "exchange",
    "demo",
    "batch",
    "export",
    "cli",
    "app",
}  # these may see what stands beside


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"pixeltrail.{a.name}" for a in node.names] if node.module == "pixeltrail" else [node.module or ""]
        found |= {n.split(".")[1] for n in names if n.startswith("pixeltrail.")}
    return found


def _level(part: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if part in names)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_point_downwards(file: Path):
    part = file.relative_to(SOURCE).with_suffix("").parts[0]
    if part == "__init__":
        return
    for other in _imports(file) - {part}:
        if part in BESIDE:
            assert other in LEVELS[0] | LEVELS[1], f"{part} stands beside the stack and must not import {other}"
        elif other in BESIDE:
            assert part in READS_FILES, f"{part} must not import {other}: models know nothing of files"
        else:
            assert _level(other) <= _level(part), f"{part} must not import {other}, which is above it"


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_no_unpickling_and_no_long_files(file: Path):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"pickle.load", "pickle.loads", "torch.load", "torch.jit.load"}, called
            assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples"])
def test_no_long_files_beside_the_package(folder: str):
    lengths = {file.name: len(file.read_text().splitlines()) for file in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_help_is_light_and_quick():
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from pixeltrail.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = [m for m in ('torch', 'av', 'cv2', 'PIL') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "track" in done.stdout
    assert float(done.stdout.splitlines()[-1]) < 0.5  # processor time: a busy machine must not fail it


def test_public_surface():
    assert pixeltrail.__all__ == [
        "__version__", "Affinity", "Boxes", "Clip", "Correspondence", "LabelMap", "MemoryBank", "MemoryPolicy",
        "PixeltrailError", "Points", "Protocol", "Tracker", "VideoWriter", "build", "correlation", "load",
        "open_frames", "overlay", "read_labels", "render", "write_labels",
    ]  # fmt: skip
    for name in pixeltrail.__all__:
        assert getattr(pixeltrail, name) is not None
    with pytest.raises(AttributeError):
        pixeltrail.nonsense  # noqa: B018
