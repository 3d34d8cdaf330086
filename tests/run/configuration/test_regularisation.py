"""Switching regularisation off: every argument that there is, none that there is not, and nothing else."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from perceiver.run.configuration.regularisation import OFF, without_regularisation

CONF = Path(__file__).parents[3] / "conf"


def test_arguments_are_switched_off_where_they_are_and_added_nowhere() -> None:
    config = OmegaConf.create(
        {
            "data": {"augment": {"noise": {"_target_": "a.Noise"}}, "train_crop": "${model.size}", "batch_size": 3},
            "model": {
                "size": "${spec.unknown}",
                "adapters": {"a": {"augment": {"x": 1}}, "b": {"frame": 2}},
                "stack": [{"dropout": 0.5}],
            },
            "task": {"loss": None},
            "optimizer": {"lr": 0.1, "weight_decay": 0.2},
            "callbacks": {"dropout": 0.3},
        }
    )
    off = without_regularisation(config)
    assert OmegaConf.to_container(off) == {
        "data": {"augment": None, "train_crop": None, "batch_size": 3},
        "model": {
            "size": "${spec.unknown}",
            "adapters": {"a": {"augment": None}, "b": {"frame": 2}},
            "stack": [{"dropout": 0.0}],
        },
        "task": {"loss": None},
        "optimizer": {"lr": 0.1, "weight_decay": 0.0},
        "callbacks": {"dropout": 0.3},
    }
    assert config.optimizer.weight_decay == 0.2, "the original stays"


@pytest.mark.parametrize("experiment", sorted(file.stem for file in (CONF / "experiment").glob("*.yaml")))
def test_no_recipe_keeps_anything_that_regularises(experiment: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", "debug=overfit"])
    left = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            left.extend(name for name, value in node.items() if name in OFF and value != OFF[name])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    off = OmegaConf.to_container(without_regularisation(config))
    assert isinstance(off, dict)
    walk({group: off[group] for group in ("data", "model", "task", "optimizer")})
    assert left == []
