"""Files of optical flow: ``.flo`` (Middlebury), ``.png`` (KITTI), ``.pfm``, ``.flo5`` (Spring) and ``.npz``.

Every file is hostile until its header and its length agree: sizes are compared before memory is taken, nothing is
unpickled. Values that are no number, infinite, or of a size above 1e9 are unknown, in every format.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from pixeltrail.data import png16
from pixeltrail.data.files import one_line, write_bytes
from pixeltrail.data.images import MAX_PIXELS
from pixeltrail.errors import InputError, ShapeError

Flow = NDArray[np.float32]
"""(H, W, 2) float32 in pixels: dx to the right, dy down; first(x) ~ second(x + flow(x))."""
Mask = NDArray[np.bool_]
"""(H, W) bool."""

UNKNOWN = 1e9
"""Flow of a larger size, or not a number, is unknown (Middlebury)."""

_KITTI_SCALE, _KITTI_ZERO = 64.0, 32768.0
_UNKNOWN_FLO = 1e10  # what writers of .flo put where flow is unknown
_FLO_MAGIC = b"PIEH"  # the float 202021.25
_PFM_HEADER = re.compile(rb"P([Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?[0-9.]{1,20}(?:[eE][-+]?\d{1,3})?)(?:\r\n|\s)")


@dataclass(frozen=True, slots=True, eq=False)
class FlowField:
    """Flow and where it is known. ``flow`` (H, W, 2) float32 in pixels, 0 where unknown; ``valid`` (H, W) bool."""

    flow: Flow
    valid: Mask

    def __post_init__(self) -> None:
        f, v = self.flow, self.valid
        if f.ndim != 3 or f.shape[2] != 2 or f.dtype != np.float32 or min(f.shape) < 1:
            raise ShapeError(f"FlowField.flow: expected (H, W, 2) float32 with H, W >= 1, got {f.dtype} {f.shape}")
        if v.shape != f.shape[:2] or v.dtype != np.bool_:
            raise ShapeError(f"FlowField.valid: expected {f.shape[:2]} bool, got {v.dtype} {v.shape}")

    @classmethod
    def of(cls, flow: ArrayLike, valid: NDArray[Any] | None = None) -> FlowField:
        """From (H, W, 2) numbers and the (H, W) mask of what is known: everything by default. What is no number,
        infinite or larger than 1e9 is unknown in any case. Raises ShapeError."""
        values = np.asarray(flow)
        if values.ndim != 3 or values.shape[2] != 2 or values.dtype.kind not in "fiu":
            raise ShapeError(f"flow: expected (H, W, 2) numbers, got {values.dtype} {values.shape}")
        with np.errstate(invalid="ignore"):  # some not-a-numbers complain when compared
            known = (np.abs(values, dtype=np.result_type(values, np.float32)) <= UNKNOWN).all(2)  # false for them
        if valid is not None:
            if valid.shape != known.shape:
                raise ShapeError(f"valid: expected {known.shape}, got {valid.shape}")
            known &= valid.astype(bool)
        return cls(np.where(known[..., None], values, 0).astype(np.float32), known)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.valid.shape[0], self.valid.shape[1]


def read_flow(path: str | Path) -> FlowField:
    """Read a file of flow, its format by the suffix: .flo, .png (KITTI's 16 bits), .pfm, .flo5 or .npz.

    ``.flo5`` is given as it is stored: the ground truth of Spring has four values for each pixel of its images, in pixels
    of the images (see ``flowsets.spring``). ``.npz`` holds ``flow`` (H, W, 2) and may hold ``valid`` (H, W).
    Raises InputError for a file that is missing, cut off, damaged, larger than it can be or of another format; for .flo5
    also where h5py is not installed.
    """
    path = Path(path)
    parse, _ = _format(path)
    try:
        if path.stat().st_size > MAX_PIXELS * 12 + 4096:
            raise ValueError(f"is larger than flow of {MAX_PIXELS / 1e6:.0f} million pixels")
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file of flow in it") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {one_line(error)}; a whole {path.suffix} file of optical flow is needed") from None


def write_flow(path: str | Path, flow: ArrayLike, valid: NDArray[Any] | None = None) -> None:
    """Write (H, W, 2) flow in pixels in the format of the suffix (see `read_flow`), or nothing.

    ``valid`` (H, W): where it is known; by default wherever it is finite and at most 1e9. Unknown is written as 1e10 in
    .flo, as not-a-number in .pfm and .flo5, as KITTI's third channel and as .npz's ``valid``. All formats keep float32 but
    .png: it rounds to 1/64 pixel and clips to [-512, 512). Raises ShapeError, InputError and DiskError.
    """
    path = Path(path)
    _, pack = _format(path)
    field = FlowField.of(flow, valid)
    write_bytes(path, pack(field))


def _size(width: int, height: int) -> tuple[int, int]:
    """(height, width), if flow may be of that size."""
    if not (0 < width <= png16.MAX_SIDE and 0 < height <= png16.MAX_SIDE and width * height <= MAX_PIXELS):
        raise ValueError(f"claims {width}x{height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are read")
    return height, width


def _exactly(data: bytes, wanted: int, width: int, height: int) -> None:
    if len(data) != wanted:
        how = "is cut off" if len(data) < wanted else "is too long"
        raise ValueError(f"{how}: {width}x{height} pixels need {wanted} bytes, there are {len(data)}")


def _read_flo(data: bytes) -> FlowField:
    if not data.startswith(_FLO_MAGIC):
        raise ValueError("does not begin with PIEH")
    if len(data) < 12:
        raise ValueError("is cut off")
    width, height = struct.unpack_from("<ii", data, 4)
    shape = _size(width, height)
    _exactly(data, 12 + 8 * width * height, width, height)
    return FlowField.of(np.frombuffer(data, "<f4", offset=12).reshape(*shape, 2))


def _write_flo(field: FlowField) -> bytes:
    height, width = field.size
    return _FLO_MAGIC + struct.pack("<ii", width, height) + _marked(field, _UNKNOWN_FLO).tobytes()


def _read_pfm(data: bytes) -> FlowField:
    header = _PFM_HEADER.match(data[:256])
    if header is None:
        raise ValueError("has no PFM header")
    if header[1] == b"f":
        raise ValueError("has one channel, and flow has two or three")
    width, height, scale = int(header[2]), int(header[3]), float(header[4])
    shape = _size(width, height)
    _exactly(data, header.end() + 12 * width * height, width, height)
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=header.end()).reshape(*shape, 3)
    return FlowField.of(values[::-1, :, :2])  # rows from the bottom up; the third channel is empty


def _write_pfm(field: FlowField) -> bytes:
    height, width = field.size
    values = np.zeros((height, width, 3), "<f4")
    values[::-1, :, :2] = _marked(field, np.nan)
    return b"PF\n%d %d\n-1.0\n" % (width, height) + values.tobytes()


def _read_kitti(data: bytes) -> FlowField:
    pixels = png16.decode(data, MAX_PIXELS)
    return FlowField.of((pixels[..., :2].astype(np.float32) - _KITTI_ZERO) / _KITTI_SCALE, pixels[..., 2])


def _write_kitti(field: FlowField) -> bytes:
    pixels = np.zeros((*field.size, 3), np.uint16)
    coded = np.rint(field.flow.astype(np.float64) * _KITTI_SCALE + _KITTI_ZERO).clip(0, 65535)
    pixels[..., :2] = np.where(field.valid[..., None], coded, 0)
    pixels[..., 2] = field.valid
    return png16.encode(pixels)


def _read_npz(data: bytes) -> FlowField:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            flow = _member(archive, "flow.npy", 3, "fiu")
            valid = _member(archive, "valid.npy", 2, "biu") if "valid.npy" in archive.namelist() else None
    except KeyError:
        raise ValueError("holds no array named flow") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"is damaged ({one_line(error)})") from None
    if flow.shape[2] != 2:
        raise ValueError(f"holds flow of shape {flow.shape}, expected (H, W, 2)")
    if valid is not None and valid.shape != flow.shape[:2]:
        raise ValueError(f"holds valid of shape {valid.shape} for flow of shape {flow.shape}")
    return FlowField.of(flow, valid)


def _member(archive: zipfile.ZipFile, name: str, ndim: int, kinds: str) -> NDArray[Any]:
    """An array of an .npz whose header, claimed length and compressed length agree."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"holds {name} in an unusual compression")
    with archive.open(info) as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"holds {name} in another version than NumPy's 1.0")
        try:
            shape, fortran, dtype = npy.read_array_header_1_0(stream)
        except (SyntaxError, TypeError, RecursionError, MemoryError, UnicodeError) as error:  # of Python's own parser
            raise ValueError(f"holds {name} with a damaged header ({one_line(error)})") from None
        if len(shape) != ndim or dtype.kind not in kinds or dtype.itemsize > 8:
            raise ValueError(f"holds {name} as {dtype} {shape}, expected numbers of {ndim} dimensions")
        _size(shape[1], shape[0])
        length = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if length + stream.tell() != info.file_size or info.file_size > png16.DEFLATE * (info.compress_size + 1):
            raise ValueError(f"holds {name} of another length than its header claims")
        content = stream.read(length)
    if len(content) != length:
        raise ValueError("is cut off")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _write_npz(field: FlowField) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, flow=field.flow, valid=field.valid)
    return out.getvalue()


