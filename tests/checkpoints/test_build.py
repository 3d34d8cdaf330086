"""Building from configs: wiring, errors that name the path, and configs from strangers."""

import copy
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perceiver
from perceiver.checkpoints.build import ConfigError, build_model, canonical
from perceiver.checkpoints.trusted_classes import TargetError
from perceiver.runtime.plain import PlainError

Config = dict[str, Any]


def changed(config: Config, path: str, value: object) -> Config:
    """A copy of the config with one value set; a value of `...` removes the key."""
    copied = copy.deepcopy(config)
    *parents, last = path.split(".")
    node = copied
    for key in parents:
        node = node.setdefault(key, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return copied


def test_a_config_becomes_a_model(config: Config) -> None:
    model = build_model(config, spec={"num_classes": 4})
    assert isinstance(model, perceiver.Perceiver)
    assert model({"image": torch.rand(2, 1, 8, 8)}).shape == (2, 4)
    assert model.encode({"image": torch.rand(2, 1, 8, 8)}).shape == (2, 3, 8)
    assert model.spec == {"num_classes": 4}


def test_the_config_is_left_as_it_was(config: Config) -> None:
    before = copy.deepcopy(config)
    build_model(config)
    canonical(config)
    assert config == before


def test_several_adapters_are_fused_to_one_width(config: Config) -> None:
    config["adapters"]["depth"] = changed(config["adapters"]["image"], "image_channels", 3)
    fused = build_model(config)
    assert fused.fusion.channels == fused.adapters["depth"].channels + 4
    wide = build_model(changed(config, "fusion", {"_target_": "perceiver.Fusion", "padding": 7}))
    assert wide.fusion.channels == fused.fusion.channels + 3
    inputs = {"image": torch.rand(2, 1, 8, 8), "depth": torch.rand(2, 3, 4, 4)}
    assert wide(inputs).shape == (2, 4)


def test_one_adapter_takes_a_configured_or_an_empty_fusion(config: Config) -> None:
    image = {"image": torch.rand(1, 1, 8, 8)}
    assert build_model(changed(config, "fusion", None))(image).shape == (1, 4)
    assert build_model(changed(config, "fusion", {"_target_": "perceiver.Fusion"}))(image).shape == (1, 4)


def test_hydras_own_keys_are_tolerated(config: Config) -> None:
    config["_convert_"] = "all"
    config["encoder"]["_recursive_"] = False
    build_model(config)


def test_parts_may_be_nested_in_lists_and_mappings(config: Config, packages: Path) -> None:
    inner = {"a": [{"_target_": "plugin_of_tests.Counted", "channels": 5}], "b": {"c": (1, 2)}}
    config["adapters"]["image"] = {"_target_": "plugin_of_tests.Counted", "channels": 3, "inner": inner}
    build_model(config)
    assert sys.modules["plugin_of_tests.parts"].calls == ["Counted", "Counted"]


def test_canonical_rewrites_every_target_and_can_be_built_with_trust(config: Config) -> None:
    own = canonical(config)
    assert own["_target_"] == "perceiver.model.Perceiver"
    assert own["adapters"]["image"]["_target_"] == "perceiver.adapters.image.ImagePixels"
    assert own["adapters"]["image"]["position"]["_target_"] == "perceiver.tokens.positions.Fourier"
    assert own["head"]["_target_"] == "perceiver.decoders.pooled.PooledHead"
    assert canonical(own) == own
    build_model(own, trust=[])
    with pytest.raises(TargetError, match="an alias of"):
        build_model(config, trust=[])


ERRORS = [
    (
        "encoder.num_latent",
        3,
        ConfigError,
        "model.encoder.num_latent: unknown argument of perceiver.encoders.encoder.Encoder; did you mean num_latents?; "
        "expected arguments: num_latents, latent_channels, ",
    ),
    (
        "encoder.num_latents",
        ...,
        ConfigError,
        "model.encoder: missing num_latents, required by perceiver.encoders.encoder.Encoder",
    ),
    (
        "encoder.num_latents",
        "???",
        ConfigError,
        "model.encoder.num_latents: must be given; the config has the placeholder ???",
    ),
    (
        "head.num_classes",
        "${spec.num_classes}",
        ConfigError,
        "model.head.num_classes: '${spec.num_classes}' is not resolved",
    ),
    (
        "encoder.token_channels",
        11,
        ConfigError,
        "model.encoder.token_channels: remove it from the config; it is derived from the parts already built",
    ),
    ("head.latent_channels", 8, ConfigError, "model.head.latent_channels: remove it from the config"),
    (
        "fusion",
        {"_target_": "perceiver.Fusion", "channels": {"image": 3}},
        ConfigError,
        "model.fusion.channels: remove it from the config",
    ),
    ("spec", {}, ConfigError, "model.spec: remove it from the config"),
    (
        "encoder._target_",
        "perceiver.Encodr",
        TargetError,
        "model.encoder._target_: perceiver.Encodr: perceiver has no Encodr; did you mean Encoder?",
    ),
    (
        "encoder._target_",
        "perceivr.Encoder",
        TargetError,
        "model.encoder._target_: perceivr.Encoder: module perceivr was not found; is its package installed",
    ),
    ("encoder._target_", ..., ConfigError, "model.encoder: has no _target_"),
    ("encoder", 3, ConfigError, "model.encoder: expected a mapping with _target_ and arguments, got int '3'"),
    ("encoder", None, ConfigError, "model.encoder: missing; a model requires adapters, encoder and head"),
    ("head", ..., ConfigError, "model.head: missing"),
    (
        "adapters",
        {},
        ConfigError,
        "model.adapters: expected a mapping from one or more modalities to adapters, got an empty mapping",
    ),
    ("adapters", [], ConfigError, "model.adapters: expected a mapping"),
    (
        "adapters.image",
        {"_target_": "torch.nn.Identity"},
        ConfigError,
        "model.adapters.image: torch.nn.modules.linear.Identity.channels: expected a positive int",
    ),
    ("adapters.im age", {"_target_": "torch.nn.Identity"}, ConfigError, "'im age' cannot name a modality"),
    (
        "_target_",
        "torch.nn.Identity",
        ConfigError,
        "model._target_: expected perceiver.Perceiver or a subclass, got torch.nn.modules.linear.Identity",
    ),
    ("_target_", "perceiver.load", TargetError, "perceiver.load is a function or another callable, not a class"),
    ("wings", 2, ConfigError, "model.wings: unknown argument of perceiver.model.Perceiver"),
    ("encoder._partial_", True, ConfigError, "model.encoder._partial_: partial objects are refused"),
    ("encoder._args_", [3], ConfigError, "model.encoder._args_: positional arguments are refused"),
    (
        "encoder._convert_",
        "${oc.env:HOME}",
        ConfigError,
        "model.encoder._convert_: expected one of Hydra's settings, got str",
    ),
    ("encoder._targte_", "x", ConfigError, "model.encoder._targte_: unknown special key; did you mean _target_?"),
    ("encoder.num_latents", 0, ConfigError, "model.encoder (perceiver.encoders.encoder.Encoder): "),
    ("encoder.num_latents", print, PlainError, "model.encoder.num_latents: builtin_function_or_method is not a plain value"),
    ("head", {"_target_": "torch.nn.Identity"}, None, ""),
    (
        "head",
        {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
        ConfigError,
        "model.head: torch.nn.modules.linear.Linear must accept the keyword argument latent_channels",
    ),
    ("head", {"_target_": "perceiver.run", "x": 1}, TargetError, "not a class"),
]


@pytest.mark.parametrize(("path", "value", "kind", "message"), ERRORS, ids=lambda value: str(value)[:40])
def test_errors_name_the_path_and_the_fix(
    config: Config, path: str, value: object, kind: type[Exception] | None, message: str
) -> None:
    wrong = changed(config, path, value)
    if kind is None:
        build_model(wrong)  # a head with **kwargs takes whatever it is built with
        return
    with pytest.raises(kind, match=re.escape(message)) as caught:
        build_model(wrong)
    assert str(caught.value).startswith("model")
    assert isinstance(caught.value, ValueError)


def test_a_constructors_own_error_names_the_path(config: Config, packages: Path) -> None:
    config["adapters"]["image"] = {"_target_": "plugin_of_tests.parts.Failing", "size": 0}
    with pytest.raises(ConfigError) as caught:
        build_model(config)
    assert str(caught.value) == (
        "model.adapters.image (plugin_of_tests.parts.Failing): Failing.size: expected at least 1, got 0."
    )


def test_a_spec_must_be_plain(config: Config) -> None:
    with pytest.raises(PlainError, match=r"spec\.mean: torch\.Tensor is not a plain value; .*use \.item\(\) or \.tolist"):
        build_model(config, spec={"mean": torch.ones(1)})


def test_trust_as_a_string_is_caught(config: Config) -> None:
    with pytest.raises(TypeError, match="trust: expected a list of package names, got the string 'my_package'"):
        build_model(canonical(config), trust="my_package")


PLACES: list[Callable[[Config, Config], None]] = [
    lambda config, node: config["adapters"].__setitem__("other", node),
    lambda config, node: config["adapters"]["image"].__setitem__("position", node),
    lambda config, node: config["adapters"]["image"]["position"].__setitem__("resolution", [8, node]),
    lambda config, node: config["encoder"].__setitem__("num_latents", {"a": {"b": [[[node]]]}}),
    lambda config, node: config.__setitem__("fusion", node),
    lambda config, node: config["head"].__setitem__("x", node),
    lambda config, node: config["head"].__setitem__("x", {"_target_": "torch.nn.modules.linear.Identity", "y": [node]}),
    lambda config, node: config.__setitem__("unused", [[{"deep": node}]]),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "evil_of_tests.run", "evil_of_tests.Adapter", "perceiver.checkpoints.os.system"]
)
def test_a_hostile_target_anywhere_stops_everything_before_the_first_call(
    config: Config, packages: Path, place: Callable[[Config, Config], None], target: str
) -> None:
    tree = canonical(config)
    tree["adapters"]["canary"] = {"_target_": "plugin_of_tests.parts.Counted"}
    place(tree, {"_target_": target, "command": f"touch {packages}/EXECUTED", "source": "1"})
    with pytest.raises(TargetError, match=re.escape(target)):
        build_model(tree, trust=["plugin_of_tests"])
    parts = sys.modules.get("plugin_of_tests.parts")
    assert parts is None or parts.calls == []
    assert not (packages / "EXECUTED").exists()
    assert not (packages / "IMPORTED").exists()


@pytest.mark.parametrize("key", ["_partial_", "_args_"])
@pytest.mark.parametrize("place", PLACES)
def test_special_keys_are_refused_anywhere(config: Config, key: str, place: Callable[[Config, Config], None]) -> None:
    tree = canonical(config)
    place(tree, {"_target_": "torch.nn.modules.linear.Identity", key: []})
    with pytest.raises(ConfigError, match=re.escape(f"{key}: ")):
        build_model(tree, trust=[])


def test_a_tree_that_names_one_untrusted_package_imports_none(config: Config, packages: Path) -> None:
    tree = canonical(config)
    tree["adapters"]["a"] = {"_target_": "plugin_of_tests.parts.Counted"}
    tree["head"]["z"] = {"_target_": "evil_of_tests.Adapter"}
    with pytest.raises(TargetError):
        build_model(tree, trust=["plugin_of_tests"])
    assert "plugin_of_tests" not in sys.modules


def test_recursion_bombs(config: Config) -> None:
    node: Config = {"_target_": "torch.nn.modules.linear.Identity"}
    for _ in range(100_000):
        node = {"_target_": "torch.nn.modules.linear.Identity", "x": node}
    with pytest.raises(PlainError, match="nested deeper than 64 levels"):
        build_model(changed(canonical(config), "head", node), trust=[])
    loop = canonical(config)
    loop["head"]["x"] = loop
    with pytest.raises(PlainError, match="contains itself"):
        build_model(loop, trust=[])


# Random trees, built from good and bad names, with an audit hook that watches what Python does meanwhile.

WATCHED = ("os.", "subprocess.", "shutil.", "socket.", "pickle.", "ctypes.")
_seen: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event.startswith(WATCHED) and event not in ("os.listdir", "os.scandir"):
        _seen.append(f"{event} {arguments}")


@pytest.fixture(scope="module")
def audited() -> Iterator[None]:
    """Python has no way to remove an audit hook; it stays, and looks only while a list is set."""
    sys.addaudithook(_watch)
    return


NAMES = st.sampled_from(
    ["os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "perceiver.checkpoints.os.system", "torch.load",
     "torch.nn.modules.module.torch.load", "torch.nn.modules.module.Module", "torch.nn.modules.linear.Linear",
     "torch.nn.modules.linear.Identity", "torch.nn.modules.container.Sequential", "perceiver.encoders.encoder.Encoder",
     "perceiver.model.Perceiver", "perceiver.decoders.pooled.PooledHead",
     "perceiver.tokens.positions.Fourier", "perceiver.load",
     ""]
)  # fmt: skip
KEYS = st.sampled_from(
    ["_target_", "_target_", "adapters", "encoder", "head", "fusion", "image", "position", "command", "source", "args",
     "file", "f", "num_latents", "latent_channels", "channels", "device", "_convert_", "_partial_", "modules"]
)  # fmt: skip
VALUES = NAMES | st.integers(-1, 9) | st.booleans() | st.none() | st.just("__import__('os').system('true')")
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
    ),
    max_size=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES, st.booleans())
def test_random_trees_run_nothing_untrusted(audited: None, config: Config, tree: Config, complete: bool) -> None:
    global _seen
    base = canonical(config) if complete else {}
    _seen = events = []
    try:
        build_model(base | tree, trust=[])
    except ValueError as error:
        assert isinstance(error, ConfigError | TargetError | PlainError)  # noqa: PT017
    finally:
        _seen = None
    assert events == []
