"""mode=test with some of the modalities that a model was trained with."""

from pathlib import Path

import pytest
import torch
from digit_halves import DigitHalves
from hydra_runs import OTHER_DATA, metrics_of
from hydra_runs import run as train
from made_once import made_once

import perceiver

COMMON = (*OTHER_DATA, "data._target_=digit_halves.DigitHalves", "logger=none", "callbacks.attention_modalities=null")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        done = train(*COMMON, "trainer.max_epochs=2", "test=false", f"hydra.run.dir={folder / 'run'}")
        assert done.code == 0, done.err

    return made_once(tmp_path_factory, "run_of_halves", make) / "run"


@pytest.mark.parametrize("names", [["lower"], ["image"], ["image", "lower"]])
def test_the_model_is_given_some_modalities(trained: Path, tmp_path: Path, names: list[str]) -> None:
    given = f"modalities=[{','.join(names)}]"
    done = train(*COMMON, "mode=test", f"ckpt_path={trained}", given, f"hydra.run.dir={tmp_path / 'tested'}")
    assert done.code == 0, done.err
    model = perceiver.load(trained)
    right = total = 0
    for batch in DigitHalves().test_dataloader():
        inputs, masks = ({name: of[name] for name in names if name in of} for of in (batch.inputs, batch.masks))
        with torch.no_grad():
            right += int((model(inputs, masks).argmax(-1) == batch.target).sum())
        total += batch.size
    assert metrics_of(tmp_path / "tested")["test/accuracy"] == pytest.approx(right / total, abs=1e-6)


@pytest.mark.parametrize("given", ["[upper]", "[]", "[image,upper]"])
def test_unknown_modalities_are_named(trained: Path, tmp_path: Path, given: str) -> None:
    done = train(*COMMON, "mode=test", f"ckpt_path={trained}", f"modalities={given}", f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert done.error.startswith("error: modalities: expected one or more of image, lower, or null for all; got [")
