"""A fold as a job of its own: its configuration, and the overrides of its other processes."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from perceiver.data.loading.folds import Fold
from perceiver.run.cross_validation.fold_job import config_of_fold, job_of_fold, overrides_of_fold

FOLD = Fold(number=1, of=4)


def test_folds_share_features_and_have_directories_of_their_own() -> None:
    config = OmegaConf.create(
        {
            "run_dir": "runs/x",
            "cache": "${run_dir}/features",
            "ckpt_path": None,
            "best": "${run_dir}/checkpoints",
            "data": {"folds": None, "fold": None},
        }
    )
    OmegaConf.set_struct(config, True)
    own = config_of_fold(config, FOLD, Path("runs/x/fold_1"))
    assert own.cache == "runs/x/features"
    assert own.best == "runs/x/fold_1/checkpoints"
    assert own.ckpt_path == "auto"
    assert own.data == {"folds": 4, "fold": 1}
    assert config.run_dir == "runs/x"
    assert config.data.fold is None


def test_other_processes_train_this_fold_alone() -> None:
    given = ["mode=cross_validate", "experiment=mnist", "data.folds=4", "ckpt_path=runs/x", "++cache=null", "seed=3"]
    assert overrides_of_fold(given, FOLD, cache="/a b/features") == [
        "experiment=mnist", "seed=3", "mode=fit", "ckpt_path=auto", "data.folds=4", "data.fold=1", "cache='/a b/features'",
    ]  # fmt: skip


def test_hydra_describes_the_fold_only_while_it_trains() -> None:
    whole = OmegaConf.create({"hydra": {"overrides": {"task": ["mode=cross_validate", "seed=3"], "hydra": []}}})
    OmegaConf.set_readonly(whole.hydra, True)
    instance, before = HydraConfig.instance(), HydraConfig.instance().cfg
    instance.cfg = whole  # type: ignore[assignment]
    try:
        with job_of_fold(FOLD, OmegaConf.create({"cache": None})):
            assert list(HydraConfig.get().overrides.task)[:2] == ["seed=3", "mode=fit"]
        assert list(HydraConfig.get().overrides.task) == ["mode=cross_validate", "seed=3"]
    finally:
        instance.cfg = before
