"""First labels in, tracked labels out: masks as images or JSON, points as tables, boxes as text.

Ids are copied, never blended: a mask of the wrong size is refused rather than resized.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from pixeltrail.data import rle
from pixeltrail.data.files import atomic, one_line
from pixeltrail.data.images import IMAGE_SUFFIXES, MAX_PIXELS, natural_key, open_image
from pixeltrail.errors import InputError
from pixeltrail.types import VOID, Boxes, LabelMap, Points, davis_palette

MAX_OBJECTS = 254
_MAX_BYTES = 64_000_000  # of a JSON or CSV file

Mask = NDArray[np.bool_]
Ids = NDArray[np.uint8]


_PALETTE = davis_palette()


def write_labels(path: str | Path, labels: LabelMap) -> None:
    """Write an indexed PNG with the DAVIS palette, or nothing. Raises InputError or DiskError."""
    path = Path(path)
    image = PIL.Image.fromarray(labels.ids)
    image.putpalette(_PALETTE.tobytes())
    with atomic(path) as part:
        image.save(part, format="PNG", compress_level=1)


def read_labels(path: str | Path, size: tuple[int, int] | None = None) -> LabelMap:
    """Read the objects of one frame; ``size`` (height, width) is what they must have.

    - *indexed PNG*: the ids are the indices (DAVIS, YouTube-VOS); 255 is void.
    - *grey or black-and-white* image: one value besides 0 makes object 1. Several are taken as ids as they stand (255
      void), except where 255 covers most: then it is a mask with soft edges, object 1 from 128 upwards.
    - *colour* image: black and wholly transparent pixels are background; if every colour is of the DAVIS palette, the
      ids are its indices, else 1, 2, ... in the order of the colour values 0xRRGGBB.
    - *folder*: one image for each object, ids 1, 2, ... in natural order of the names; a later one covers others.
    - *JSON*: COCO run-length codes (compressed or not) or polygons, as a COCO file (its first image), a list of
      annotations or a single one; or LabelMe shapes. Ids are the annotations' ``id`` (else ``category_id``) if these
      are distinct and within 1–254, else 1, 2, ... in order; the later wins.

    Raises InputError naming the file: no object, more than 254, a photograph, another size, 16-bit ids above 254.
    """
    path = Path(path)
    if path.is_dir():
        labels = _from_folder(path)
    elif path.suffix.lower() == ".json":
        labels = _from_json(path, size)
    else:
        labels = _from_image(path)
    if not LabelMap(labels).objects:
        raise InputError(f"{path}: marks no object; paint at least one pixel")
    if size is not None and labels.shape != size:
        (height, width), (h, w) = size, labels.shape
        wanted = f"{width}x{height}"
        raise InputError(f"{path}: is {w}x{h}, the frames are {wanted}; resize it with nearest neighbour to {wanted}")
    return LabelMap(labels)


# Images


def _from_image(path: Path) -> Ids:
    with open_image(path) as image:
        try:
            mode, values = image.mode, np.asarray(image)
            colours = None if mode in ("P", "1", "L", "LA") or mode[0] == "I" else np.array(image.convert("RGBA"))
        except Exception as error:  # as in open_image
            raise InputError(f"{path}: is damaged ({one_line(error)}); save it again as PNG") from error
    if mode == "P":
        _require_flat(path, values, len(np.unique(values[(values > 0) & (values < VOID)])))
        # 0 and 255 alone are black and white, not background and void.
        return (values > 0).astype(np.uint8) if np.isin(values, (0, VOID)).all() else values
    if colours is None:
        return _from_grey(path, values[..., 0] if mode == "LA" else values)
    rgb = np.where(colours[..., 3:] > 0, colours[..., :3], 0)
    if (rgb == rgb[..., :1]).all():
        return _from_grey(path, rgb[..., 0])
    return _from_colours(path, rgb)


def _from_grey(path: Path, values: NDArray[Any]) -> Ids:
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype != np.uint8 and not 0 <= values.min() <= values.max() <= MAX_OBJECTS:
        raise InputError(
            f"{path}: 16-bit values up to {values.max()}, ids go to {MAX_OBJECTS}; save it as an 8-bit mask"
        )
    levels, count = np.unique(values[values > 0], return_counts=True)
    if len(levels) == 1:
        return (values > 0).astype(np.uint8)
    if len(levels) and levels[-1] == VOID and 2 * count[-1] > count.sum():
        return (values >= 128).astype(np.uint8)
    _require_flat(path, values, len(levels))
    return values.astype(np.uint8)


def _from_colours(path: Path, rgb: NDArray[np.uint8]) -> Ids:
    packed = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    found, inverse = np.unique(packed, return_inverse=True)
    objects = found[found > 0]
    _require_flat(path, packed, len(objects))
    palette = _PALETTE.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    if np.isin(objects, palette).all():
        order = np.argsort(palette)
        ids = order[np.searchsorted(palette, found, sorter=order).clip(max=255)]
    else:
        ids = np.arange(len(found)) + (found[0] > 0)
    labels: Ids = ids.astype(np.uint8)[inverse.reshape(packed.shape)]
    return labels


def _require_flat(path: Path, values: NDArray[Any], objects: int) -> None:
    """Labels are flat areas; refuse too many values, or many that change from pixel to pixel."""
    changes = float((values[:, 1:] != values[:, :-1]).mean()) if values.shape[1] > 1 else 0.0
    if objects > MAX_OBJECTS or (objects > 16 and changes > 0.25):
        raise InputError(f"{path}: {objects} different values look like a photograph, not a mask; save an indexed PNG")


def _from_folder(path: Path) -> Ids:
    files = sorted(
        (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")),
        key=natural_key,
    )
    if not files:
        raise InputError(f"{path}: no masks found; one PNG for each object is expected")
    if len(files) > MAX_OBJECTS:
        raise InputError(f"{path}: {len(files)} masks, but {MAX_OBJECTS} objects are the most; remove some")
    first = _from_image(files[0])
    labels = np.zeros_like(first)
    for number, file in enumerate(files, 1):
        mask = _from_image(file)
        if mask.shape != first.shape:
            (h, w), (height, width) = mask.shape, first.shape
            raise InputError(f"{file}: is {w}x{h} but {files[0].name} is {width}x{height}; give all masks one size")
        labels[(mask > 0) & (mask != VOID)] = number
    return labels


# JSON


def _from_json(path: Path, size: tuple[int, int] | None) -> Ids:
    content = _load_json(path)
    labels: Ids | None = None
    try:
        annotations, own = _annotations(content)
        for number, annotation in zip(_ids(annotations), annotations, strict=True):
            mask = _mask(annotation, own or size)
            if labels is None:
                labels = np.zeros(mask.shape, np.uint8)
            if mask.shape != labels.shape:
                (h, w), (height, width) = mask.shape, labels.shape
                raise InputError(f"masks of {w}x{h} and {width}x{height}; all must have the frame's size")
            labels[mask] = number
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        why = f"{type(error).__name__}: {one_line(error, 80)}"
        raise InputError(f"{path}: holds no masks that can be read ({why}); use COCO or LabelMe JSON") from error
    if labels is None:
        raise InputError(f"{path}: marks no object; add an annotation")
    return labels


def _annotations(content: Any) -> tuple[list[Mapping[str, Any]], tuple[int, int] | None]:
    """The annotations of one frame and the (height, width) that the file states."""
    if isinstance(content, list):
        return content, None
    if "shapes" in content:  # LabelMe
        size = (content["imageHeight"], content["imageWidth"]) if content.get("imageHeight") else None
        return _labelme(content["shapes"]), _checked(size)
    if "annotations" in content:  # COCO
        images = content.get("images") or [{}]
        first = images[0]
        size = (first["height"], first["width"]) if "height" in first else None
        chosen = [
            a for a in content["annotations"] if "id" not in first or a.get("image_id", first["id"]) == first["id"]
        ]
        return chosen, _checked(size)
    return [content], None


def _labelme(shapes: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One annotation for each label (and group); shapes of the same one belong together."""
    polygons: dict[tuple[str, str], list[list[float]]] = {}
    for shape in shapes:
        kind = shape.get("shape_type", "polygon")
        points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
        if kind == "rectangle":
            x1, y1, x2, y2 = points.ravel()
            points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        elif kind == "circle":
            angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
            points = points[0] + np.hypot(*(points[1] - points[0])) * np.hstack([np.cos(angle), np.sin(angle)])
        elif kind != "polygon":
            raise InputError(f"LabelMe shape {kind!r} is no area; use polygon, rectangle or circle")
        polygons.setdefault((str(shape["label"]), str(shape.get("group_id"))), []).append(points.ravel().tolist())
    return [{"segmentation": parts} for parts in polygons.values()]