def _read_flo5(data: bytes) -> FlowField:
    h5py = _h5py()
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            # Links and external storage could name other files of this machine.
            hard = isinstance(file.get("flow", getlink=True), h5py.HardLink)
            if not hard or not isinstance(flow := file["flow"], h5py.Dataset):
                raise ValueError("holds no data set named flow")
            if flow.is_virtual or flow.external or flow.compression not in (None, "gzip"):
                raise ValueError("keeps its flow in other files or in an unusual compression")
            if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype.kind != "f" or flow.dtype.itemsize > 8:
                raise ValueError(f"holds flow as {flow.dtype} {flow.shape}, expected (H, W, 2) numbers")
            _size(flow.shape[1], flow.shape[0])
            if flow.nbytes > png16.DEFLATE * min(len(data), flow.id.get_storage_size()):
                raise ValueError(f"claims {flow.shape[1]}x{flow.shape[0]} pixels, too many for its length")
            return FlowField.of(flow[()])
    except ValueError:
        raise
    except Exception as error:  # h5py's readers raise many kinds on damaged files
        raise ValueError(f"is damaged or no HDF5 file ({one_line(error, 80)})") from None


def _write_flo5(field: FlowField) -> bytes:
    out = io.BytesIO()
    with _h5py().File(out, "w") as file:
        file.create_dataset("flow", data=_marked(field, np.nan), compression="gzip", compression_opts=5)
    return out.getvalue()


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("h5py is not installed, and .flo5 files need it; install pixeltrail[hdf5]") from None
    return h5py


def _marked(field: FlowField, unknown: float) -> NDArray[np.float32]:
    return np.where(field.valid[..., None], field.flow, np.float32(unknown)).astype("<f4")


_Codec = tuple[Callable[[bytes], FlowField], Callable[[FlowField], bytes]]
_FORMATS: dict[str, _Codec] = {
    ".flo": (_read_flo, _write_flo),
    ".pfm": (_read_pfm, _write_pfm),
    ".flo5": (_read_flo5, _write_flo5),
    ".npz": (_read_npz, _write_npz),
    ".png": (_read_kitti, _write_kitti),  # last: a picture of the flow may stand beside it
}
FLOW_SUFFIXES = tuple(_FORMATS)


def _format(path: Path) -> _Codec:
    if path.suffix.lower() not in _FORMATS:
        named = repr(path.suffix) if path.suffix else "a file without suffix"
        raise InputError(f"{path}: flow is not kept in {named}; there are {', '.join(FLOW_SUFFIXES)}")
    return _FORMATS[path.suffix.lower()]
