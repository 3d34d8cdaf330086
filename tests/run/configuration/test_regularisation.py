"""Switching regularisation off: every argument that there is, none that there is not, and nothing else."""

import inspect
import pydoc
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from perceiver.run.configuration.regularisation import without_regularisation
from perceiver.runtime.regularising import regularising, regularising_arguments

FOLDER = "perceiver.data.folders.images.ImageFolder"
CONF = Path(__file__).parents[3] / "conf"
OFF = {
    "augment": None,
    "train_crop": None,
    "mix": None,
    "label_smoothing": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "modality_dropout": None,
    "weight_decay": 0.0,
}


@regularising(noise=0.0, teacher="off")
class Noisy:
    """A class of another package, with regularising arguments that this one has never heard of."""

    def __init__(self, *, noise: float = 0.0, teacher: str = "off", dropout: float = 0.0, width: int = 1) -> None: ...


def test_classes_declare_their_regularising_arguments_wherever_they_are_defined() -> None:
    values = {"noise": 0.3, "teacher": "large", "dropout": 0.1, "width": 3}
    config = OmegaConf.create(
        {
            "model": {"adapters": {"a": {"_target_": f"{__name__}.Noisy", **values}, "b": {"_target_": "no.such.Class"}}},
            "task": {"_target_": "${x}", "noise": 0.3, "dropout": 0.1},
            "callbacks": {"_target_": f"{__name__}.Noisy", "noise": 0.3},
        }
    )
    off = OmegaConf.to_container(without_regularisation(config), resolve=False)
    assert isinstance(off, dict)
    assert off["model"]["adapters"]["a"] == {
        **values,
        "_target_": f"{__name__}.Noisy",
        "noise": 0.0,
        "teacher": "off",
    }, "declared arguments alone: dropout is not among them"
    assert off["task"] == {"_target_": "${x}", "noise": 0.3, "dropout": 0.0}
    assert off["callbacks"]["noise"] == 0.3
    assert config.model.adapters.a.noise == 0.3, "the original stays"


def test_subclasses_inherit_declarations_and_leave_those_of_their_bases_alone() -> None:
    @regularising(jitter=0.0)
    class Noisier(Noisy): ...

    assert regularising_arguments(Noisier) == {"noise": 0.0, "teacher": "off", "jitter": 0.0}
    assert regularising_arguments(Noisy) == {"noise": 0.0, "teacher": "off"}


def test_arguments_are_switched_off_where_they_are_and_added_nowhere() -> None:
    config = OmegaConf.create(
        {
            "data": {
                "_target_": "perceiver.data.folders.images.ImageFolder",
                "augment": {"noise": {"_target_": "a.Noise"}},
                "train_crop": "${model.size}",
                "batch_size": 3,
            },
            "model": {
                "size": "${spec.unknown}",
                "adapters": {"a": {"augment": {"x": 1}}, "b": {"frame": 2}},
                "stack": [{"dropout": 0.5, "attention_dropout": 0.5}],
            },
            "task": {"loss": None},
            "optimizer": {"lr": 0.1, "weight_decay": 0.2},
            "callbacks": {"dropout": 0.3},
        }
    )
    off = without_regularisation(config)
    assert OmegaConf.to_container(off) == {
        "data": {
            "_target_": "perceiver.data.folders.images.ImageFolder",
            "augment": None,
            "train_crop": None,
            "batch_size": 3,
        },
        "model": {
            "size": "${spec.unknown}",
            "adapters": {"a": {"augment": None}, "b": {"frame": 2}},
            "stack": [{"dropout": 0.0, "attention_dropout": 0.5}],
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


def test_everything_that_the_configuration_names_declares_its_regularising_arguments() -> None:
    named = {
        name for file in CONF.rglob("*.yaml") for name in re.findall(r"_target_: (perceiver\.[\w.]+)", file.read_text())
    }
    undeclared = {}
    for name in sorted(named):
        target = pydoc.locate(name)
        assert callable(target), name
        arguments = set(inspect.signature(target).parameters) & set(OFF)
        if missing := arguments - set(regularising_arguments(target)):
            undeclared[name] = missing
    assert len(named) > 50
    assert undeclared == {}
