"""``pixeltrail evaluate youtube-vos | vip | jhmdb | badja | tapvid | boxes``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pixeltrail.cli.scoring import Names, Scoring, names
from pixeltrail.cli.shared import OptionalFile, OptionalFolder, progress_bar
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class YouTubeVosTask(Scoring):
    """YouTube-VOS: J and F of seen and unseen categories, and their mean, on a split with masks; or a zip for the server."""

    root: Positional[Path]
    """A split's folder, with JPEGImages/, Annotations/ and meta.json."""
    sequences: Names = ""
    """Videos, separated by commas, or a file with one name a line."""
    seen: OptionalFile = None
    """Categories that were seen in training: the meta.json of the training split, or a file with one a line. Without
    it, all count as seen."""
    submission: OptionalFile = None
    """Also write the masks as a zip for the evaluation server."""

    def run(self) -> int:
        from contextlib import ExitStack

        from pixeltrail.data.youtubevos import YouTubeVos, read_categories, submission
        from pixeltrail.evaluation.youtubevos import evaluate_youtubevos

        self.check()
        dataset = YouTubeVos(self.root, names(self.sequences))
        seen = read_categories(self.seen) if self.seen else None
        with progress_bar() as show, ExitStack() as stack:
            made = self.contender()
            write = stack.enter_context(submission(self.submission)).add if self.submission else None
            report = evaluate_youtubevos(
                made.masks, dataset, seen=seen, write=write, on_frame=show, settings=made.settings
            )
        return self.finish(report)


@dataclass(frozen=True)
class VipTask(Scoring):
    """VIP: mean intersection over union of 20 classes of parts of people."""

    root: Positional[Path]
    """The data set's folder, with Images/, Annotations/Category_ids/ and lists/."""
    sequences: Names = ""
    """Videos, separated by commas, or a file with one name a line."""
    size: int = 560
    """Side of the square to which frames are squashed, as published; 0: as they are."""

    def run(self) -> int:
        from pixeltrail.data.vip import CLASSES, Vip
        from pixeltrail.evaluation.parsing import evaluate_parsing

        self.check()
        if self.size < 0:
            raise InputError(f"--size {self.size}: expected a number of pixels, or 0")
        dataset = Vip(self.root, names(self.sequences))
        with progress_bar() as show:
            made = self.contender(own_size=self.size > 0)
            report = evaluate_parsing(
                made.masks,
                dataset,
                CLASSES,
                size=self.size,
                on_frame=show,
                settings={**made.settings, "size": self.size},
            )
        return self.finish(report)


@dataclass(frozen=True)
class JhmdbTask(Scoring):
    """JHMDB: percentage of correct keypoints (PCK) of 15 joints, by the person's size in two ways."""

    root: Positional[Path]
    """The data set's folder, with Rename_Images/, joint_positions/ and splits/."""
    split: Literal[1, 2, 3] = 1
    """Whose test clips."""

    def run(self) -> int:
        from pixeltrail.data.jhmdb import Jhmdb
        from pixeltrail.evaluation.jhmdb import evaluate_jhmdb

        self.check()
        dataset = Jhmdb(self.root, split=self.split)
        with progress_bar() as show:
            made = self.contender(own_size=True)
            settings = {**made.settings, "split": self.split}
            report = evaluate_jhmdb(made.points, dataset, clip_count=len(dataset), on_frame=show, settings=settings)
        return self.finish(report)


@dataclass(frozen=True)
class BadjaTask(Scoring):
    """BADJA: percentage of correct keypoints (PCK) on animals, by their area and by pixels."""

    root: Positional[Path]
    """The folder of the JSON files, or one with joint_annotations/."""
    frames: OptionalFolder = None
    """A DAVIS folder with the frames and masks (default: ROOT/DAVIS or ROOT)."""
    sequences: Names = ""
    """Videos, separated by commas, or a file with one name a line."""

    def run(self) -> int:
        from pixeltrail.data.badja import Badja
        from pixeltrail.evaluation.badja import evaluate_badja
        from pixeltrail.visual.overlay import draw_points

        self.check()
        dataset = Badja(self.root, names(self.sequences), frames=self.frames)
        if dataset.skipped:
            print(f"without frames, left out: {', '.join(dataset.skipped)}")
        with progress_bar() as show:
            made = self.contender()
            draw = draw_points if self.shown else None
            report = evaluate_badja(made.points, dataset, on_frame=show, settings=made.settings, draw=draw)
        return self.finish(report)


@dataclass(frozen=True)
class TapVidTask(Scoring):
    """TAP-Vid: average Jaccard, points within 1 to 16 pixels of 256, and occlusion accuracy."""

    root: Positional[Path]
    """A .pkl file as published, an .npz file, or a folder of them."""
    mode: Literal["first", "strided"] = "first"
    """Queries: each point's first visible frame, or every fifth frame."""
    confident: Annotated[float, arg(metavar="C")] = 0.5
    """Points of less confidence are predicted to be occluded."""

    def run(self) -> int:
        from pixeltrail.data.tapvid import TapVid
        from pixeltrail.evaluation.tapvid import evaluate_tapvid

        self.check()
        dataset = TapVid(self.root)
        with progress_bar() as show:
            made = self.contender(own_size=True)
            report = evaluate_tapvid(
                made.points, dataset, mode=self.mode, confident=self.confident, on_frame=show, settings=made.settings
            )
        return self.finish(report)


@dataclass(frozen=True)
class BoxesTask(Scoring):
    """Boxes, in the layouts of OTB, VOT and TLD: success AUC and precision; accuracy and robustness."""

    root: Positional[Path]
    """The folder of the sequences, or one sequence."""
    sequences: Names = ""
    """Names separated by commas, or a file with one name a line."""
    restarts: Annotated[bool, arg(help_behavior_hint="")] = True
    """One pass only: leave VOT's measures out, for which a tracker is begun again after failures."""

    def run(self) -> int:
        from pixeltrail.data.boxes import BoxSequences
        from pixeltrail.evaluation.boxes import by_masks, evaluate_boxes
        from pixeltrail.visual.overlay import draw_boxes

        self.check()
        dataset = BoxSequences(self.root, names(self.sequences))
        with progress_bar() as show:
            made = self.contender()
            report = evaluate_boxes(
                by_masks(made.masks),
                dataset,
                restarts=self.restarts,
                on_frame=show,
                settings=made.settings,
                draw=draw_boxes if self.shown else None,
            )
        return self.finish(report)
