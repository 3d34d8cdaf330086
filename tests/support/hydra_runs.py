"""`python train.py` within this process."""

import contextlib
import io
from unittest import mock

from perceiver.run.main import main

SMALL = (
    "data=digits",
    "~data.num_workers",
    "~data.validation_size",
    "~data.test_size",
    "~data.split_seed",
    "~data.augment",
    "~data.balanced_sampling",
    "data.num_labelled=0",  # Hydra deletes no nulls
    "~data.num_labelled",
    "model.encoder.num_latents=8",
    "model.encoder.latent_channels=32",
    "model.encoder.num_self_heads=2",
    "optimizer.lr=5e-3",
    "callbacks.report=null",
)
"""For a data module of tests in place of the digits', and a model that learns in seconds."""


def train(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error; `SMALL` first, the arguments after it."""
    return run(*SMALL, *arguments)


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("sys.argv", ["train.py", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
    return code, out.getvalue(), err.getvalue()
