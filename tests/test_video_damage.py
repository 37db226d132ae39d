"""Damaged and malicious videos: one line of error, no frame that cannot be trusted, and no file can do harm."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from pixeltrail.data.images import read_image, write_image
from pixeltrail.data.video import open_frames
from pixeltrail.errors import DamagedInputError, InputError
from videos import SHORT, encode, images, pattern, refused


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
