"""``pixeltrail flow``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Device, Method, OptionalFile, Settings, Threads, prepared, progress_bar
from pixeltrail.errors import InputError

if TYPE_CHECKING:
    from pixeltrail.evaluation.flow import FlowScore
    from pixeltrail.flow_methods import FlowMethod
    from pixeltrail.jobs.flow_pair import Style

FLOW_FILES = (".flo", ".pfm", ".flo5", ".npz", ".png")
IMAGES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


@dataclass(frozen=True)
class Flow:
    """Estimate how every pixel moves from one frame to the next.

    Of two images: the flow as a file and as a picture. Of a video: a folder with OUT/flow/*.flo, OUT/flow.mp4 and
    OUT/flow.json. A single file of flow is converted or drawn.
    """

    input: Positional[Path]
    """The first image; or a video, a folder of frames, a glob ("frames/*.jpg"), a GIF; or a file of flow."""
    second: Positional[Annotated[Path | None, arg(help_behavior_hint="")]] = None
    """The second image."""
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """File for the flow (.flo, .png as KITTI's, .pfm, .npz, .flo5); folder for the results of a video."""
    picture: OptionalFile = None
    """Also draw the flow between two images, .png or .jpg."""
    method: Method = "default"
    """default (learned), farneback, dis, tvl1, a .safetensors file of a flow network or tracker, tracker, or a method's
    name; lk: corners only, of two images, by Lucas and Kanade, as a .csv."""
    refine: Annotated[bool, arg(help_behavior_hint="")] = False
    """Polish the flow by variational refinement."""
    still: Annotated[float, arg(metavar="GREY", help_behavior_hint="(default: off)")] = 0.0
    """Zero flow where the frames differ by less than this many grey levels on average."""
    set: Settings = ()
    """Change one setting of the method (winsize=21, preset=fast, ...); may be given several times."""
    truth: OptionalFile = None
    """The true flow between two images: print how far off the flow is; the picture shows flow, truth and error."""
    format: Literal["flo", "png", "pfm", "npz", "flo5"] = "flo"
    """Format of the flow of a video."""
    colour: Literal["wheel", "hsv", "arrows", "warped"] = "wheel"
    """How flow is drawn; warped: as the second frame, brought onto the first."""
    scale: Annotated[float | None, arg(metavar="PIXELS", help_behavior_hint="(default: by the flow itself)")] = None
    """Motion drawn at full strength."""
    beside: Annotated[bool, arg(help_behavior_hint="")] = False
    """Draw flow beside the frames."""
    stride: Annotated[int, arg(metavar="N")] = 1
    """Use every N-th frame of a video."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with an interrupted video."""
    video: Annotated[bool, arg(help_behavior_hint="")] = True
    """Write no OUT/flow.mp4."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    @property
    def resumable(self) -> bool:
        return self.out is not None and (self.out / ".flow-job" / "settings.json").is_file()

    def run(self) -> int:
        if self.still < 0:
            raise InputError(f"--still {self.still}: expected a number of grey levels, 0 or more")
        if self.second is not None:
            return self._pair(self.second)
        suffix = self.input.suffix.lower()
        if self.input.is_file() and (suffix in IMAGES or (suffix == ".png" and not self._deep())):
            raise InputError(f"{self.input}: is one image; name the second one after it")
        if self.input.is_file() and suffix in FLOW_FILES:
            from pixeltrail.jobs.flow_pair import convert_flow

            score = convert_flow(self.input, self.out, self.picture, style=self._style(), truth=self.truth)
            return self._say(score)
        return self._film()

    def _deep(self) -> bool:
        """Whether a PNG has 16 bits, as KITTI's flow, or is damaged beyond telling."""
        with open(self.input, "rb") as file:
            head = file.read(25)
        return len(head) < 25 or head[24] == 16

    def _pair(self, second: Path) -> int:
        from pixeltrail.jobs.flow_pair import flow_of_pair

        if self.method == "lk":
            return self._corners(second)
        style = self._style()
        score = flow_of_pair(self._method(), self.input, second, self.out, self.picture, style=style, truth=self.truth)
        return self._say(score)

    def _corners(self, second: Path) -> int:
        from pixeltrail.jobs.flow_sparse import sparse_flow_of_pair
        from pixeltrail.training.run import parse_set

        if self.truth is not None or self.refine or self.still:
            raise InputError(
                "--method lk: follows corners only; --truth, --refine and --still need dense flow, such as dis"
            )
        found, total = sparse_flow_of_pair(
            self.input, second, self.out, self.picture, settings=parse_set(self.set), scale=self._style().scale
        )
        print(f"{found} of {total} corners found again -> {', '.join(str(p) for p in (self.out, self.picture) if p)}")
        return 0

    def _say(self, score: FlowScore | None) -> int:
        if score is not None:
            off = ", ".join(f"{limit} px: {score[name]:.1f} %" for limit, name in ((1, "1px"), (3, "3px")))
            print(f"EPE {score['EPE']:.3f} px, off by more than {off}")
        if self.out or self.picture:
            print(f"flow -> {', '.join(str(path) for path in (self.out, self.picture) if path)}")
        return 0

    def _style(self) -> Style:
        from pixeltrail.jobs.flow_pair import Style

        return Style(self.colour, self.scale, self.beside)

    def _film(self) -> int:
        from pixeltrail.data.video import open_frames

        if self.out is None:
            raise InputError("flow: give --out FOLDER for the flow of a video")
        if self.picture is not None:
            raise InputError("--picture: is for two images; a video's flow is drawn in flow.mp4")
        if self.method == "lk":
            raise InputError("--method lk: follows corners of two images; for a video, track --points --method dis")
        if self.truth is not None:
            raise InputError("--truth: is for two images; a data set is scored by pixeltrail evaluate flow")
        if self.out.is_file():
            raise InputError(f"{self.out}: is a file; name a folder for the flow of a video")
        source = open_frames(self.input)
        from pixeltrail.jobs.flow import flow_of_video

        with progress_bar() as show:
            summary = flow_of_video(
                self._method(), source, self.out, settings=self._settings(), format=self.format, stride=self.stride,
                style=self._style(), with_video=self.video, resume=self.resume, on_frame=show,
            )  # fmt: skip
        print(f"{summary.frames} pairs -> {self.out}")
        if summary.problem:
            raise summary.problem
        return 0

    def _settings(self) -> dict[str, Any]:
        from pixeltrail.flow_methods import weights_of
        from pixeltrail.training.run import parse_set
        from pixeltrail.weights import digest

        file = weights_of(self.method)
        said = {"method": self.method, "weights": digest(file) if file else None, "refine": self.refine}
        chosen = {"settings": parse_set(self.set)} if self.set else {}
        return {**said, "still": self.still, **chosen}

    def _method(self) -> FlowMethod:
        from pixeltrail.flow_methods import flow_method, polished
        from pixeltrail.training.run import parse_set

        method = flow_method(self.method, device=prepared(self.device, self.threads), **parse_set(self.set))
        return polished(method, refine=self.refine, still=self.still)
