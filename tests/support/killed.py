"""A process killed before each of its operations on files, one after another."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree")
_KILLED = 9


def killed_at_every_step(act: Callable[[], object], folder: Path, *, restore: Callable[[], object]) -> Iterator[int]:
    """Yield the number of the operation before which the process was killed; ends once `act` is complete.

    Args:
        act: runs in a forked process each time.
        folder: operations below this folder count.
        restore: called before each run, to restore the state in which `act` starts.
    """
    for step in range(1, 100):
        restore()
        if _ended(act, folder, step):
            return
        yield step
    raise AssertionError("more than 100 operations")


def _ended(act: Callable[[], object], folder: Path, step: int) -> bool:
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in OPERATIONS and any(str(one).startswith(str(folder)) for one in arguments[:2]):
                left -= 1
                if left == 0:
                    os._exit(_KILLED)

        try:
            sys.addaudithook(count)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _KILLED), "the process failed"
    return code == 0
