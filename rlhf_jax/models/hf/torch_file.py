"""Reader of PyTorch checkpoints (`.bin`, `.pt`) without PyTorch: a flat dict of tensors, as torch.save writes it.

Such a file is a zip archive of uncompressed records: `data.pkl`, a pickle that describes the tensors, and one record
`data/<key>` of raw bytes for each storage that they view. A pickle is a program, and a file from the hub is not
trusted. `safe_pickle` therefore allows only the globals that describe tensors, and none of them is torch's.
"""

import functools
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from rlhf_jax import safe_pickle
from rlhf_jax.errors import UserError

_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
}
# A description of a thousand tensors takes about 0.2 MB.
_LARGEST_PICKLE = 2**24
# NumPy's limits: axes, and elements of at most 16 bytes with empty axes left out of the count.
_MOST_AXES = 64
_MOST_ELEMENTS = 2**59 - 1
# Protocol 2 and the number with which torch.save began its files before version 1.6.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CONVERT = "load it once in torch and save its tensors as safetensors"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint. It stays in the file until it is read."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # position of the first element in the file, in bytes
    strides: tuple[int, ...]  # from one element to the next along each axis, in bytes

    def read(self) -> np.ndarray:
        """Reads only the bytes from the first element to the last. A transposed or sliced tensor is a view of them.

        Raises:
          UserError: the file has gone or been cut short since it was opened.
        """
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        steps = zip(self.shape, self.strides, strict=True)
        length = self.dtype.itemsize + sum((n - 1) * stride for n, stride in steps)
        try:
            content = np.fromfile(self.path, np.uint8, length, offset=self.start)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        if content.size < length:
            raise UserError(f"{self.path}: changed since it was opened; it is {length - content.size} bytes too short")
        return np.ndarray(self.shape, self.dtype, content, strides=self.strides)


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads the descriptions of a checkpoint's tensors by name, in the file's order. No tensor is read, no code is run.

    The file is a dict from names to tensors, written by torch.save since version 1.6 on a little-endian machine.
    Tensors that share a storage share its bytes in the file.

    Raises:
      UserError: not such a file, damaged, or with anything but dicts, tensors and parameters.
    """
    try:
        with path.open("rb") as file:
            records = _records(path, file)
            program = _content(path, file, records["data.pkl"], _LARGEST_PICKLE)
            byte_order = _content(path, file, records["byteorder"], 16) if "byteorder" in records else b"little"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if byte_order != b"little":
        raise UserError(f"{path}: the byte order is {byte_order!r}, expected b'little'; {_CONVERT}")
    checkpoint = _load(path, records, program)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds {_kind(checkpoint)}, expected a flat dict from names to tensors")
    for name, value in checkpoint.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: the entry {_shown(name)} maps {_kind(name)} to {_kind(value)}, expected str to tensor in one "
                "flat dict"
            )
    return checkpoint


def _shown(value: object) -> str:
    """Returns a value from a file, safe and short enough for a message."""
    return repr(value)[:100]


def _kind(value: object) -> str:
    return type(value).__name__.lstrip("_").lower()


@dataclass(frozen=True)
class _Record:
    """The position of a record's bytes in the file."""

    name: str
    start: int
    length: int