def _mask(annotation: Mapping[str, Any], size: tuple[int, int] | None) -> Mask:
    shape = annotation.get("segmentation", annotation)
    if isinstance(shape, Mapping):
        return rle.decode(shape)
    if size is None:
        raise InputError("polygons without the size of the picture; add images with height and width")
    height, width = size
    canvas = PIL.Image.new("1", (width, height))
    draw = PIL.ImageDraw.Draw(canvas)
    for part in shape:
        corners = np.asarray(part, np.float64).reshape(-1, 2)
        bound = np.array([width, height])
        if len(corners) < 3 or not ((corners >= -bound) & (corners <= 2 * bound)).all():  # NaN fails too
            raise InputError("a polygon needs three corners or more, all of them near the picture")
        # These formats put coordinate 0 on the edge of the first pixel, Pillow on its centre.
        draw.polygon([(float(x), float(y)) for x, y in corners - 0.5], fill=1)
    return np.array(canvas)


def _ids(annotations: list[Mapping[str, Any]]) -> list[int]:
    if len(annotations) > MAX_OBJECTS:
        raise InputError(f"{len(annotations)} objects, but {MAX_OBJECTS} are the most; remove some")
    for key in ("id", "category_id"):
        ids = [a.get(key) for a in annotations]
        if all(type(i) is int and 1 <= i <= MAX_OBJECTS for i in ids) and len(set(ids)) == len(ids):
            return [int(i) for i in ids if i is not None]
    return list(range(1, len(annotations) + 1))


