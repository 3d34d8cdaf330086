"""JSON from untrusted files, bounded in size and depth, so that no file exhausts the memory or the stack."""

import json
from pathlib import Path
from typing import Any

MAX_DEPTH = 64
MAX_BYTES = 64 * 2**20


def parse_json(text: str | bytes, *, max_depth: int | None = MAX_DEPTH) -> Any:
    """Parse a JSON text.

    Args:
        text: a string, or UTF-8 bytes.
        max_depth: maximum nesting of lists and objects. None: the parser's limit.

    Raises:
        ValueError: the text is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"lists or objects are nested more than {max_depth or MAX_DEPTH} deep") from None
    if max_depth is not None:
        _check_depth(value, max_depth)
    return value


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a regular file, too large, not JSON, or nested too deeply.
    """
    # Reading a pipe could block forever.
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return parse_json(content)


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(f"lists or objects are nested more than {max_depth} deep")