def _records(path: Path, file: BinaryIO) -> dict[str, _Record]:
    """Returns the records by name below the archive's one folder. None is compressed or overlaps another."""
    _check_is_zip(path, file.read(len(_LEGACY)))
    records: dict[str, _Record] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise UserError(f"{path}: a TorchScript archive, expected a dict of tensors; {_CONVERT}")
        for entry, end in zip(entries, ends, strict=True):
            file.seek(entry.header_offset)
            # A local header has 30 bytes and ends in the lengths of what follows it: a name and padding.
            signature, name, padding = struct.unpack("<4s22xHH", file.read(30))
            start = entry.header_offset + 30 + name + padding
            stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
            if not stored or signature != b"PK\x03\x04" or start + entry.file_size > end:
                raise UserError(
                    f"{path}: the record {_shown(entry.filename)} is compressed, encrypted or runs into the next; "
                    "expected plain records one after another, as torch.save writes"
                )
            if entry.filename in records:
                raise UserError(f"{path}: two records are named {_shown(entry.filename)}")
            records[entry.filename] = _Record(entry.filename, start, entry.file_size)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UserError(f"{path}: a damaged or truncated zip archive ({error})") from None
    folders = [name.removesuffix("data.pkl") for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise UserError(f"{path}: {len(folders)} folders hold a data.pkl, expected one, as torch.save writes")
    return {name.removeprefix(folders[0]): record for name, record in records.items() if name.startswith(folders[0])}


def _check_is_zip(path: Path, head: bytes) -> None:
    if head == _LEGACY:
        raise UserError(f"{path}: in the format of torch.save before version 1.6, expected a zip archive; {_CONVERT}")
    if not head.startswith(b"PK"):
        raise UserError(f"{path}: starts with {head!r}, expected a zip archive, as torch.save writes")


def _content(path: Path, file: BinaryIO, record: _Record, limit: int) -> bytes:
    if record.length > limit:
        raise UserError(f"{path}: {_shown(record.name)} has {record.length} bytes, expected at most {limit}")
    file.seek(record.start)
    return file.read(record.length)


@dataclass(frozen=True)
class _Storage:
    """A flat array in the file: position in bytes, length in elements."""

    dtype: np.dtype
    start: int
    size: int


def _load(path: Path, records: dict[str, _Record], program: bytes) -> object:
    """Makes the dicts, lists and tensors that a `data.pkl` describes."""
    names = {
        "collections.OrderedDict": lambda: {},
        "torch._utils._rebuild_tensor_v2": functools.partial(_tensor, path),
        "torch._utils._rebuild_parameter": _parameter,
        **_STORAGES,
    }
    # torch keeps the versions of its modules as attributes of an OrderedDict.
    set_state = {dict: _ignore_metadata}
    return safe_pickle.load(program, str(path), names, functools.partial(_storage, records), set_state)


def _ignore_metadata(target: dict, state: object) -> None:
    if not isinstance(state, dict):
        raise ValueError(f"the attributes of a dict are {_kind(state)}, expected dict")


def _storage(records: dict[str, _Record], identity: object) -> _Storage:
    match identity:
        case "storage", np.dtype() as dtype, str(key), str(), int(size):
            record = records.get(f"data/{key}")
        case _:
            raise ValueError("a storage is not described as torch.save does")
    if record is None:
        raise ValueError(f"the record {_shown(f'data/{key}')} is missing")
    if record.length != size * dtype.itemsize:
        raise ValueError(
            f"{_shown(record.name)} has {record.length} bytes, expected {size} of {dtype}, {dtype.itemsize} bytes each"
        )
    return _Storage(dtype, record.start, size)


def _parameter(tensor: object, requires_grad: object, hooks: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"a parameter is {_kind(tensor)}, expected tensor")
    return tensor


def _tensor(
    path: Path, storage: object, offset: object, shape: object, strides: object, requires_grad: object, hooks: object
) -> Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor views {_kind(storage)}, expected storage")
    axes = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MOST_AXES
    if not axes or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("the offset, shape or strides of a tensor are none that torch.save writes")
    count = math.prod(shape)
    if count == 0:
        fits = math.prod(max(n, 1) for n in shape) <= _MOST_ELEMENTS
    else:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # Repeated elements are no error in torch, but a small file could then ask for any amount of memory.
        fits = last < storage.size and count <= storage.size
    if not fits:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} does not fit its storage of "
            f"{storage.size} elements"
        )
    size = storage.dtype.itemsize
    steps = tuple(stride * size if n > 1 and count else 0 for n, stride in zip(shape, strides, strict=True))
    return Tensor(path, storage.dtype, shape, storage.start + offset * size, steps)
