"""The directory of a run: its lock, and its files other than checkpoints and figures."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch import Trainer

from perceiver.run.configuration.command_line import typed_override
from perceiver.run.configuration.yaml_file import to_yaml
from perceiver.run.reporting.metrics import write_metrics
from perceiver.run.resuming.last_checkpoint import LAST, PREVIOUS
from perceiver.run.resuming.metrics_table import EarlierTable
from perceiver.run.resuming.resume import Scratch
from perceiver.runtime.files import atomic_write, remove_leftovers
from perceiver.runtime.process_rank import first_process_only, process_rank

CONFIG, METRICS = "config.yaml", "metrics.json"
LOCK = ".lock"


class RunDirectory:
    """The directory that a run writes to. The first process of a job writes for all.

    Args:
        path: path of the directory, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[RunDirectory]:
        """Keep other runs out; the kernel releases the lock when this process ends, however it ends.

        Raises:
            BlockingIOError: another run writes to the directory.
            OSError: the directory is not writable.
        """
        if process_rank() != 0:
            yield self
            return
        file = self._lock()
        try:
            yield self
        finally:
            (self.path / LOCK).unlink(missing_ok=True)
            file.close()

    def require_unused(self, origin: Scratch) -> None:
        """Refuse to overwrite the checkpoints of another run."""
        folder = self.path / "checkpoints"
        found = next((name for name in (LAST, PREVIOUS, "best.ckpt") if (folder / name).exists()), None)
        if found is not None and (origin.file is None or origin.file.parent.resolve() != folder.resolve()):
            raise FileExistsError(
                f"hydra.run.dir: {self.path} already holds a run ({found}). Choose another directory, or continue that run "
                f"with {typed_override('ckpt_path', self.path)}."
            )

    @first_process_only
    def begin(self, trainer: Trainer, plain: Mapping[str, Any], origin: Scratch) -> None:
        """Prepare the directory for training: write its configuration, and drop the steps to be repeated from its table."""
        origin.set_damaged_aside()
        remove_leftovers(self.path / "checkpoints")
        here = origin.file is not None and origin.file.parent.parent.resolve() == self.path.resolve()
        self._continue_table(trainer, steps=origin.step if here else None, last_row=origin.last_row)
        self._write_config(plain)

    @first_process_only
    def begin_test(self, trainer: Trainer, plain: Mapping[str, Any]) -> None:
        """Prepare the directory for a test; the configuration of an earlier training stays."""
        self._continue_table(trainer, steps=None)
        if not (self.path / CONFIG).exists():
            self._write_config(plain)

    @first_process_only
    def write_metrics(self, metrics: Mapping[str, float | int]) -> None:
        """Write metrics.json."""
        write_metrics(self.path / METRICS, metrics)

    def _continue_table(self, trainer: Trainer, *, steps: int | None, last_row: Mapping[str, float] | None = None) -> None:
        """Keep an existing metrics table, which CSVLogger would delete."""
        EarlierTable(self.path / "csv" / "metrics.csv", steps=steps, last_row=last_row).continue_in(trainer)

    def _write_config(self, plain: Mapping[str, Any]) -> None:
        with atomic_write(self.path / CONFIG) as file:
            file.write(to_yaml(plain).encode())

    def _lock(self) -> BinaryIO:
        place = self.path / LOCK
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                file = place.open("ab+")
            except OSError as error:
                raise type(error)(
                    error.errno, f"hydra.run.dir: cannot write to {self.path} ({error.strerror}); choose another directory."
                ) from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.close()
                    raise BlockingIOError(
                        error.errno,
                        f"hydra.run.dir: another run is writing to {self.path}. Wait for it to end, or choose another "
                        "directory.",
                    ) from error
                return file  # a file system without locks
            # The previous run may have removed the file between the two calls.
            if place.exists() and os.path.samestat(os.fstat(file.fileno()), place.stat()):
                return file
            file.close()
