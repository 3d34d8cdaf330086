"""From a composed configuration to a plain one: resolvers, default adapters, errors that name the place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from perceiver.run.configuration.resolve import resolve
from perceiver.run.configuration.resolvers import _ceil_divide, register_resolvers
from perceiver.run.errors import one_line

SPEC: dict[str, Any] = {
    "modalities": {"image": {"kind": "image", "shape": [3, 10, 12], "range": [0, 255]}},
    "target": {"kind": "classes", "names": ["a", "b"]},
    "num_classes": 2,
}


@pytest.fixture(autouse=True)
def hydra_started(repository: Path) -> Iterator[None]:
    """Hydra with the shipped configuration, as within a job."""
    register_resolvers()
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("train", overrides=["run_dir=nowhere", *overrides])


def test_facts_of_the_data_reach_the_model() -> None:
    plain = resolve(composed(), SPEC)
    assert plain["spec"] == SPEC
    assert plain["model"]["head"]["num_classes"] == plain["task"]["num_classes"] == 2
    adapter = plain["model"]["adapters"]["image"]
    assert adapter["image_channels"] == 3
    assert adapter["position"]["resolution"] == [10, 12]
    assert type(plain["model"]["adapters"]) is dict
    assert type(adapter["position"]["resolution"]) is list


def test_patches_divide_rounding_up() -> None:
    config = composed("adapter@model.adapters.image=image_patches", "model.adapters.image.patch=5")
    assert resolve(config, SPEC)["model"]["adapters"]["image"]["position"]["resolution"] == [2, 3]


@pytest.mark.parametrize(
    ("dividend", "divisor", "expected"), [(28, 4, 7), (29, 4, 8), (10.0, 0.01, 1000), (0.3, 0.1, 3), (0.31, 0.1, 4)]
)
def test_ceil_divide(dividend: float, divisor: float, expected: int) -> None:
    assert _ceil_divide(dividend, divisor) == expected


def test_a_fact_may_have_a_default() -> None:
    key, null = "model.adapters.image.image_channels", {"kind": "image", "shape": [None, 10, 12]}
    other = {**SPEC, "modalities": {"image": null}}
    for fact, spec, expected in [("shape.0,7", SPEC, 3), ("shape.0,7", other, 7), ("depth,null", SPEC, None)]:
        plain = resolve(composed(f"{key}=${{modality:{fact}}}"), spec)
        assert plain["model"]["adapters"]["image"]["image_channels"] == expected


def test_lists_and_mappings_have_a_length() -> None:
    other = {**SPEC["modalities"]["image"], "empty": [], "named": {"sex": ["f", "m"]}}
    for fact, expected in [("shape", 3), ("empty", 0), ("named", 1)]:
        config = composed()
        config.model.adapters.image.image_channels = f"${{length:${{modality:{fact}}}}}"
        plain = resolve(config, {**SPEC, "modalities": {"image": other}})
        assert plain["model"]["adapters"]["image"]["image_channels"] == expected
    config.model.adapters.image.image_channels = "${length:${modality:kind}}"
    with pytest.raises(Exception, match="length: expected a list or a mapping, got 'image'"):
        resolve(config, SPEC)


def test_two_modalities_read_their_own_facts() -> None:
    spec = {**SPEC, "modalities": {**SPEC["modalities"], "depth": {"kind": "image", "shape": [1, 4, 6]}}}
    adapters = resolve(composed(), spec)["model"]["adapters"]
    assert adapters["image"]["position"]["resolution"] == [10, 12]
    assert adapters["depth"]["_target_"] == "perceiver.adapters.image.ImagePixels", "the default of its kind"
    assert adapters["depth"]["position"]["resolution"] == [4, 6]
    assert adapters["depth"]["image_channels"] == 1


def test_the_composed_configuration_is_left_alone() -> None:
    config = composed()
    resolve(config, SPEC)
    assert config.spec is None


def test_an_unknown_kind_lists_the_adapters() -> None:
    spec = {**SPEC, "modalities": {**SPEC["modalities"], "smell": {"kind": "odour"}}}
    with pytest.raises(ValueError, match=r"model\.adapters\.smell.*adapter/odour\.yaml.*image_patches"):
        resolve(composed(), spec)


def test_an_adapter_without_modality_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"model\.adapters\.lidar: the data has no modality 'lidar', only image"):
        resolve(composed("+adapter@model.adapters.lidar=points"), SPEC)


@pytest.mark.parametrize(
    ("key", "state"),
    [("sample_rate", "is missing; the spec has kind, range, shape"), ("shape.1", "is null")],
)
def test_a_fact_that_is_not_there_names_modality_and_key(key: str, state: str) -> None:
    spec = {**SPEC, "modalities": {"image": {"kind": "image", "shape": [3, None, 12], "range": [0, 255]}}}
    config = composed(f"model.adapters.image.image_channels=${{modality:{key}}}")
    with pytest.raises(Exception, match="modality") as caught:
        resolve(config, spec)
    message = one_line(caught.value)
    assert message.startswith(f"model.adapters.image: {key!r} of modality 'image' ")
    assert state in message


def test_modality_stands_below_adapters_only() -> None:
    with pytest.raises(Exception, match=r"below model\.adapters"):
        resolve(composed("model.encoder.num_latents=${modality:shape.0}"), SPEC)


def test_a_task_that_does_not_go_with_the_data_says_what_the_data_has() -> None:
    message = (
        r"refers to spec\.(num_outputs|target\.mean), which the spec of this data lacks. Its target is of kind 'classes'"
    )
    with pytest.raises(ValueError, match=message):
        resolve(composed("task=regression"), SPEC)
