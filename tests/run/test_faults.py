"""Machines and disks that are not what a run needs: one clear line each, and what was saved is still there."""

import json
import resource
from pathlib import Path

import pytest
import torch
from hydra_runs import QUIET, run

QUICK = (
    "data=digits", "model.encoder.num_latents=64", "model.encoder.latent_channels=16", "model.encoder.num_self_heads=2",
    "model.encoder.num_blocks=1", "model.encoder.num_cross_attends=1", "model.encoder.num_layers_per_block=1",
    "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "logger=none", *QUIET, "test=false",
)  # fmt: skip


def error(*arguments: str) -> str:
    """The line that a run ends with."""
    code, _, message = run(*QUICK, *arguments)
    assert code == 1
    [line] = [line for line in message.splitlines() if line.startswith("error")]
    return line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has such devices")
def test_devices_that_do_not_exist(tmp_path: Path) -> None:
    line = error("trainer.accelerator=gpu", "trainer.devices=8", f"hydra.run.dir={tmp_path}")
    assert line.startswith("error: trainer: No supported gpu backend found!")
    assert "This machine has 0 CUDA devices; trainer.accelerator=gpu trainer.devices=8 were requested." in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer.num_nodes=0"], "error: trainer: `num_nodes` must be a positive integer, but got 0."),
        (
            ["trainer=ddp", "trainer.num_nodes=2", "trainer.devices=1"],
            "error: trainer.num_nodes=2: no launcher has started this command on 2 machines or set their meeting "
            "address. Start it with torchrun --nnodes or SLURM",
        ),
    ],
)
def test_machines_that_do_not_exist(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert error("trainer.accelerator=cpu", *arguments, f"hydra.run.dir={tmp_path}").startswith(words)


def test_a_disk_that_is_full_later_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk. The run stops, and goes on from there when there is space again."""
    arguments = (*QUICK, "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}", "ckpt_path=auto")
    assert run(*arguments, "trainer.max_epochs=1")[0] == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    good = last.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        line = error("trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}", "ckpt_path=auto", "trainer.max_epochs=3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line.startswith(f"error: no space left while writing {tmp_path}/checkpoints/")
    assert "intact" in line
    assert last.read_bytes() == good
    assert not list((tmp_path / "checkpoints").glob(".*")), "nothing half-written is left"
    code, _, message = run(*arguments, "trainer.max_epochs=3")
    assert code == 0
    assert message.startswith("warning: the learning rate continues at 0.00225; the checkpoint stopped at 0.")
    assert message.endswith("Its schedule now covers 3 epochs instead of 1.\n")
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == 3
