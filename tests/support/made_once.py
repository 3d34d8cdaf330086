"""Fixtures that are expensive: the first of the tests' worker processes that asks makes them, for all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this test session, filled by `make(folder)` at the first call of any worker.

    Tests must leave what is in it as it is.
    """
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        base = factory.getbasetemp()
    else:
        base = factory.getbasetemp().parent
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
