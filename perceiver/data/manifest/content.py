"""The content of a file in memory, read like the file itself: what shards hold in place of paths."""

import io
from pathlib import PurePath


class FileContent(io.BytesIO):
    """A file that was read already.

    Args:
        content: its bytes.
        name: what it was called, for messages; its ending says what it is.
    """

    def __init__(self, content: bytes, *, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name

    @property
    def suffix(self) -> str:
        """The ending of its name, with the dot."""
        return PurePath(str(self)).suffix

    def read_bytes(self) -> bytes:
        """All of it."""
        return self.getvalue()
