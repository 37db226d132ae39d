"""Files of flow: what is written is read, in every format; what lies is refused before memory is taken."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixeltrail.data import png16
from pixeltrail.data.flowfile import FLOW_SUFFIXES, FlowField, read_flow, write_flow
from pixeltrail.errors import InputError, ShapeError

EXACT = [".flo", ".pfm", ".npz", ".flo5"]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
numbers = st.floats(-1e9, 1e9, width=32) | st.sampled_from([0.0, -0.0, 0.5])
strange = numbers | st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e10, -1.6e9])


def needs(suffix: str) -> None:
    if suffix == ".flo5":
        pytest.importorskip("h5py")


def bits(flow: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(flow, "<f4").view(np.int32)


@pytest.mark.parametrize("suffix", EXACT)
@quick
@given(data=st.data())
def test_round_trip_is_exact(tmp_path: Path, suffix: str, data: st.DataObject):
    needs(suffix)
    size = data.draw(sizes)
    flow = data.draw(arrays(np.float32, (*size, 2), elements=strange))
    valid = data.draw(st.none() | arrays(bool, size))
    path = tmp_path / f"flow{suffix}"
    write_flow(path, flow, valid)
    read = read_flow(path)
    known = np.isfinite(flow).all(2) & (np.abs(flow) <= 1e9).all(2) & (True if valid is None else valid)
    assert np.array_equal(read.valid, known)
    assert np.array_equal(bits(read.flow[known]), bits(flow[known]))
    assert (read.flow[~known] == 0).all()
    assert read.flow.dtype == np.float32
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@quick
@given(data=st.data())
def test_kitti_rounds_and_clips(tmp_path: Path, data: st.DataObject):
    size = data.draw(sizes)
    flow = data.draw(arrays(np.float32, (*size, 2), elements=st.floats(-600, 600, width=32)))
    valid = data.draw(arrays(bool, size))
    write_flow(tmp_path / "flow.png", flow, valid)
    read = read_flow(tmp_path / "flow.png")
    assert np.array_equal(read.valid, valid)
    error = np.abs(read.flow - flow.clip(-512, 65535 / 64 - 512))
    assert error[valid].max(initial=0) <= 1 / 128


def test_kitti_code(tmp_path: Path):
    """The integers of the specification: u 64 + 2^15, v, and 1 where known."""
    write_flow(tmp_path / "flow.png", np.float32([[[1.5, -0.25], [7, 7]]]), np.array([[True, False]]))
    pixels = png16.decode((tmp_path / "flow.png").read_bytes(), 99)
    assert pixels.tolist() == [[[32768 + 96, 32768 - 16, 1], [0, 0, 0]]]


def test_middlebury_bytes(tmp_path: Path):
    """The bytes of the specification, and unknown both ways that writers have."""
    path = tmp_path / "flow.flo"
    write_flow(path, np.float32([[[1, -2], [np.nan, 0]]]))
    assert path.read_bytes() == b"PIEH" + struct.pack("<ii4f", 2, 1, 1, -2, 1e10, 1e10)
    path.write_bytes(b"PIEH" + struct.pack("<ii4f", 2, 1, 1666666752, 0, 3, 4))
    assert read_flow(path).valid.tolist() == [[False, True]]


def test_pfm_of_other_writers(tmp_path: Path):
    """Big-endian, rows from the bottom up, other white space; the third channel is nobody's."""
    path = tmp_path / "flow.pfm"
    path.write_bytes(b"PF\r\n1 2\r\n1.0\r\n" + struct.pack(">6f", 5, 6, 99, 3, 4, np.nan))
    assert read_flow(path).flow.tolist() == [[[3, 4]], [[5, 6]]]
    assert read_flow(path).valid.all()


