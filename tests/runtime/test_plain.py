"""Plain trees: what passes, what is refused, and that cyclic or exploding trees cost nothing."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from perceiver.runtime.plain import MAX_DEPTH, PlainError, child_path, plain

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@given(TREES)
def test_plain_trees_come_back_equal_and_share_nothing(tree: object) -> None:
    copy = plain(tree, path="x")
    assert copy == tree
    if isinstance(tree, dict | list):
        assert copy is not tree


def test_tuples_become_lists() -> None:
    assert plain({"a": (1, (2,))}, path="x") == {"a": [1, [2]]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(0.5), "numpy.float64 is not a plain value"),
        (torch.ones(1), "torch.Tensor is not a plain value"),
        (Path("a"), "PosixPath is not a plain value"),
        (OrderedDict(), "OrderedDict is not a plain value"),
        (OmegaConf.create({}), "OmegaConf.to_container"),
        (print, "builtin_function_or_method is not a plain value"),
        (2**63, "beyond 64 bits"),
        (b"x", "bytes is not a plain value"),
    ],
)
def test_other_values_are_refused_by_their_path(value: object, message: str) -> None:
    with pytest.raises(PlainError, match=r"^spec\.mean\[1\]: ") as caught:
        plain({"mean": [0, value]}, path="spec")
    assert message in str(caught.value)


def test_keys_must_be_strings() -> None:
    with pytest.raises(PlainError, match=r"^config\.names: the key 3 is a int; keys must be strings$"):
        plain({"names": {3: "x"}}, path="config")


def test_a_cycle_is_refused() -> None:
    tree: dict[str, object] = {"a": {}}
    tree["a"]["b"] = [tree]  # type: ignore[index]
    with pytest.raises(PlainError, match=r"^model\.a\.b\[0\]: contains itself; a config is a tree$"):
        plain(tree, path="model")


def test_a_tree_that_explodes_when_written_out_is_refused_at_once() -> None:
    tree: list[object] = []
    for _ in range(50):
        tree = [tree, tree]
    with pytest.raises(PlainError, match="more than 2,000,000 values"):
        plain(tree, path="model")


def test_shared_lists_are_fine_and_are_separated() -> None:
    shared = [1, 2]
    copy = plain({"a": shared, "b": shared}, path="spec")
    assert copy["a"] == copy["b"] == shared
    assert copy["a"] is not copy["b"]


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 100_000])
def test_too_deep_a_tree_is_refused(levels: int) -> None:
    tree: list[object] = []
    for _ in range(levels - 1):
        tree = [tree]
    with pytest.raises(PlainError, match="nested deeper than 64 levels"):
        plain(tree, path="model")


def test_depth_counts_through_shared_containers() -> None:
    low: list[object] = []
    for _ in range(MAX_DEPTH - 10):
        low = [low]
    high: list[object] = low
    for _ in range(20):
        high = [high]
    with pytest.raises(PlainError, match="nested deeper"):
        plain([low, high], path="model")


def test_paths() -> None:
    assert child_path("model", "head") == "model.head"
    assert child_path("model.x", 2) == "model.x[2]"
