"""What users write for `data.modalities`, and what they are told when it makes no sense."""

from typing import Any

import plug_in_kinds
import pytest

from perceiver.data.manifest.modalities import parse_modalities, stored_modality

DEFAULTS = {
    "image": {"size": [8, 9], "channels": 3},
    "video": {"size": [8, 9], "channels": 3},
    "audio": {"sample_rate": 8000, "channels": 1, "max_seconds": None},
}


def made(settings: Any, name: str = "x") -> dict[str, Any]:
    [modality] = parse_modalities({name: settings}, defaults=DEFAULTS)
    assert stored_modality(name, modality.spec).columns == modality.columns
    return modality.spec


def test_defaults_and_settings_of_their_own() -> None:
    assert made("image", "photo") == {
        "kind": "image", "shape": [3, 8, 9], "range": [0, 255], "crop_fraction": 1.0, "column": "photo",
    }  # fmt: skip
    assert made({"kind": "image", "size": [4, 4], "channels": 1, "column": "p"})["shape"] == [1, 4, 4]
    assert made("audio") == {
        "kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": None, "integer_bits": 16, "column": "x",
    }  # fmt: skip
    assert made({"kind": "video", "num_frames": None})["shape"] == [3, None, 8, 9]
    assert made("video")["shape"] == [3, 16, 8, 9]
    assert made("text")["vocabulary_size"] == 262
    series = made({"kind": "timeseries", "values": ["a", "b"], "step_seconds": 0.5})
    assert (series["names"], series["num_values"], series["step_seconds"]) == (["a", "b"], 2, 0.5)
    assert "names" not in made("timeseries")
    assert made("points")["unit_sphere"] is True


def test_tables_name_columns() -> None:
    [one] = parse_modalities({"patient": {"kind": "table", "columns": ["age"], "categories": ["sex"]}}, defaults={})
    assert one.columns == ("age", "sex")
    assert one.spec["asked_categories"] == ["sex"]


def test_kinds_of_plug_ins_say_their_shape() -> None:
    settings = {"kind": "thermometer", "shape": [None], "channel_axis": "none"}
    assert made(settings) == {**settings, "column": "x"}


def test_kinds_of_other_packages() -> None:
    assert made({"kind": "plug_in_kinds.Counts", "gain": 2.0, "column": "c"}) == {
        "kind": "plug_in_kinds.Counts", "shape": [1, None], "gain": 2.0, "column": "c",
    }  # fmt: skip
    assert made({"kind": plug_in_kinds.Counts}) == made("plug_in_kinds.Counts")
    [wind] = parse_modalities({"wind": {"kind": "plug_in_kinds.Wind", "columns": ["v", "a"]}}, defaults={})
    assert (wind.columns, wind.spec["columns"]) == (("v", "a"), ["v", "a"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("plug_in_kinds.Nothing", r"data\.modalities\.x\.kind: plug_in_kinds\.Nothing: plug_in_kinds has no Nothing"),
        ("plug_in_kinds.Count", r"did you mean Counts\?"),
        ("no_such_package.Kind", "module no_such_package was not found; is its package installed"),
        ("os.path.join", "is a function or another callable, not a class"),
        ("torch.nn.Linear", r"not derived from perceiver\.modalities\.modality\.Modality"),
        ("plug_in_kinds.NeedsArguments", "cannot be made without arguments: .*size"),
        (
            {"kind": "plug_in_kinds.Counts", "rate": 1},
            r"plug_in_kinds\.Counts has no setting rate; its settings: column, path, gain",
        ),
        ({"kind": "plug_in_kinds.Counts", "gain": 0}, r"data\.modalities\.x: gain: expected another number"),
        ("imgae", r"data\.modalities\.x: kind 'imgae' is not one of image, video, .* give the shape"),
        (3, r"data\.modalities\.x: expected a kind, one of image, .* got 3"),
        ({"column": "p"}, r"data\.modalities\.x: expected a kind"),
        (
            {"kind": "image", "rate": 3},
            r"data\.modalities\.x: kind image has no setting rate; its settings: column, path",
        ),
        ({"kind": "image", "channels": 4}, r"data\.modalities\.x: channels: expected 3 \(colour\) or 1 \(grey\), got 4"),
        ({"kind": "image", "size": [0, 3]}, r"data\.modalities\.x: .*size: expected \[height, width\]"),
        ({"kind": "audio", "sample_rate": -1}, r"data\.modalities\.x: sample_rate: expected a whole number above 0, got -1"),
        ({"kind": "audio", "sample_rate": None}, "sample_rate: expected a whole number above 0, got None"),
        ({"kind": "text", "max_length": 0}, "max_length: expected"),
        ({"kind": "timeseries", "values": []}, "values: expected the names"),
        ({"kind": "timeseries", "step_seconds": "x"}, "step_seconds: expected a number above 0, got 'x'"),
        ({"kind": "table"}, r"data\.modalities\.x: expected columns, or numbers and categories"),
        ({"kind": "table", "column": "a"}, "table has no setting column"),
        ({"kind": "table", "numbers": ["a"], "categories": ["a"]}, "a list of distinct columns"),
    ],
)
def test_errors_name_modality_and_setting(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(settings)


@pytest.mark.parametrize("name", ["values", "training", "a.b", ""])
def test_names_that_no_module_can_have(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.modalities\.{name}: torch does not allow a module of this name"):
        made("image", name)
    assert made({"kind": "image", "column": name}, "photo")["column"] == name


def test_none() -> None:
    with pytest.raises(ValueError, match=r"data\.modalities: expected one or more modalities with their kinds"):
        parse_modalities({}, defaults={})


def test_separators_of_numbers_may_differ_from_those_in_training() -> None:
    [asked] = parse_modalities({"x": {"kind": "points", "decimal": ","}}, defaults={})
    stored = {"kind": "points", "unit_sphere": True, "shape": [None, 3], "thousands": ",", "column": "y"}
    assert stored_modality("x", stored).spec == stored
    found = stored_modality("x", stored, asked=asked).spec
    assert found == {"kind": "points", "unit_sphere": True, "shape": [None, 3], "decimal": ",", "column": "x"}
    [silent] = parse_modalities({"x": "points"}, defaults={})
    assert stored_modality("x", stored, asked=silent).spec["thousands"] == ","
