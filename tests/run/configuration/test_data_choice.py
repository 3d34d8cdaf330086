"""The data group of a checkpoint, taken from its run directory."""

from pathlib import Path

import pytest

from perceiver.run.configuration.data_choice import data_of_checkpoint
from perceiver.run.main import conf_directory


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("data:\n  _target_: perceiver.data.manifest.Manifest\n")
    return tmp_path


def test_the_group_with_the_class_of_the_run(run_directory: Path) -> None:
    conf = conf_directory()
    for path in (run_directory, run_directory / "checkpoints" / "best.ckpt", f"'{run_directory}'"):
        for mode in ("predict", "embed"):
            assert data_of_checkpoint([f"mode={mode}", f"ckpt_path={path}"], conf) == "data=manifest"


@pytest.mark.parametrize("more", [["mode=test"], ["mode=predict", "data=mnist"], ["mode=predict", "experiment=mnist"], []])
def test_what_the_command_line_says_holds(more: list[str], run_directory: Path) -> None:
    assert data_of_checkpoint([*more, f"ckpt_path={run_directory}"], conf_directory()) is None


@pytest.mark.parametrize("text", ["", "a: [", "data: 3", "data:\n  _target_: my.Data\n", "data:\n  _target_: os.system\n"])
def test_configurations_that_say_nothing(text: str, run_directory: Path) -> None:
    (run_directory / "config.yaml").write_text(text)
    assert data_of_checkpoint(["mode=predict", f"ckpt_path={run_directory}"], conf_directory()) is None
    assert data_of_checkpoint(["mode=predict", "ckpt_path=no/such/run"], conf_directory()) is None
    assert data_of_checkpoint(["mode=predict"], conf_directory()) is None
