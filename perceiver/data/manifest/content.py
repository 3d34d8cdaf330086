"""The content of a file in memory, read like the file itself; shards store it instead of a path."""

import io
from pathlib import PurePath


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
