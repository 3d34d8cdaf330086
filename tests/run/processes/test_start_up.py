"""Ctrl+C while a run starts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perceiver.run.processes.start_up import quiet_interrupt, raise_interrupts

# Modules that take long to import: the first import after the handler waits for the signal. Its default is restored, since
# jobs in the background of a shell ignore it, and so do the tests and their processes then.
STARTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from perceiver.run import main

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {slow!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Slow())
sys.argv = ["perceiver-train", "data=digits", "hydra.run.dir=" + sys.argv[1]]
main.main()
"""


@pytest.mark.parametrize("slow", ["hydra", "perceiver.run.job"])
def test_ctrl_c_during_imports_prints_no_traceback(slow: str, repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING.format(slow=slow), str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.fixture
def interruptible() -> Iterator[None]:
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("interruptible")
def test_interrupts_are_raised_once_the_run_has_started() -> None:
    with quiet_interrupt():
        raise_interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_interrupts_stay_ignored() -> None:
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with quiet_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)
