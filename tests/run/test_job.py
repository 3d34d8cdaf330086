"""Which object a mode is."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from perceiver.run.job import _with_mode

CONF = Path(__file__).parents[2] / "conf"
MODES = sorted(file.stem for file in (CONF / "mode").glob("*.yaml"))


@pytest.mark.parametrize("mode", MODES)
def test_the_name_of_a_mode_stands_for_it_as_in_version_0_1(mode: str) -> None:
    """As a user's YAML, or the configuration of an earlier run, may have it; other keys stay."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        expected = compose("train", [f"mode={mode}", "seed=3", "run_dir=r"])
        config = compose("train", ["seed=3", "run_dir=r"])
        with open_dict(config):
            config.mode = mode
        found = _with_mode(config)
    assert found.mode._target_ == expected.mode._target_
    assert set(found) >= set(expected)
    assert found.seed == 3


def test_an_unknown_mode_is_named_with_the_choices() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["run_dir=r"])
        config.mode = "train"
        with pytest.raises(ValueError, match="mode: expected one of .*, export, fit, generate, .*, got 'train'"):
            _with_mode(config)
