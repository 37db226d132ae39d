"""Frames in and videos out: every source gives the same frames by the same index, and no file can do harm."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import struct
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from pixeltrail.data.files import atomic, remove_leftovers, require_writable_folder, write_text
from pixeltrail.data.images import natural_key, read_image, write_image
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.errors import DamagedInputError, DiskError, InputError

SHORT = "davis-train-tennis.mp4"  # 70 frames with B-frames


def pattern(index: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A smooth picture of its own for each index, whose brightness tells the index."""
    y, x = np.mgrid[:height, :width]
    red = 40 + 120 * x / width
    return np.stack([red, 60 + 120 * y / height, np.full_like(red, 20 + 8 * index)], -1).round().astype(np.uint8)


def encode(
    path: Path,
    codec: str,
    pixels: str,
    frames: list[NDArray[np.uint8]],
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose bytes do not depend on the number of cores: x264 writes others for one thread than for more."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 2
        if options is None:
            stream.bit_rate = 4_000_000
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def images(path: Path | str, start: int = 0) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in open_frames(path).frames(start)]


def refused(path: Path | str, *words: str) -> None:
    """Opening and reading raise InputError in one line that names the file."""
    with pytest.raises(InputError) as caught:
        list(open_frames(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert all(word in message for word in words), message


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
    assert 30 <= sum(1 for _ in source) <= 40
    assert not source.damage


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


# Damage and malice


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "missing.mp4", "does not exist")
    for name, content in (("empty.mp4", b""), ("zeros.mp4", bytes(5000)), ("text.avi", b"hello " * 100)):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    write_image(tmp_path / "single.png", pattern(0))
    refused(tmp_path / "single.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        refused(tmp_path / "pipe.mp4", "no regular file")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    refused(tmp_path / "sound.mp4", "no video stream")


def test_huge_frames_are_refused_before_decoding(tmp_path: Path) -> None:
    path = encode(tmp_path / "small.gif", "gif", "rgb8", [pattern(0)])
    content = bytearray(path.read_bytes())
    struct.pack_into("<HH", content, 6, 65000, 65000)
    path.write_bytes(content)
    refused(path)
    header = struct.pack(">II", 30000, 30000) + b"\x08\x02\x00\x00\x00"
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 100) + b"IDAT" + bytes(104))
    with pytest.raises(InputError, match="64 megapixels"):
        read_image(tmp_path / "huge.png")


@pytest.mark.skipif(sys.platform != "linux", reason="watches opened files with inotify")
@pytest.mark.parametrize("listing", [
    "ffconcat version 1.0\nfile 'target.mp4'\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ntarget.mp4\n#EXT-X-ENDLIST\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 1234 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>target.mp4</BaseURL></MPD>',
])  # fmt: skip
def test_a_text_file_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    target = encode(tmp_path / "target.mp4", "libx264", "yuv420p", [pattern(i) for i in range(3)])
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(target), 0x21) >= 0  # opened, read
        monkeypatch.chdir(tmp_path)
        for name in ("video.mp4", "video.m3u8", "video"):
            Path(name).write_text(listing)
            refused(name)
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)  # nothing happened
        target.read_bytes()
        assert os.read(watch, 4096)  # the watch works
    finally:
        os.close(watch)


def test_an_attack_on_plain_pyav_shows_that_the_list_matters(tmp_path: Path) -> None:
    encode(tmp_path / "target.mp4", "libx264", "yuv420p", [pattern(i) for i in range(3)])
    lure = tmp_path / "video.mp4"
    lure.write_text("ffconcat version 1.0\nfile 'target.mp4'\n")
    with av.open(str(lure)) as container:
        assert len(list(container.decode(video=0))) == 3
    refused(lure)


def corrupted(whole: bytes, seed: int) -> bytes:
    chance, content = random.Random(seed), bytearray(whole)
    at = chance.randrange(len(content))
    match seed % 5:
        case 0:
            for _ in range(8):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case 1:
            content[at : at + 200] = chance.randbytes(200)
        case 2:
            del content[at:]
        case 3:
            del content[at : at + chance.choice([1, 500])]
        case _:
            content[at : at + 1000] = bytes(1000)
    return bytes(content)


@pytest.mark.filterwarnings("error")
def test_corrupted_videos_raise_nothing_unexpected(
    real_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Frames handed out before the damage is noticed are the clean video's, with few exceptions."""
    frames = [np.ascontiguousarray(image[::2, ::2]) for image in images(real_data / "clips" / SHORT)[:24]]
    options = {"preset": "superfast", "crf": "21"}
    clip = encode(tmp_path / "clip.mp4", "libx264", "yuv420p", frames, options=options)
    whole, clean = clip.read_bytes(), [hash(image.tobytes()) for image in images(clip)]
    assert len(clean) == 24
    noticed = wrong = 0
    for seed in range(60):
        path = tmp_path / "broken.mp4"
        path.write_bytes(corrupted(whole, seed))
        got: list[int] = []
        try:
            source = open_frames(path)
            got.extend(hash(frame.image.tobytes()) for frame in source)
        except DamagedInputError as error:
            assert source.damage == [(len(got), source.damage[0][1])]
            noticed += 1
            message = str(error)
            assert message.startswith(f"{path}: frame {len(got)}: ")
        except InputError as error:
            noticed += 1
            message = str(error)
        else:
            message = str(path)
            assert len(got) == len(clean)  # never silently short
        assert message.startswith(str(path))
        assert "\n" not in message
        wrong += sum(a != b for a, b in zip(got, clean, strict=False))
    assert noticed >= 55
    assert wrong <= 40
    assert capfd.readouterr() == ("", "")


def test_the_same_damage_is_found_at_every_reading(real_data: Path, tmp_path: Path) -> None:
    whole = bytearray((real_data / "clips" / SHORT).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 3000] = random.Random(0).randbytes(3000)
    path = tmp_path / "hurt.mp4"
    path.write_bytes(whole)
    source, clean = open_frames(path), images(real_data / "clips" / SHORT)
    found = []
    for start in (0, 0, 5):
        got = []
        with pytest.raises(DamagedInputError, match=r"frame \d+: damaged"):
            got.extend(source.frames(start=start))
        assert all((frame.image == clean[frame.index]).all() for frame in got)
        assert got[-1].index + 1 == source.damage[0][0]
        found.append(source.damage[0])
    assert 5 < found[0][0] < 69
    assert len(set(found)) == 1


def test_a_video_cut_between_two_frames_is_named(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.avi", "mjpeg", "yuvj420p", [pattern(i) for i in range(20)])
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: positions[10] - 8])
    source = open_frames(path)
    with pytest.raises(DamagedInputError, match="frame 10: "):
        list(source)


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
