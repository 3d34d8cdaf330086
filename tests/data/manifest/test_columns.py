"""Names of categories and classes: their order, and tables without numbers."""

import itertools
from pathlib import Path

import torch
from shard_cases import pack

from perceiver.checkpoints.spec import check_spec
from perceiver.data import DataModule, Manifest
from perceiver.data.manifest.columns import natural
from perceiver.data.shards import Shards


def test_the_order_of_names_depends_on_the_names_alone() -> None:
    """NaN compares with no number, so as a number it would leave the order to that of a set, which is random."""
    names = ["10", "2", "-1.5", "nan", "inf", "-inf", "b"]
    expected = ["-1.5", "2", "10", "-inf", "b", "inf", "nan"]
    assert all(sorted(order, key=natural) == expected for order in itertools.permutations(names))


def test_a_table_of_categories_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    colours = ["red", "blue", "green"]
    rows = [f"{colours[number % 3]},{'SML'[number // 3 % 3]},{'ab'[number % 3 == 0]}" for number in range(60)]
    path.write_text("\n".join(["colour,size,label", *rows]) + "\n")
    data = DataModule.of(
        Manifest, manifest=path, modalities={"tab": {"kind": "table", "columns": ["colour", "size"]}}, num_workers=0
    )
    data.setup("fit")
    check_spec(data.spec)
    packed = DataModule.of(Shards, shards=pack(data, tmp_path / "shards"), num_workers=0)
    for ours, theirs in zip(packed.val_dataloader(), data.val_dataloader(), strict=True):
        assert torch.equal(ours.inputs["tab"]["categories"], theirs.inputs["tab"]["categories"])
