"""Every table that knows kinds knows the same ones, and a kind of another package is found by its class."""

from pathlib import Path
from typing import Any

import numpy as np
import plug_in_kinds
import pytest
import torch
from PIL import Image

from perceiver.data.manifest.cells import CELLS, cells_of
from perceiver.data.manifest.modalities import parse_modalities
from perceiver.modalities import Modality
from perceiver.modalities.kinds import KINDS, channel_axes, kind_of
from perceiver.modalities.points import ArrayModality
from perceiver.modalities.preprocess import normalise, preprocess, unnormalised
from perceiver.plots import Drawing, GridDrawing, drawing_of
from perceiver.plots.drawings import KINDS as DRAWINGS
from perceiver.testing import Check, modality_checks

SETTINGS: dict[str, dict[str, Any]] = {
    "image": {"size": [6, 5]},
    "video": {"size": [6, 5], "num_frames": 2},
    "audio": {"sample_rate": 800},
    "points": {},
    "text": {},
    "timeseries": {"values": ["a"]},
    "table": {"columns": ["age", "sex"]},
}


def raw_samples(kind: str) -> list[Any]:
    """Two of each kind, of different lengths where it has any."""
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 256, (8, 9 + n, 3), dtype=np.uint8)) for n in range(4)]
    samples: dict[str, list[Any]] = {
        "image": pictures[:2],
        "video": [pictures[:2], pictures[2:]],
        "audio": [draw.normal(size=50), draw.normal(size=(1, 70))],
        "points": [draw.normal(size=(5, 3)), draw.normal(size=(7, 3))],
        "text": ["Grüße", "at some length"],
        "timeseries": [{"values": draw.normal(size=(n, 1)), "times": np.arange(n)} for n in (4, 6)],
        "table": [{"age": 41.0, "sex": "f"}, {"age": 30.0, "sex": "m"}],
    }
    return samples[kind]


LEARNED: dict[str, dict[str, Any]] = {
    "table": {"numbers": ["age"], "mean": [35.0], "std": [5.0], "categories": {"sex": ["f", "m"]}, "category_sizes": [3]}
}
CHECKS = [
    pytest.param(check, id=f"{kind}-{check}")
    for kind in SETTINGS
    for check in modality_checks(
        type(KINDS[kind]),
        lambda kind=kind: raw_samples(kind),
        settings=SETTINGS[kind],
        entries=LEARNED.get(kind),  # type: ignore[misc]
    )
]


@pytest.mark.parametrize("check", CHECKS)
def test_built_in_kinds_pass_the_kit_of_plug_ins(check: Check) -> None:
    check()


def test_all_tables_have_the_same_kinds(repository: Path) -> None:
    """Drawings may be missing, where numbers on a grid serve."""
    assert set(CELLS) == set(KINDS) == set(SETTINGS)
    assert set(DRAWINGS) <= set(KINDS)
    for kind, behaviour in KINDS.items():
        assert (repository / "conf" / "adapter" / f"{behaviour.adapter or kind}.yaml").is_file()
        [modality] = parse_modalities({"x": {"kind": kind, **SETTINGS[kind]}}, defaults={})
        assert modality.behaviour is kind_of(modality.spec) is behaviour
        assert cells_of(modality.spec) is CELLS[kind]
        assert channel_axes("x", modality.spec) == behaviour.channel_axis
        assert isinstance(drawing_of(modality.spec, None), Drawing)
        assert behaviour.several_columns == (len(modality.columns) > 1)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ({"kind": "image", "shape": [2, 3, 4]}, (2, 3, 4)),
        ({"kind": "points", "shape": [None, 2]}, (5, 2)),
        ({"kind": "words", "shape": [2, None], "channel_axis": 0}, (2, 5)),
        ({"kind": "words", "shape": [None, 2], "channel_axis": -1}, (5, 2)),
        ({"kind": "plug_in_kinds.Bases"}, (5, 2)),
        ({"kind": "plug_in_kinds.Counts", "shape": [2, None]}, (2, 5)),
    ],
)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_normalisation_is_per_channel_and_inverted(
    spec: dict[str, Any], shape: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    axis = channel_axes("x", spec)
    assert isinstance(axis, int)
    x = torch.randn(*batch, *shape)
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    where = axis if axis < 0 else len(batch)
    expected = ((x.movedim(where, -1) - mean) / std).movedim(-1, where)
    spec = {**spec, "mean": mean.tolist(), "std": std.tolist()}
    torch.testing.assert_close(normalise(x, spec), expected)
    torch.testing.assert_close(unnormalised(normalise(x, spec), spec), x)


def test_a_class_is_found_by_its_own_spelling() -> None:
    assert type(kind_of({"kind": "plug_in_kinds.Bases"})) is plug_in_kinds.Bases
    assert isinstance(kind_of({"kind": "thermometer"}), ArrayModality)
    assert isinstance(kind_of({"kind": "a.b", "channel_axis": 0}), ArrayModality), "a word in version 0.1"
    with pytest.raises(ValueError, match=r"'os\.path' is a class that is not imported.*trust=\['os'\]"):
        kind_of({"kind": "os.path"})
    assert isinstance(drawing_of({"kind": "plug_in_kinds.Bases"}, None), GridDrawing)


PLAIN = GridDrawing()


class Drawn(Modality):
    """With a drawing of its own."""

    channel_axis = None

    def drawing(self, spec: Any, adapter: Any) -> Any:
        return PLAIN


def test_a_kind_brings_its_drawing() -> None:
    assert drawing_of({"kind": f"{Drawn.__module__}.{Drawn.__qualname__}"}, None) is PLAIN


class Plain(Modality):
    """Nothing but a layout."""

    channel_axis = None


class Broken(Modality):
    """Has an error of its own, about a key that the spec has."""

    channel_axis = None

    def tensor(self, raw: Any, spec: Any, name: str) -> torch.Tensor:
        raise KeyError(raw)


def test_defaults_of_kinds() -> None:
    kind, settings = Plain(), {"a": 1}
    assert kind.spec(settings) == settings
    assert kind.spec(settings) is not settings
    assert kind.read("cell", {}) == "cell"
    x = kind.tensor(np.array([1, 2]), {}, "x")
    assert (x.dtype, x.tolist()) == (torch.float32, [1, 2])
    assert (kind.statistics([x], {}), kind.drawing({}, None)) == ({}, None)
    assert (kind.settings, kind.adapter, kind.cells, kind.several_columns, kind.peak) == ({}, None, "numbers", False, None)


def test_errors_of_a_kind_itself_are_not_explained_away() -> None:
    spec = {"kind": f"{Broken.__module__}.{Broken.__qualname__}", "a": 1}
    with pytest.raises(KeyError, match="^'a'$"):
        preprocess("a", spec=spec, name="x")
    with pytest.raises(ValueError, match=r"x: the spec has no 'b', which kind '.*Broken' needs; it has kind, a"):
        preprocess("b", spec=spec, name="x")


def test_without_statistics_nothing_is_undone() -> None:
    x = torch.tensor([1.5], dtype=torch.float64)
    found = unnormalised(x, {"kind": "image", "shape": [1]})
    assert (found.dtype, found.tolist()) == (torch.float32, [1.5])
    assert normalise(x, {"kind": "image", "shape": [1]}) is x
