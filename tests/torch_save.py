"""PyTorch files laid out by hand as torch.save would: a pickle program of one's own, and the records beside it."""

import struct
import zipfile
from pathlib import Path

import numpy as np


class Code(bytes):
    """Pickle instructions that leave one value on the stack."""


def code(value: object) -> Code:
    """The instructions that torch.save writes for a value, less its memo."""
    match value:
        case Code():
            return value
        case bool():
            return Code(b"\x88" if value else b"\x89")
        case int():
            return Code(b"\x8a\x09" + value.to_bytes(9, "little", signed=True))
        case float():
            return Code(b"G" + struct.pack(">d", value))
        case str():
            return Code(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
        case tuple():
            return Code(b"(" + b"".join(map(code, value)) + b"t")
        case list():
            return Code(b"](" + b"".join(map(code, value)) + b"e")
        case dict():
            return Code(b"}(" + b"".join(code(item) for pair in value.items() for item in pair) + b"u")
    raise TypeError(value)


def named(name: str) -> Code:
    module, _, name = name.rpartition(".")
    return Code(f"c{module}\n{name}\n".encode())


def call(function: str, *arguments: object) -> Code:
    return Code(named(function) + code(arguments) + b"R")


NO_HOOKS = call("collections.OrderedDict")


def storage(key: object = "0", size: object = 6, kind: object = "torch.FloatStorage") -> Code:
    return Code(code(("storage", named(kind), key, "cpu", size)) + b"Q")


def tensor(shape: object, strides: object, offset: object = 0, within: Code | None = None) -> Code:
    within = storage() if within is None else within
    return call("torch._utils._rebuild_tensor_v2", within, offset, shape, strides, False, NO_HOOKS)


SIX = {"data/0": np.arange(6, dtype=np.float32).tobytes()}


def write(path: Path, content: object, records: dict[str, bytes] = SIX, header: bytes = b"\x80\x02") -> Path:
    """A zip archive of stored records below one folder. A record of None is left out."""
    program = content if type(content) is bytes else header + code(content) + b"."
    whole = {"data.pkl": program, "byteorder": b"little", **records, "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in whole.items():
            if value is not None:
                archive.writestr(f"archive/{name}", value)
    return path
