"""JSON from files that others made: bounded in size and in depth, so that no file exhausts the memory or the stack."""

import json
from pathlib import Path
from typing import Any

MAX_DEPTH = 64
MAX_BYTES = 64 * 2**20


def parse_json(text: str | bytes, *, max_depth: int | None = MAX_DEPTH) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8, where it is bytes.
        max_depth: how deeply lists and objects may be nested. None: as deeply as the parser can follow.

    Raises:
        ValueError: it is not JSON, or nested more deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"lists or objects are nested more than {max_depth or MAX_DEPTH} deep") from None
    if max_depth is not None:
        _check_depth(value, max_depth)
    return value


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, too large, not JSON, or nested too deeply.
    """
    # A pipe would wait for ever.
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
