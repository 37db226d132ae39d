"""The tracker for CVAT's tracking functions: against the SDK's own types where it is installed, and against fakes of them."""

import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pixeltrail.data.labels import read_labels
from pixeltrail.data.video import open_frames

EXAMPLE = Path(__file__).parents[1] / "examples" / "cvat_tracker.py"


def fakes() -> dict[str, types.ModuleType]:
    """As much of cvat_sdk as the example uses: the two records, and masks as run lengths with their rectangle behind."""

    @dataclass(kw_only=True)
    class TrackingFunctionSpec:
        supported_shape_types: set[str]

    @dataclass(kw_only=True)
    class TrackableShape:
        type: str
        points: list[float] = field(default_factory=list)

    def encode_mask(bitmap: np.ndarray) -> list[float]:
        y, x = np.nonzero(bitmap)
        part = bitmap[y.min() : y.max() + 1, x.min() : x.max() + 1].ravel()
        edges = np.flatnonzero(np.diff(part)) + 1
        runs = np.diff([0, *edges, part.size]).tolist()
        return [*([0] if part[0] else []), *runs, int(x.min()), int(y.min()), int(x.max()), int(y.max())]

    def decode_mask(encoded: list[float], *, image_width: int, image_height: int) -> np.ndarray:
        *runs, left, top, right, bottom = (int(v) for v in encoded)
        mask = np.zeros((image_height, image_width), bool)
        part = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        mask[top : bottom + 1, left : right + 1] = part.reshape(bottom + 1 - top, -1)
        return mask

    sdk, aa, masks = (types.ModuleType(name) for name in ("cvat_sdk", "cvat_sdk.auto_annotation", "cvat_sdk.masks"))
    aa.TrackingFunctionSpec, aa.TrackableShape = TrackingFunctionSpec, TrackableShape  # type: ignore[attr-defined]
    aa.TrackingFunctionContext = aa.TrackingFunctionShapeContext = object  # type: ignore[attr-defined]
    masks.encode_mask, masks.decode_mask = encode_mask, decode_mask  # type: ignore[attr-defined]
    sdk.auto_annotation, sdk.masks = aa, masks  # type: ignore[attr-defined]
    return {module.__name__: module for module in (sdk, aa, masks)}


@pytest.fixture(params=["sdk", "fakes"])
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "sdk":
        pytest.importorskip("cvat_sdk.auto_annotation")
        pytest.importorskip("cvat_sdk.masks")
    else:
        for name, module in fakes().items():
            monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("cvat_tracker", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cvat_tracker", module)
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_shape_follows_a_girl(example: Any, real_data: Path):
    """As CVAT calls it: an image and a shape, then one image after another. The answers agree with each other."""
    folder = real_data / "multi-object"
    truth = [read_labels(folder / "schoolgirls" / f"{t:05d}.png").ids[::2, ::2] for t in range(3)]
    number = int(np.argmax(np.bincount(truth[0].ravel())[1:])) + 1
    source = open_frames(folder / "schoolgirls.mp4").frames()
    frames = [PIL.Image.fromarray(frame.image[::2, ::2]) for frame, _ in zip(source, truth, strict=False)]
    function = example.create(quality="fast")
    assert set(function.spec.supported_shape_types) == {"mask", "polygon", "rectangle", "points"}
    first = truth[0] == number
    y, x = np.nonzero(first)
    middle = len(x) // 2
    starts = {
        "mask": example.encode_mask(first),
        "polygon": example._shape("polygon", first).points,
        "rectangle": [x.min(), y.min(), x.max() + 1, y.max() + 1],
        "points": [x[middle] + 0.5, y[middle] + 0.5],
    }
    answers: dict[str, list[Any]] = {}
    context: Any = None
    for kind, points in starts.items():
        images = [function.preprocess_image(context, frame) for frame in frames]
        shape = example.aa.TrackableShape(type=kind, points=[float(v) for v in points])
        state = function.init_tracking_state(context, images[0], shape)
        answers[kind] = [function.track(context, image, state) for image in images[1:]]
        assert all(answer.type == kind for answer in answers[kind])
    size = first.shape
    for t, (mask, polygon, box, point) in enumerate(zip(*answers.values(), strict=True), 1):
        area = example._mask(mask, size)
        assert np.array_equal(area, example._mask(polygon, size))  # the same start, so the same track
        found = area & (truth[t] == number)
        assert found.sum() > 0.5 * (area | (truth[t] == number)).sum()
        left, top, right, bottom = box.points
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        assert np.hypot(point.points[0] - starts["points"][0], point.points[1] - starts["points"][1]) < 60


def test_what_is_lost_is_none(example: Any):
    """A shape that is gone gives None, as the protocol asks."""

    class Gone:
        def step(self, image: np.ndarray) -> Any:
            return types.SimpleNamespace(ids=np.zeros((4, 5), np.uint8))

    function = example.create()
    context: Any = None
    assert function.track(context, np.zeros((4, 5, 3), np.uint8), example.State("mask", Gone())) is None


def test_thin_and_odd_shapes_have_pixels(example: Any):
    shape = example.aa.TrackableShape
    thin = example._mask(shape(type="rectangle", points=[2.1, 1.1, 2.3, 1.4]), (4, 5))
    assert np.argwhere(thin).tolist() == [[1, 2]]
    full = example._mask(shape(type="rectangle", points=[0.0, 0.0, 5.0, 4.0]), (4, 5))
    assert full.all()
    for kind in ("mask", "polygon", "rectangle"):
        assert np.array_equal(example._mask(example._shape(kind, full), (4, 5)), full)