def filtered(pixels: np.ndarray, filters: list[int]) -> bytes:
    """The rows of a PNG by the specification's formulas, byte after byte."""
    height, width, _ = pixels.shape
    raw = pixels.astype(">u2").view(np.uint8).reshape(height, -1).astype(int)
    out = bytearray()
    for y, kind in enumerate(filters):
        out.append(kind)
        for i in range(6 * width):
            a = raw[y, i - 6] if i >= 6 else 0
            b = raw[y - 1, i] if y else 0
            c = raw[y - 1, i - 6] if y and i >= 6 else 0
            paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            out.append((raw[y, i] - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
    return bytes(out)


def png(width: int, height: int, rows: bytes, *, depth: int = 16, colour: int = 2, interlace: int = 0) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    packed = zlib.compress(rows)
    pieces = [packed[: len(packed) // 2], packed[len(packed) // 2 :]]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"tEXt", b"a\0b"), *(chunk(b"IDAT", p) for p in pieces), chunk(b"IEND", b"")]
    )


@quick
@given(data=st.data())
def test_png_filters(data: st.DataObject):
    height, width = data.draw(sizes)
    pixels = data.draw(arrays(np.uint16, (height, width, 3)))
    filters = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    assert np.array_equal(png16.decode(png(width, height, filtered(pixels, filters)), 10**6), pixels)
    assert np.array_equal(png16.decode(png16.encode(pixels), 10**6), pixels)


def test_opencv_sees_the_same(real_data: Path):
    cv2 = pytest.importorskip("cv2")
    path = real_data / "flow" / "kitti" / "training" / "flow_occ" / "000000_10.png"
    how = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR
    ours = png16.decode(path.read_bytes(), 10**6)
    assert np.array_equal(ours, cv2.imread(str(path), how)[..., ::-1])
    again = cv2.imdecode(np.frombuffer(png16.encode(ours), np.uint8), how)[..., ::-1]
    assert np.array_equal(again, ours)


def test_real_files_come_back(real_data: Path, tmp_path: Path):
    """Byte for byte from .flo, whose unknown pixels others wrote; the flow itself through every other format."""
    path = next((real_data / "flow").rglob("flow/alley_1/frame_0001.flo"))
    field = read_flow(path)
    assert field.size == (436, 1024)
    write_flow(tmp_path / "again.flo", field.flow, field.valid)
    assert (tmp_path / "again.flo").read_bytes() == path.read_bytes()
    rubber = read_flow(next((real_data / "flow").rglob("RubberWhale/flow10.flo")))
    assert rubber.size == (388, 584)
    assert 0.9 < rubber.valid.mean() < 1  # the files of Middlebury do not know everything
    assert np.abs(rubber.flow).max() < 10
    kitti = read_flow(real_data / "flow" / "kitti" / "training" / "flow_occ" / "000000_10.png")
    assert kitti.size == (375, 1242)
    assert 0.1 < kitti.valid.mean() < 0.3
    for suffix in (".png", ".pfm", ".npz"):
        write_flow(tmp_path / f"kitti{suffix}", kitti.flow, kitti.valid)
        read = read_flow(tmp_path / f"kitti{suffix}")
        assert np.array_equal(read.valid, kitti.valid)
        assert np.array_equal(read.flow, kitti.flow)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        read_flow(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message


LIES = [
    (width, height)
    for width in (0, -1, 1, 2**31 - 1, -(2**31), 65536, 65537, 40000)
    for height in (0, -1, 1, 2**31 - 1, 65536, 2000)
    if (width, height) != (1, 1)
]


def lying(suffix: str, width: int, height: int) -> bytes:
    if suffix == ".flo":
        return b"PIEH" + struct.pack("<ii2f", width, height, 1, 2)
    if suffix == ".pfm":
        return b"PF\n%d %d\n-1\n" % (width, height) + bytes(12)
    if suffix == ".png":
        return png(width % 2**32, height % 2**32, bytes(7))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "<f4", "fortran_order": False, "shape": (height, width, 2)}
        )
        archive.writestr("flow.npy", head.getvalue() + bytes(8))
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".flo", ".pfm", ".png", ".npz"])
def test_lying_headers_cost_nothing(tmp_path: Path, suffix: str):
    path = tmp_path / f"lie{suffix}"
    path.write_bytes(lying(suffix, 1, 1))
    read_flow(path)  # the same file, telling the truth
    for width, height in LIES:
        path.write_bytes(lying(suffix, width, height))
        tracemalloc.start()
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".flo", ".pfm", ".png", ".npz", ".flo5"])
def test_cut_and_too_long(tmp_path: Path, suffix: str):
    needs(suffix)
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    write_flow(whole, np.zeros((5, 7, 2), np.float32))
    content = whole.read_bytes()
    for length in [*range(min(64, len(content))), *range(64, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path)
    if suffix in (".flo", ".pfm"):
        path.write_bytes(content + b"\0")
        refused(path, "is too long")
        path.write_bytes(content[:-1])
        refused(path, "is cut off: 7x5 pixels need")


@pytest.mark.parametrize("suffix", [".flo", ".pfm", ".png", ".npz", ".flo5"])
def test_fuzz(tmp_path: Path, suffix: str):
    """Bytes changed, removed, repeated: flow or one line, and nothing else."""
    needs(suffix)
    random = np.random.default_rng(0)
    path = tmp_path / f"fuzz{suffix}"
    write_flow(path, random.normal(size=(6, 8, 2)).astype(np.float32))
    content = path.read_bytes()
    read = 0
    for _ in range(400):
        bad = bytearray(content)
        for at in random.integers(0, len(bad), random.integers(1, 4)):
            match random.integers(4):
                case 0:
                    bad[at] = random.integers(256)
                case 1:
                    bad[at] ^= 1 << random.integers(8)
                case 2:
                    del bad[at : at + random.integers(1, 9)]
                case _:
                    bad[at:at] = bad[at : at + random.integers(1, 9)]
            if not bad:
                break
            at = at % len(bad)
        path.write_bytes(bad)
        try:
            assert np.isfinite(read_flow(path).flow).all()
            read += 1
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert read < 400


def test_bombs_and_pickles(tmp_path: Path):
    path = tmp_path / "flow.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (8, 8, 2)})
        archive.writestr("flow.npy", head.getvalue() + bytes(50_000_000))
    tracemalloc.start()
    refused(path, "another length")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    np.savez(path, flow=np.array([[[{}, {}]]], object))
    refused(path, "expected numbers")
    np.savez(path, flow=np.zeros((2, 3, 3)))
    refused(path, "expected (H, W, 2)")
    np.savez(path, flow=np.zeros((2, 3, 2)), valid=np.ones((3, 2), bool))
    refused(path, "valid of shape (3, 2)")
    np.savez(path, other=np.zeros((2, 3, 2)))
    refused(path, "no array named flow")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("flow.npy", b"")
    refused(path, "unusual compression")


def test_npz_of_numpy(tmp_path: Path):
    """As np.savez writes it: any float, integers, either order, with and without a mask."""
    flow = np.arange(12).reshape(2, 3, 2)
    for other in (flow, flow.astype(">f8"), np.asfortranarray(flow.astype(np.float16))):
        np.savez_compressed(tmp_path / "flow.npz", flow=other)
        assert np.array_equal(read_flow(tmp_path / "flow.npz").flow, flow)
    np.savez(tmp_path / "flow.npz", flow=flow, valid=np.array([[0, 255, 1], [1, 0, 1]], np.uint8))
    assert read_flow(tmp_path / "flow.npz").valid.tolist() == [[False, True, True], [True, False, True]]


def test_other_pngs_are_named(tmp_path: Path):
    path = tmp_path / "flow.png"
    for content, word in (
        (png(1, 1, bytes(4), depth=8), "8 bits"),
        (png(1, 1, bytes(3), colour=0), "colour type 0"),
        (png(1, 1, bytes(7), interlace=1), "interlaced"),
        (png(1, 1, b"\x05" + bytes(6)), "row filter 5"),
        (png(1, 2, bytes(7)), "fewer rows"),
        (png(1, 1, bytes(14)), "more rows"),
        (png(1, 1, bytes(7))[:-20] + bytes(20), "checksum"),
        (b"GIF89a", "is no PNG"),
    ):
        path.write_bytes(content)
        refused(path, word)


def test_hdf5_of_others(tmp_path: Path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "flow.flo5"

    def made(**settings: object) -> Path:
        with h5py.File(path, "w") as file:
            file.create_dataset("flow", **settings)
        return path

    flow = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
    assert np.array_equal(read_flow(made(data=flow, compression="gzip")).flow, flow)
    refused(made(data=np.zeros((2, 3))), "expected (H, W, 2)")
    refused(made(data=np.zeros((2, 3, 2), np.int32)), "expected (H, W, 2)")
    refused(made(data=flow, compression="lzf"), "unusual compression")
    refused(made(shape=(4000, 4000, 2), dtype="f4", chunks=True), "too many for its length")
    refused(made(shape=(90000, 4, 2), dtype="f4"), "90000 pixels")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = flow
    with h5py.File(path, "w") as file:
        file["flow"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
    refused(path, "no data set named flow")
    made(shape=(2, 3, 2), dtype="f2", external=[(str(tmp_path / "other.h5"), 0, 24)])
    refused(path, "in other files")
    with h5py.File(path, "w") as file:
        file.create_group("flow")
    refused(path, "no data set named flow")


def test_hdf5_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "flow.flo5"
    with pytest.raises(InputError, match=r"pixeltrail\[hdf5\]"):
        write_flow(path, np.zeros((2, 2, 2), np.float32))
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"\x89HDF")
    with pytest.raises(InputError, match=r"pixeltrail\[hdf5\]"):
        read_flow(path)


def test_refusals(tmp_path: Path):
    flow = np.zeros((2, 3, 2), np.float32)
    refused(tmp_path / "missing.flo", "does not exist")
    (tmp_path / "folder.flo").mkdir()
    refused(tmp_path / "folder.flo", "is a folder")
    refused(tmp_path / "flow.jpg", "'.jpg'", *FLOW_SUFFIXES)
    refused(tmp_path / "flow", "without suffix")
    (tmp_path / "text.flo").write_text("PIEC of text")
    refused(tmp_path / "text.flo", "PIEH")
    (tmp_path / "one.pfm").write_bytes(b"Pf\n1 1\n-1\n" + bytes(4))
    refused(tmp_path / "one.pfm", "one channel")
    before = sorted(tmp_path.iterdir())
    for bad in (flow[..., :1], flow[0], flow.astype(str), np.zeros((0, 3, 2), np.float32)):
        with pytest.raises(ShapeError):
            write_flow(tmp_path / "new.flo", bad)
    with pytest.raises(ShapeError, match="valid: expected"):
        write_flow(tmp_path / "new.flo", flow, np.ones((3, 2), bool))
    with pytest.raises(InputError, match="cannot be written"):
        write_flow(tmp_path / "no" / "new.flo", flow)
    with pytest.raises(InputError, match=r"'\.gif'"):
        write_flow(tmp_path / "new.gif", flow)
    with pytest.raises(ShapeError):
        FlowField(flow.astype(np.float64), np.ones((2, 3), bool))
    with pytest.raises(ShapeError):
        FlowField(flow, np.ones((2, 3), np.uint8))
    assert sorted(tmp_path.iterdir()) == before
