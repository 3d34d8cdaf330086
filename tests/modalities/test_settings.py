"""Settings of each kind: the part of the spec that they determine, and errors that name the setting."""

import re
from typing import Any

import pytest

from perceiver.modalities.kinds import KINDS, channel_axes


def spec(kind: str, **changes: Any) -> dict[str, Any]:
    return KINDS[kind].spec({**KINDS[kind].settings, **changes})


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("image", {"size": [6, 5]}, {"shape": [3, 6, 5], "range": [0, 255], "crop_fraction": 1.0}),
        (
            "image",
            {"size": [1, 1], "channels": 1, "crop_fraction": 0.5, "deep_range": (0, 4095)},
            {"shape": [1, 1, 1], "range": [0, 255], "crop_fraction": 0.5, "deep_range": [0, 4095]},
        ),
        ("video", {"size": [6, 5]}, {"shape": [3, 16, 6, 5], "range": [0, 255], "crop_fraction": 1.0}),
        ("video", {"size": [6, 5], "num_frames": None}, {"shape": [3, None, 6, 5], "range": [0, 255], "crop_fraction": 1.0}),
        (
            "audio",
            {"sample_rate": 1, "channels": 2, "max_seconds": 0.5},
            {"shape": [2, None], "sample_rate": 1, "max_seconds": 0.5, "integer_bits": 16},
        ),
        (
            "audio",
            {"sample_rate": 8000},
            {"shape": [1, None], "sample_rate": 8000, "max_seconds": None, "integer_bits": 16},
        ),
        ("points", {}, {"unit_sphere": True}),
        ("points", {"unit_sphere": False, "features": ["normals"]}, {"unit_sphere": False, "features": ["normals"]}),
        ("text", {}, {"shape": [None], "vocabulary_size": 262, "max_length": None, "files": False}),
        (
            "text",
            {"max_length": 1, "files": True, "truncate": False},
            {"shape": [None], "vocabulary_size": 262, "max_length": 1, "files": True, "truncate": False},
        ),
        ("points", {"decimal": ","}, {"unit_sphere": True, "decimal": ","}),
        ("timeseries", {}, {"time": None, "step_seconds": None}),
        ("timeseries", {"thousands": ","}, {"time": None, "step_seconds": None, "thousands": ","}),
        (
            "timeseries",
            {"time": "t", "values": ["a", 3], "step_seconds": 0.5},
            {"time": "t", "step_seconds": 0.5, "names": ["a", "3"], "num_values": 2},
        ),
        (
            "table",
            {"columns": ["a", "b"], "numbers": ["b"], "categories": ["c"], "decimal": ",", "thousands": "."},
            {
                "columns": ["a", "b", "c"],
                "asked_numbers": ["b"],
                "asked_categories": ["c"],
                "decimal": ",",
                "thousands": ".",
            },
        ),
        ("table", {"columns": ["a"]}, {"columns": ["a"], "asked_numbers": [], "asked_categories": []}),
        ("table", {"numbers": ["a"]}, {"columns": ["a"], "asked_numbers": ["a"], "asked_categories": []}),
        (
            "table",
            {"columns": ["a"], "thousands": "'"},
            {"columns": ["a"], "asked_numbers": [], "asked_categories": [], "thousands": "'"},
        ),
    ],
)
def test_settings_become_the_spec(kind: str, settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert spec(kind, **settings) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("image", {"size": [6, 5], "channels": 2}, "channels: expected 3 (colour) or 1 (grey), got 2"),
        ("image", {"size": [6]}, "data.size: expected [height, width]"),
        ("image", {"size": [6, 0]}, "data.size: expected [height, width]"),
        ("image", {"size": [6, 5, 4]}, "data.size: expected [height, width]"),
        ("image", {"size": [6, 5], "crop_fraction": 0.0}, "data.crop_fraction: expected a share above 0, at most 1, got 0"),
        (
            "image",
            {"size": [6, 5], "crop_fraction": 1.5},
            "data.crop_fraction: expected a share above 0, at most 1, got 1.5",
        ),
        ("image", {"size": [6, 5], "deep_range": [0, 1, 2]}, "deep_range: expected [black, white]"),
        ("image", {"size": [6, 5], "deep_range": [3, 3]}, "deep_range: expected [black, white]"),
        ("video", {"size": [6, 5], "num_frames": 0}, "num_frames: expected a whole number above 0, got 0"),
        ("audio", {}, "sample_rate: expected a whole number above 0, got None"),
        ("audio", {"sample_rate": 0}, "sample_rate: expected a whole number above 0, got 0"),
        ("audio", {"sample_rate": True}, "sample_rate: expected a whole number above 0, got True"),
        ("audio", {"sample_rate": 0.5}, "sample_rate: expected a whole number above 0, got 0.5"),
        ("audio", {"sample_rate": 8000, "channels": None}, "channels: expected a whole number above 0, got None"),
        ("audio", {"sample_rate": 8000, "max_seconds": 0}, "max_seconds: expected a number above 0, got 0"),
        ("audio", {"sample_rate": 8000, "max_seconds": "1"}, "max_seconds: expected a number above 0, got '1'"),
        ("points", {"features": "normals"}, "features: expected a list of names"),
        ("points", {"features": [1]}, "features: expected a list of names"),
        ("text", {"max_length": 0}, "max_length: expected a whole number above 0, got 0"),
        ("text", {"truncate": "no"}, "truncate: expected true or false, got 'no'"),
        ("text", {"vocabulary_size": None}, "vocabulary_size: expected a whole number above 0, got None"),
        ("timeseries", {"step_seconds": 0}, "step_seconds: expected a number above 0, got 0"),
        ("timeseries", {"values": []}, "values: expected the names of one or more columns"),
        ("table", {}, "expected columns, or numbers and categories"),
        ("table", {"numbers": ["a"], "categories": ["a"]}, "expected columns, or numbers and categories"),
        ("table", {"columns": ["a"], "decimal": "::"}, "decimal: expected one character between digits"),
        ("table", {"columns": ["a"], "thousands": "0"}, "thousands: expected one character between digits"),
        ("table", {"columns": ["a"], "decimal": ",", "thousands": ","}, "decimal: expected one character between digits"),
    ],
)
def test_invalid_settings_are_named(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
        spec(kind, **settings)


def test_channel_axes_of_kinds_without_a_class() -> None:
    assert channel_axes("x", {"kind": "depth", "channel_axis": 0}) == 0
    assert channel_axes("x", {"kind": "depth", "channel_axis": -1}) == -1
    assert channel_axes("x", {"kind": "depth", "channel_axis": "none"}) is None
    mixed = {"depth": -1, "time": "none", "valid": None, "rays": 0}
    expected = {"depth": -1, "time": None, "valid": None, "rays": 0}
    assert channel_axes("x", {"kind": "depth", "channel_axis": mixed}) == expected
    for wrong in (None, 1, "last", {"depth": 1}):
        with pytest.raises(ValueError, match=r"spec\.modalities\.x: kind 'depth' is not one of image, .*channel_axis"):
            channel_axes("x", {"kind": "depth"} if wrong is None else {"kind": "depth", "channel_axis": wrong})


def test_columns_twice_are_shown() -> None:
    with pytest.raises(ValueError, match=r"got \{'numbers': \['a'\], 'categories': \['a'\]\}\.$"):
        spec("table", numbers=["a"], categories=["a"])
