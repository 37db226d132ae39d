"""Pictures of a run's worst frames, and the time that a method takes."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pixeltrail.types import Image

PICTURES = 12
"""How many a report holds."""
WIDTH, GAP = 400, 4
Item = TypeVar("Item")


def frames_at(images: Iterable[Image], wanted: Collection[int]) -> dict[int, Image]:
    """The frames of these numbers; none after the last of them is read."""
    found: dict[int, Image] = {}
    for t, image in enumerate(images if wanted else ()):
        if t in wanted:
            found[t] = image
        if t == max(wanted):
            break
    return found


def beside(images: Sequence[Image]) -> str:
    """Pictures of one size side by side, each ``WIDTH`` wide, as a JPEG in a data URI."""
    import PIL.Image

    height, width = images[0].shape[:2]
    size = (WIDTH, max(1, round(height * WIDTH / width)))
    sheet = PIL.Image.new("RGB", (len(images) * (size[0] + GAP) - GAP, size[1]), "white")
    for i, image in enumerate(images):
        sheet.paste(PIL.Image.fromarray(image).resize(size), (i * (size[0] + GAP), 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def worst_of(
    curve: Mapping[str, Any], measure: str, images: Iterable[Image], draw: Callable[[Image, int], Sequence[Image]]
) -> dict[str, Any]:
    """The frame in which ``measure`` is lowest on one of `Scores.curves`, as a row of `Scores.pictures`. ``draw`` makes
    pictures of that frame, the i-th of the curve."""
    i = min(range(len(curve[measure])), key=curve[measure].__getitem__)
    t = curve["t"][i]
    row = {"sequence": curve["sequence"], "object": curve["object"], "frame": t, measure: curve[measure][i]}
    return {**row, "picture": beside(draw(frames_at(images, {t})[t], i))}


def worst_first(pictures: Iterable[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """As many as a report holds."""
    return sorted(pictures, key=lambda row: float(row[measure]))[:PICTURES]


class Clock:
    """Time spent inside an iterable."""

    seconds = 0.0

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - start
            yield item
