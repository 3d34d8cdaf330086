"""Lists of numbers, as JSON holds them. Without torch."""

from __future__ import annotations

from itertools import chain
from typing import Any


def holds_text(value: list[Any]) -> bool:
    """Return whether nested lists hold a text, for which NumPy would pad every entry to the length of the longest.

    Examples:
        >>> holds_text([[1.0, None], [2]]), holds_text([[1.0, "x"]])
        (False, True)
    """
    level = [value]
    while level:
        types = set(map(type, chain.from_iterable(level)))
        if any(issubclass(one, str | bytes) for one in types):
            return True
        if list not in types:
            return False
        level = [entry for entries in level for entry in entries if type(entry) is list]
    return False
