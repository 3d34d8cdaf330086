"""Averaged weights: what is validated, saved as the best, loaded and tested is the average; a resumed run trains on."""

from pathlib import Path

import torch
from hydra_runs import SMALL, metrics_of
from hydra_runs import run as train

import perceiver

AVERAGED = (
    *SMALL, "averaging=ema", "callbacks.averaging.multi_avg_fn.decay=0.9", "trainer.limit_train_batches=4", "logger=none",
    "callbacks.samples=null", "callbacks.attention=null", "callbacks.report=null", "scheduler=none",
)  # fmt: skip


def test_the_average_is_saved_loaded_and_tested(tmp_path: Path) -> None:
    finished = train(*AVERAGED, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert finished.code == 0, finished.err
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    averaged, current = best["state_dict"], best["current_model_state"]
    name = "model.encoder.latents"
    assert not torch.equal(averaged[name], current[name])
    assert torch.equal(perceiver.load(tmp_path / "run").encoder.latents, averaged[name])

    # The test of the same run saw what a later test of the loaded average sees.
    test = ("mode=test", f"ckpt_path={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'test'}")
    later = train(*test, "logger=none", "callbacks.report=null")
    assert later.code == 0, later.err
    difference = metrics_of(tmp_path / "test")["test/loss"] - metrics_of(tmp_path / "run")["test/loss"]
    assert abs(difference) < 1e-5

    resumed = train(*AVERAGED, "trainer.max_epochs=3", f"ckpt_path={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert resumed.code == 0, resumed.err
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(last["averaging_state"]["n_averaged"]) == last["global_step"] == 12
