"""The content of a cell that is neither a path nor plain numbers: a file in memory, or sound with its rate.

Shards store files in memory instead of paths; Parquet and JSON files may hold them in structs, as `datasets` writes them.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any


class FileContent(io.BytesIO):
    """A file in memory.

    Args:
        content: bytes of the file.
        name: name of the file, for messages; its suffix gives the format.
    """

    def __init__(self, content: bytes, *, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name

    @property
    def suffix(self) -> str:
        """Suffix of the name, with the dot."""
        return PurePath(str(self)).suffix

    def read_bytes(self) -> bytes:
        """Return the whole content."""
        return self.getvalue()


_SOUND = {"array", "sampling_rate"}

IN_CELL = "content of a cell"
"""Name of a file in memory whose own name is unknown."""


def unpacked(value: Any) -> Any:
    """Return the content of a struct; other values are returned unchanged.

    - `{bytes, path}`: the bytes as a `FileContent`. The path only names them in messages and is never opened. Without bytes,
      the path as a `Path`, which follows the rules of a cell with a path. In JSON, bytes are text in base 64.
    - `{array, sampling_rate}`: sound as the pair of its array and rate; a path beside them is ignored.
    - a list of the former: a list of these, such as the frames of a video.
    - bytes: a `FileContent`.

    A struct without content is None.

    Raises:
        ValueError: bytes are not bytes, or the rate is not a number.
    """
    if isinstance(value, bytes):
        return FileContent(value, name=IN_CELL)
    if isinstance(value, list) and value and all(isinstance(one, bytes) or is_file(one) for one in value):
        return [unpacked(one) for one in value]
    if is_file(value):
        return _file(value.get("bytes"), value.get("path"))
    if isinstance(value, Mapping) and _SOUND <= value.keys() <= {*_SOUND, "path", "bytes"}:
        return _sound(value["array"], value["sampling_rate"])
    return value


def is_file(value: Any) -> bool:
    """Return whether a value is a struct of a file: its bytes, its path, or both."""
    return isinstance(value, Mapping) and bool(value) and value.keys() <= {"bytes", "path"}


def _file(content: Any, path: Any) -> FileContent | Path | None:
    if path is not None and not isinstance(path, str):
        raise ValueError(f"expected a struct of bytes and path, got a path of type {type(path).__name__}.")
    if content is None:
        return None if path is None or not path.strip() else Path(path)
    if isinstance(content, str):
        try:
            content = base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"expected bytes as text in base 64: {error}.") from None
    if not isinstance(content, bytes):
        raise ValueError(f"expected a struct of bytes and path, got bytes of type {type(content).__name__}.")
    # Both kinds of separators, since the file may come from another system.
    name = PureWindowsPath(path or "").name
    return FileContent(content, name=name[-100:] or IN_CELL)


def _sound(array: Any, rate: Any) -> tuple[Any, int] | None:
    if array is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1 <= rate <= 2**31 or rate != int(rate):
        raise ValueError(f"sampling_rate: expected a whole number of hertz, got {rate!r:.60}.")
    return array, int(rate)
