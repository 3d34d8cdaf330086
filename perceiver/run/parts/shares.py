"""What the processes of a job share while they compute a table: the next part, and the number of rows done."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed
from torch.distributed.distributed_c10d import _get_default_store

from perceiver.run.parts.folder import PartFolder


class Counter:
    """A number that all processes of a job add to; it lives in the store at which they met.

    Args:
        name: name of the counter, the same in all processes.
        start: value before the first addition.
    """

    def __init__(self, name: str, *, start: int = 0) -> None:
        self.name = f"perceiver/{name}"
        self.start = start
        self._alone = 0

    def add(self, amount: int) -> int:
        """Add and return the sum of all processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return self.start + int(_get_default_store().add(self.name, amount))
        self._alone += amount
        return self.start + self._alone


def unfinished(folder: PartFolder) -> Iterator[int]:
    """Yield the parts that this process is to compute: the next that is missing, and that no other process has taken.

    A process takes a part when it needs one, so that a faster one computes more, and all end at about the same time.
    """
    taken = Counter("parts")
    while (part := taken.add(1) - 1) < folder.count:
        if not folder.is_finished(part):
            yield part
