"""Texts that enter: the bytes of their files, decompressed, and a check that they are valid Unicode.

JSON's escapes can hold half of a character (`"\\ud83d"`), which no file, no tokenizer and no server takes.
"""

import bz2
import codecs
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from rlhf_jax.errors import UserError

_HALF = re.compile("[\ud800-\udfff]")


def content(path: Path) -> bytes:
    """The bytes of a file without a UTF-8 byte order mark, decompressed if its name ends in .gz, .bz2, .xz or .zst.

    Raises:
      UserError: it cannot be read to its end.
    """
    try:
        with _OPENED.get(path.suffix, open)(path, "rb") as file:
            return file.read().removeprefix(codecs.BOM_UTF8)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}).") from error


def _open_zstandard(path: Path, _: str) -> IO[bytes]:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


_OPENED: dict[str, Callable[[Path, str], IO[bytes]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}
COMPRESSED = tuple(_OPENED)


def is_unicode(text: str) -> bool:
    """True if a text is valid Unicode, without half of a surrogate pair."""
    return text.isascii() or not _HALF.search(text)


def require_unicode(value: object, field: str = "") -> None:
    """Raises UserError, which names the field, if a text anywhere in a JSON value is not valid Unicode."""
    if isinstance(value, str) and not is_unicode(value):
        raise UserError(
            f"the field {field!r} is {short(value)}, half of a character at position {_HALF.search(value).start()}, "
            "expected valid Unicode"
        )
    if isinstance(value, list):
        for index, inner in enumerate(value):
            require_unicode(inner, f"{field}[{index}]")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            require_unicode(inner, f"{field}.{key}".removeprefix("."))


def short(value: object) -> str:
    """The start of a JSON value, for messages."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
