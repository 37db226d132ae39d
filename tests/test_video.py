"""Frames in and videos out: every source gives the same frames by the same index."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from pixeltrail.data.files import atomic, remove_leftovers, require_writable_folder, write_text
from pixeltrail.data.images import natural_key, read_image, write_image
from pixeltrail.data.seek import Seeker
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.errors import DamagedInputError, DiskError, InputError
from videos import SHORT, encode, images, pattern, refused

# What comes out


@pytest.mark.parametrize("name", [SHORT, "opencv-samples-box.mp4", "davis-train-swing.mp4"])
def test_frame_k_is_the_same_from_any_start(real_data: Path, name: str) -> None:
    source = open_frames(real_data / "clips" / name)
    sequential = [hash(frame.image.tobytes()) for frame in source]
    assert len(sequential) == source.count
    for k in (1, 7, len(sequential) - 1, len(sequential) + 3):
        later = list(source.frames(start=k))
        assert [hash(frame.image.tobytes()) for frame in later] == sequential[k:]
        assert [frame.index for frame in later] == list(range(k, len(sequential)))
    assert source.damage == []


def test_clean_videos_have_no_damage(real_data: Path) -> None:
    for path in [*sorted((real_data / "clips").glob("davis-train-m*.mp4")), *sorted(real_data.glob("boxes/*/*.mpg"))]:
        source = open_frames(path)
        frames = list(source)
        assert frames[0].image.shape == (*source.size, 3)
        assert frames[5].name == "00005"
        assert not source.damage


@pytest.mark.parametrize(("suffix", "tolerance"), [(".mp4", 4), (".webm", 5), (".gif", 5)])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_written_video_reads_back(tmp_path: Path, suffix: str, tolerance: float, size: tuple[int, int]) -> None:
    path = tmp_path / f"video{suffix}"
    sent = [pattern(i, *size) for i in range(12)]
    with VideoWriter(path, 25, size) as writer:
        for image in sent:
            writer.write(image)
        assert not path.exists()
    source = open_frames(path)
    got = [frame.image for frame in source]
    height, width = size if suffix == ".gif" else (48, 64)
    assert source.size == (height, width)
    assert source.fps == pytest.approx(25)
    assert len(got) == 12
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for a, b in zip(sent, got, strict=True):
        assert np.abs(a.astype(int) - b[: size[0], : size[1]]).mean() < tolerance
    if (height, width) != size:  # the padding repeats the border
        assert np.abs(got[3][:, -1].astype(int) - got[3][:, -2]).mean() < 6


def test_the_writer_makes_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 30, (47, 63)) as writer:
        writer.write(pattern(0, 47, 63))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # faststart
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 1  # BT.709, and said so


@pytest.mark.parametrize(("codec", "pixels", "name"), [
    ("ffv1", "yuv420p10le", "ten-bit.mkv"), ("ffv1", "gbrp16le", "sixteen-bit.mkv"), ("ffv1", "bgra", "alpha.mkv"),
    ("ffv1", "yuv444p", "444.mkv"), ("ffv1", "gray", "grey.mkv"), ("libx265", "yuv420p10le", "hevc.mp4"),
    ("mjpeg", "yuvj420p", "full-range.avi"), ("mpeg2video", "yuv420p", "old.mpg"),
])  # fmt: skip
def test_every_depth_and_layout_becomes_8_bit_rgb(tmp_path: Path, codec: str, pixels: str, name: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    sent = [pattern(i) for i in range(5)]
    source = open_frames(encode(tmp_path / name, codec, pixels, sent))
    got = [frame.image for frame in source]
    assert len(got) == 5
    for a, b in zip(sent, got, strict=True):
        assert b.dtype == np.uint8
        wanted = a.astype(int) if pixels != "gray" else a @ np.array([0.299, 0.587, 0.114])[:, None] + np.zeros(3)
        assert np.abs(wanted - b).mean() < 4


def test_variable_frame_rate_keeps_every_frame_and_its_time(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 40]
    path = encode(tmp_path / "vfr.mp4", "libx264", "yuv420p", [pattern(i) for i in range(6)], times)
    frames = list(open_frames(path))
    assert [frame.time for frame in frames] == pytest.approx([t / 25 for t in times])
    assert np.diff([frame.image[..., 2].mean() for frame in frames]) == pytest.approx([8] * 5, abs=2)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_display_matrix_is_applied_once(tmp_path: Path, quarters: int, mirror: bool) -> None:
    path, stored = tmp_path / "phone.mp4", pattern(3)
    stored[:12, :16] = 230  # a corner that tells all eight ways apart
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(90 * quarters, hflip=mirror)  # counter-clockwise, then mirrored
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    upright = np.rot90(stored, quarters)
    if mirror:
        upright = upright[:, ::-1]
    source = open_frames(path)
    (image,) = [frame.image for frame in source]
    assert source.size == image.shape[:2] == upright.shape[:2]
    assert np.abs(image.astype(int) - upright).mean() < 4


def test_the_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(pattern(0, 32, 32), format="rgb24")))
        container.mux(cover.encode(None))
        for i in range(4):
            container.mux(film.encode(av.VideoFrame.from_ndarray(pattern(i), format="rgb24")))
        container.mux(film.encode(None))
    assert [image.shape for image in images(path)] == [(48, 64, 3)] * 4


def test_a_trimmed_video_is_not_damaged(real_data: Path, tmp_path: Path) -> None:
    """An edit list leaves frames out on purpose."""
    content = bytearray((real_data / "clips" / SHORT).read_bytes())
    at = content.index(b"elst") + 12
    (duration,) = struct.unpack_from(">I", content, at)
    struct.pack_into(">I", content, at, duration // 2)
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(content)
    source = open_frames(path)
    count = sum(1 for _ in source)
    assert 30 <= count <= 40
    assert not source.damage
    assert Seeker(source).count() == count


# Folders


def test_a_folder_with_gaps_comes_in_natural_order(tmp_path: Path) -> None:
    for i in (10, 0, 100, 5, 95):
        write_image(tmp_path / f"frame{i}.png", pattern(i // 10))
    (tmp_path / ".hidden.png").write_text("not a frame")
    (tmp_path / "notes.txt").write_text("not a frame")
    for source in (open_frames(tmp_path), open_frames(tmp_path / "frame*.png"), open_frames(str(tmp_path / "*.p?g"))):
        assert source.count == 5
        assert [frame.name for frame in source] == ["frame0", "frame5", "frame10", "frame95", "frame100"]
        assert [frame.index for frame in source.frames(start=3)] == [3, 4]
    assert (images(tmp_path)[3] == pattern(9)).all()


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "a1b", "a", "10", "9", "a02"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a1b", "a02", "a2", "a10", "b1"]


def test_images_turn_by_exif_and_keep_their_depth(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    PIL.Image.fromarray(pattern(1)).save(tmp_path / "phone.png", exif=exif)
    assert (read_image(tmp_path / "phone.png") == np.rot90(pattern(1), -1)).all()
    assert open_frames(tmp_path).size == (64, 48)
    grey = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    PIL.Image.fromarray(grey).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png")[..., 0].ravel() == np.arange(256)).all()
    rgba = np.dstack([pattern(2), np.zeros((48, 64), np.uint8)])
    PIL.Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path / "alpha.png") == pattern(2)).all()


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no frames")
    refused(tmp_path / "*.jpg", "no frames")
    write_image(tmp_path / "0.png", pattern(0))
    write_image(tmp_path / "1.png", pattern(0, 40, 64))
    with pytest.raises(InputError, match=r"1\.png: is 64x40 but the first frame is 64x48"):
        open_frames(tmp_path)
    (tmp_path / "1.png").unlink()
    write_image(tmp_path / "0.jpg", pattern(0))
    with pytest.raises(InputError, match="same name '0'"):
        open_frames(tmp_path)


def test_a_folder_is_read_up_to_its_damaged_frame(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / f"{i}.png", np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8))
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    source, seen = open_frames(tmp_path), []
    with pytest.raises(DamagedInputError, match=r"frame 2: .*2\.png"):
        seen.extend(frame.index for frame in source)
    assert seen == [0, 1]
    assert source.damage[0][0] == 2


# Writing


def test_a_failed_video_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        with VideoWriter(path, 25, (48, 64)) as writer:
            writer.write(pattern(0))
            writer.write(pattern(0, 40, 64))

    for suffix in (".mp4", ".webm", ".gif"):
        with pytest.raises(InputError, match="frame 1: is 64x40, expected 64x48"):
            fail(tmp_path / f"video{suffix}")
    with pytest.raises(InputError, match="suffix"):
        VideoWriter(tmp_path / "video.xyz", 25, (48, 64))
    with pytest.raises(InputError, match="not one frame"), VideoWriter(tmp_path / "video.mp4", 25, (48, 64)):
        pass
    for fps in (0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="frames per second"):
            VideoWriter(tmp_path / "video.mp4", fps, (48, 64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png", ".txt"])
def test_a_full_disk_is_a_disk_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    (tmp_path / f"out{suffix}.part").symlink_to("/dev/full")

    def write() -> None:
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
        if suffix == ".png":
            write_image(path, noise)
        elif suffix == ".txt":
            write_text(path, "text" * 10000)
        else:
            with VideoWriter(path, 25, (240, 320)) as writer:
                for _ in range(20):
                    writer.write(noise)

    with pytest.raises(DiskError, match=r"no space left .*free") as caught:
        write()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def interrupt() -> None:
        with atomic(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert path.read_text() == "old"
    with pytest.raises(FileNotFoundError), atomic(path):
        (tmp_path / "other.txt").read_text()  # not about this file
    (tmp_path / "killed.mp4.part").touch()
    assert remove_leftovers(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    assert require_writable_folder(tmp_path / "a" / "b").is_dir()
    with pytest.raises(InputError, match="cannot be written"):
        require_writable_folder(path / "inside-a-file")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "missing" / "note.txt", "text")
    shutil.rmtree(tmp_path / "a")
