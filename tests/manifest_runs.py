"""`python train.py experiment=manifest` within this process, small."""

import io
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from manifest_cases import RATE

from perceiver.run.main import main

SETTINGS = (
    "data.image_size=[8,8]",
    f"data.sample_rate={RATE}",
    "data.num_workers=0",
    "data.batch_size=8",
    "logger=none",
    "callbacks.samples=null",
    "callbacks.attention=null",
)
SMALL = (
    "experiment=manifest",
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.num_blocks=1",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1",
    "optimizer.lr=1e-2",
    "trainer.max_epochs=6",
    *SETTINGS,
)


def train(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python train.py` within this process."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch("sys.argv", ["train.py", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
    return code, out.getvalue(), err.getvalue()
