"""`python train.py` within this process, which spares importing Lightning, and what a run leaves.

A process of its own is for what only processes show: signals, exit codes, several ranks.
"""

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from hydra._internal.hydra import Hydra
from matplotlib.figure import Figure

from perceiver.run.main import main

SMALL = (
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.num_self_heads=2",
    "model.encoder.num_blocks=1",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1",
    "data.batch_size=128",
    "optimizer.lr=5e-3",
)
"""A model that learns the digits in seconds."""

QUIET = (
    "callbacks.samples=null",
    "callbacks.attention=null",
    "callbacks.attention_modalities=null",
    "callbacks.report=null",
)
"""Without the figures and the report that every run draws: they take longer than training."""

QUICK = (*SMALL, *QUIET, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=none")
"""Two steps of it."""

OTHER_DATA = (
    "data=digits",
    "~data.num_workers",
    "~data.validation_size",
    "~data.test_size",
    "~data.split_seed",
    "~data.augment",
    "~data.balanced_sampling",
    "data.num_labelled=0",  # Hydra deletes no nulls
    "~data.num_labelled",
    "data.folds=0",
    "~data.folds",
    "data.fold=0",
    "~data.fold",
    "model.encoder.num_latents=8",
    "model.encoder.latent_channels=32",
    "model.encoder.num_self_heads=2",
    "optimizer.lr=5e-3",
    "callbacks.report=null",
    "callbacks.samples=null",
    "callbacks.attention=null",
)
"""For a data module of the tests in place of the digits."""


LEFT_BEHIND = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "PERCEIVER_PROGRAM", "PERCEIVER_FULL_ERROR")
"""What a run leaves in the environment, where its other processes, and later tests, find it."""


class Finished(NamedTuple):
    """How a command ended: exit status, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The line on stderr that begins with `error: `."""
        [line] = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


def run(*arguments: str) -> Finished:
    """Run train.py with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("sys.argv", ["train.py", *arguments]),
        composed_once(arguments),
        mock.patch("perceiver.run.reporting.figures.confusion_figure", no_confusion),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            for name in LEFT_BEHIND:
                os.environ.pop(name, None)
    return Finished(code, out.getvalue(), err.getvalue())


def composed_once(arguments: Sequence[str]) -> contextlib.AbstractContextManager[object]:
    """Hydra composes the configuration twice, first for `hydra.mode` alone, which only searches for settings have."""
    if any(word.startswith(("hparams_search=", "hydra.mode=")) for word in arguments):
        return contextlib.nullcontext()
    return mock.patch.object(Hydra, "get_mode", return_value=None)


def no_confusion(*arguments: object, title: str) -> Figure:
    """Every run draws two matrices, which takes as long as two steps; runs that are processes of their own do."""
    return Figure(figsize=(1, 1))


def metrics_of(directory: Path) -> dict[str, float]:
    """The metrics of a run directory."""
    loaded: dict[str, float] = json.loads((directory / "metrics.json").read_text())
    return loaded
