"""What `init_from`, `ckpt_path` and `mode=test` build of a file from a stranger: trusted classes, within its size."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_models
import pytest
from hostile_models import PACKAGE, Hostile, checkpoint, pretrained, set_value, transformers_values
from hydra_runs import run
from omegaconf import DictConfig, OmegaConf

from perceiver.checkpoints import file as checkpoint_file
from perceiver.checkpoints.build import ConfigError
from perceiver.checkpoints.file import CheckpointError
from perceiver.run.configuration.literal import released
from perceiver.run.fine_tuning.initialisation import starting_from, with_stored_model
from perceiver.run.fine_tuning.starting_point import StartingPoint
from perceiver.run.modes.inference import Inference

NAMED = (
    hostile_models.package_in_current_folder,
    hostile_models.class_of_another_library,
    hostile_models.reference_to_environment,
    hostile_models.placeholder,
    hostile_models.adapters_that_are_none,
    hostile_models.code_in_a_checkpoint,
)
"""Refused when the file is read."""
SIZED = (hostile_models.enormous_encoder, hostile_models.endless_modules, hostile_models.endless_steps)
"""Refused when the model is built."""


def configured(path: Path, **more: Any) -> DictConfig:
    """A user's configuration that starts from `path`, built as it says."""
    model = {
        "_target_": "perceiver.Perceiver",
        "adapters": {},
        "encoder": {"_target_": "perceiver.Encoder", "num_latents": 2, "latent_channels": 8},
        "head": {"_target_": "perceiver.PooledHead", "num_classes": 10},
    }
    return OmegaConf.create({"init_from": str(path), "init_model": True, "trust": [], "model": model, **more})


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever works where a stranger's files were unpacked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)


def built(config: DictConfig) -> Any:
    """As `mode=fit` builds the model."""
    start = starting_from(init_from=config.init_from, init_model=True)
    plain = released(OmegaConf.to_container(start.configured(config).model, resolve=True))
    return start.build({str(key): value for key, value in plain.items()}, {})


def stored(config: DictConfig) -> DictConfig:
    return with_stored_model(config, source=StartingPoint.find(config.init_from))


@pytest.mark.parametrize("make", NAMED)
def test_what_a_file_names_is_vetted_before_it_joins_the_configuration(
    make: Callable[[Path], Hostile], tmp_path: Path
) -> None:
    hostile = make(tmp_path)
    with pytest.raises(CheckpointError, match=f"(?s){re.escape(str(hostile.path))}.*{hostile.words}"):
        stored(configured(hostile.path))
    hostile.assert_nothing_ran()
    assert PACKAGE not in sys.modules


@pytest.mark.parametrize("make", SIZED)
def test_what_a_file_describes_is_no_larger_than_its_weights(make: Callable[[Path], Hostile], tmp_path: Path) -> None:
    hostile = make(tmp_path)
    with pytest.raises(ConfigError, match=hostile.words):
        built(configured(hostile.path))


def test_trusted_packages_may_be_named(tmp_path: Path) -> None:
    hostile = hostile_models.package_in_current_folder(tmp_path)
    assert type(built(configured(hostile.path, trust=[PACKAGE])).encoder).__module__ == PACKAGE
    assert hostile.marker.exists(), "the mark shows what runs"


def test_the_users_own_parts_keep_their_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_file, "_SLACK_BYTES", 10**6)
    (tmp_path / "own_package_of_tests.py").write_text(
        "from perceiver.decoders.pooled import PooledHead\nclass Head(PooledHead):\n    pass\n"
    )
    file = checkpoint(tmp_path, lambda model: None)
    config = configured(file)
    # A head of another package, and larger than all that the file holds.
    config.model.head = {"_target_": "own_package_of_tests.Head", "num_classes": 100_000}
    model = built(config)
    assert type(model.head).__name__ == "Head"
    assert model.encoder.num_latents == 4, "built as the file says"


def test_a_stored_head_is_not_asked_about(tmp_path: Path) -> None:
    """It is not taken over, so its package need not be trusted."""
    file = checkpoint(tmp_path, lambda model: set_value(model, "head._target_", f"{PACKAGE}.Head"))
    assert built(configured(file)).encoder.num_latents == 4


def test_directories_of_save_pretrained_are_vetted_too(tmp_path: Path) -> None:
    folder = pretrained(tmp_path / "hub", lambda model: set_value(model, "encoder._target_", f"{PACKAGE}.Encoder"))
    with pytest.raises(CheckpointError, match=f"{PACKAGE}.Encoder, outside the trusted packages"):
        stored(configured(folder))


@pytest.mark.parametrize("name", ["beyond any size", "a list times a number", "reference"])
def test_directories_of_transformers_are_vetted_too(name: str, tmp_path: Path) -> None:
    values, words = hostile_models.TRANSFORMERS[name]
    hostile = transformers_values(tmp_path / "theirs", values, words=words)
    with pytest.raises(ValueError, match=hostile.words):
        stored(configured(hostile.path))


@pytest.mark.parametrize("mode", ["fit", "batch_size"])
def test_runs_are_bounded(mode: str, tmp_path: Path) -> None:
    hostile = hostile_models.enormous_encoder(tmp_path)
    code, _, err = run(
        "experiment=finetune", f"mode={mode}", f"init_from={hostile.path}", "data=digits", "trainer.max_epochs=1",
        "logger=none", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 1
    assert re.search(hostile.words, err), err


@pytest.mark.parametrize("make", [hostile_models.package_in_current_folder, hostile_models.reference_to_environment])
def test_a_tested_or_resumed_file_is_not_run(make: Callable[[Path], Hostile], tmp_path: Path) -> None:
    hostile = make(tmp_path)
    code, _, err = run("mode=test", f"ckpt_path={hostile.path}", "data=digits", f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 1
    assert re.search(hostile.words, err), err
    code, _, err = run(
        f"ckpt_path={hostile.path}", "data=digits", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'resumed'}"
    )
    assert code == 1
    assert "ckpt_path" in err, err
    hostile.assert_nothing_ran()


def test_a_used_file_is_not_run(tmp_path: Path) -> None:
    hostile = hostile_models.package_in_current_folder(tmp_path)
    with pytest.raises(CheckpointError, match=hostile.words):
        Inference.of(OmegaConf.create({"trust": []}), file=hostile.path)
    hostile.assert_nothing_ran()