def _checked(size: tuple[Any, Any] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = size
    if not (type(height) is int and type(width) is int and height > 0 < width and height * width <= MAX_PIXELS):
        raise InputError(f"a picture of height {height!r} and width {width!r} is not possible")
    return height, width


def _load_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: is larger than {_MAX_BYTES / 1e6:.0f} MB; split it")
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None


def _load_json(path: Path) -> Any:
    try:
        return json.loads(_load_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({one_line(error)}); save it again") from None


# Points and boxes


def read_points(path: str | Path, size: tuple[int, int] | None = None) -> Points:
    """Read query points from CSV or JSON.

    CSV: columns ``x, y[, t or frame][, name]``, in this order unless a header line names them; comma, semicolon or tab.
    JSON: a list (or ``{"points": list}``) of ``[x, y]``, ``[x, y, t]``, ``[x, y, t, name]`` or objects with those keys.
    x to the right and y down in pixels, pixel centres at integers; t the frame, from 0.
    Raises InputError naming file and row, also for a point outside ``size`` (height, width) if that is given.
    """
    path = Path(path)
    rows = _json_points(path) if path.suffix.lower() == ".json" else _csv_points(path)
    if not rows:
        raise InputError(f"{path}: holds no points; write one x,y in each line")
    xy, t, names = [], [], []
    for number, (place, row) in enumerate(rows):
        try:
            x, y, frame = float(row["x"]), float(row["y"]), float(row.get("t") or row.get("frame") or 0)
            if not (np.isfinite([x, y]).all() and frame.is_integer() and 0 <= frame < 2**53):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{path}: {place}: is no point; write x,y[,frame[,name]] with frame 0 or above") from None
        if size is not None and not (-0.5 <= x <= size[1] - 0.5 and -0.5 <= y <= size[0] - 0.5):
            raise InputError(
                f"{path}: {place}: ({x:g}, {y:g}) lies outside the {size[1]}x{size[0]} frame; points are x,y"
            )
        xy.append((x, y))
        t.append(int(frame))
        name = row.get("name")
        names.append(str(number) if name in (None, "") else str(name))
    return Points(np.array(xy, np.float32), np.array(t, np.int64), tuple(names))


_COLUMNS = ("x", "y", "t", "name")


def _csv_points(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    lines = _load_text(path).splitlines()
    text = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not text:
        return []
    delimiter = next((d for d in ",;\t" if d in text[0][1]), ",")
    try:
        table = [[cell.strip() for cell in row] for row in csv.reader((line for _, line in text), delimiter=delimiter)]
    except csv.Error as error:
        raise InputError(f"{path}: is no table ({one_line(error)}); write one x,y in each line") from None
    head = [cell.lower() for cell in table[0]]
    if "x" in head and "y" in head:
        text, table = text[1:], table[1:]
    else:
        head = list(_COLUMNS)
    return [
        (f"line {number}", dict(zip(head, row, strict=False))) for (number, _), row in zip(text, table, strict=False)
    ]


def _json_points(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    content = _load_json(path)
    if isinstance(content, dict):
        content = content.get("points")
    if not isinstance(content, list):
        raise InputError(f"{path}: holds no list of points; write [[x, y], ...]")
    rows = (dict(zip(_COLUMNS, p, strict=False)) if isinstance(p, list) else p for p in content)
    return [(f"point {i}", row if isinstance(row, dict) else {}) for i, row in enumerate(rows)]


def parse_box(*texts: str) -> Boxes:
    """Boxes from text: ``"x1,y1,x2,y2"`` each, left, top, right and bottom in pixels; object ids 1, 2, ... in order.

    Raises InputError for anything else.
    """
    boxes = []
    for text in texts:
        try:
            x1, y1, x2, y2 = (float(cell) for cell in text.split(","))
            if not (np.isfinite([x1, y1, x2, y2]).all() and x1 < x2 and y1 < y2):
                raise ValueError
        except ValueError:
            raise InputError(
                f"{text!r}: is no box; write left,top,right,bottom with left < right and top < bottom"
            ) from None
        boxes.append((x1, y1, x2, y2))
    if not 0 < len(boxes) <= MAX_OBJECTS:
        raise InputError(f"{len(boxes)} boxes given; give 1 to {MAX_OBJECTS}")
    return Boxes(np.array(boxes, np.float32))
