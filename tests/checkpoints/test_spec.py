"""Specs from files: facts that no data has are refused where they enter, by name."""

from copy import deepcopy
from typing import Any

import pytest
from hostile_files import set_at

from perceiver.checkpoints import PlainError
from perceiver.checkpoints.spec import check_spec

SPEC: dict[str, Any] = {
    "modalities": {
        "image": {"kind": "image", "shape": [3, 8, 8], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1, 2.0], "range": [0, 255]},
        "sound": {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": None},
        "facts": {"kind": "table", "numbers": ["age"], "categories": {"sex": ["f", "m"]}, "mean": [40.0], "std": [9.0]},
        "own": {"kind": "my_package.Thermometer", "mean": "whatever", "shape": "free"},
        "unknown": {"mean": 3},
    },
    "target": {"kind": "classes", "names": ["cat", "dog"], "counts": [3, 4]},
    "num_classes": 2,
}


def test_facts_of_data_are_accepted() -> None:
    check_spec(SPEC)
    check_spec({})
    check_spec({**SPEC, "target": {}})
    check_spec({**SPEC, "target": {"kind": "of_a_plug_in", "names": 3}})


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("modalities", [1], "spec.modalities: expected a mapping from names to entries, got [1]"),
        ("modalities.image", "image", "spec.modalities.image: expected a mapping with a kind, got 'image'"),
        ("modalities.image.kind", 3, "spec.modalities.image.kind: expected a string, got 3"),
        ("modalities.image.shape", [8, 8], "spec.modalities.image.shape: expected 3 sizes for kind 'image', got [8, 8]"),
        ("modalities.image.shape", [3, -8, 8], "spec.modalities.image.shape: expected a list of sizes"),
        ("modalities.image.shape", [3, 2**20, 2**20], "spec.modalities.image.shape: expected at most 1,073,741,824 values"),
        (
            "modalities.image.shape",
            None,
            "spec.modalities.image.shape: expected a list of sizes, 1 or more or null, got nothing",
        ),
        ("modalities.sound.sample_rate", None, "spec.modalities.sound.sample_rate: expected a finite number above 0, got"),
        ("modalities.image.mean", [0.1], "spec.modalities.image: expected as many entries in mean, std"),
        ("modalities.image.mean", None, "spec.modalities.image: expected as many entries in mean, std"),
        ("modalities.image.std", [0.0, 1.0, 1.0], "spec.modalities.image.std: expected a list of finite numbers above 0"),
        ("modalities.image.range", None, "spec.modalities.image.range: expected [lowest, highest], got nothing"),
        ("modalities.image.range", [9, 9], "spec.modalities.image.range: expected [lowest, highest], got [9, 9]"),
        ("modalities.sound.sample_rate", True, "spec.modalities.sound.sample_rate: expected a finite number above 0"),
        (
            "modalities.sound.max_seconds",
            float("nan"),
            "spec.modalities.sound.max_seconds: expected a finite number above 0",
        ),
        ("modalities.facts.categories", {"sex": [1]}, "spec.modalities.facts.categories: expected a mapping from columns"),
        ("target", 5, "spec.target: expected a mapping with a kind, got 5"),
        ("target.names", "cat", "spec.target.names: expected a list of strings, got 'cat'"),
        ("target.counts", [1, -1], "spec.target.counts: expected a list of whole numbers, 0 or more, got [1, -1]"),
        ("num_classes", 0, "spec.num_classes: expected a whole number, 1 or more, got 0"),
        ("target._target_", "os.system", "spec.target._target_: keys that begin and end with '_'"),
    ],
)
def test_what_no_data_has_is_named(place: str, value: Any, message: str) -> None:
    spec = deepcopy(SPEC)
    set_at(spec, place, value)
    with pytest.raises(PlainError) as caught:
        check_spec(spec)
    assert message in str(caught.value)


def test_a_table_of_categories_alone_has_no_statistics() -> None:
    table = {"kind": "table", "numbers": [], "categories": {"sex": ["f", "m"]}, "mean": [], "std": []}
    check_spec({"modalities": {"facts": table}})
    for other in ({**table, "numbers": ["age"]}, {**table, "kind": "image"}):
        with pytest.raises(PlainError, match=r"facts\.mean: expected a list of finite numbers, got \[\]"):
            check_spec({"modalities": {"facts": other}})
