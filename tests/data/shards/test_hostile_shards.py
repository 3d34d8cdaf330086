"""Shards that others made: nothing but records of bytes in files of their own folder is ever read."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_data
import pytest
from hostile_data import edit_json, record, replace_records
from shard_cases import manifest, pack

from perceiver.data import DataModule
from perceiver.data.manifest import BadRowError
from perceiver.data.shards import ShardError, Shards
from perceiver.data.shards.records import Decode


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("animals")
    return pack(manifest(folder, 24, modalities={"note": "text"}), folder / "shards")


@pytest.fixture
def shards(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "deep" / "deeper" / "shards"))


def read(shards: Path) -> int:
    """How many batches of validation there are."""
    data = DataModule.of(Shards, shards=shards, batch_size=4, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    return len(list(data.val_dataloader()))


def config(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["config"].update(changes)


def chunk(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["chunks"][0].update(changes)


def test_items_that_are_pickles(shards: Path, tmp_path: Path) -> None:
    hostile_data.pickled_shards(shards, tmp_path / "marker")
    with pytest.raises(ShardError, match=r"val/index\.json .* config\.data_format: expected \['bytes'\], got \['pickle'\]"):
        read(shards)
    assert not (tmp_path / "marker").exists()


def test_a_structure_that_names_a_module(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile_data.touching_module(tmp_path, tmp_path / "marker")
    monkeypatch.syspath_prepend(tmp_path)
    hostile_data.importing_shards(shards)
    with pytest.raises(ShardError, match=r"val/index\.json is .* config\.data_spec: expected '\[1, .*, got '\[1, "):
        read(shards)
    assert not (tmp_path / "marker").exists()
    assert "touching" not in sys.modules


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "s3://bucket/shard-000000.bin", "shard-000000.bin\n", "x", 3])
def test_files_of_another_name(name: Any, shards: Path) -> None:
    shutil.copy(shards / "val" / "shard-000000.bin", shards.parent / "x")
    edit_json(shards / "val" / "index.json", chunk(filename=name))
    with pytest.raises(ShardError, match=r"val/index\.json .*: chunks\[0\]\.filename: expected a name like shard-0"):
        read(shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(compression="zstd"), r"config\.compression: expected None, got 'zstd'"),
        (config(encryption={"algorithm": "fernet"}), r"config\.encryption: expected None"),
        (config(item_loader="ParquetLoader"), r"config\.item_loader: expected 'PyTreeLoader'"),
        (config(format="mds"), r"config: expected the keys .* got unknown \['format'\]"),
        (config(chunk_bytes=True), r"config\.chunk_bytes: expected an integer"),
        (lambda index: index["config"].pop("types"), r"config: expected the keys .*, got types missing"),
        (lambda index: index.update(shards=[]), r"the index: expected the keys chunks, config, updated_at, got unknown"),
        (lambda index: index.update(updated_at="1"), r"updated_at: expected '0'"),
        (lambda index: index.update(chunks=[]), r"chunks: expected a list of shards"),
        (lambda index: index.update(chunks=[5]), r"chunks\[0\]: expected an object, got 5"),
        (lambda index: index["chunks"].append(index["chunks"][0]), r"chunks\[1\]\.filename: .* occurs twice"),
        (chunk(chunk_size=-1), r"chunks\[0\]\.chunk_size: expected an integer from 1 to"),
        (chunk(chunk_size=10**12), r"chunks\[0\]\.chunk_size: expected an integer from 1 to"),
        (chunk(chunk_bytes=2**40), r"chunks\[0\]\.chunk_bytes: expected an integer from 1 to"),
        (chunk(dim=7), r"chunks\[0\]\.dim: expected null, got 7"),
    ],
)
def test_an_index_that_says_more(change: Callable[[dict[str, Any]], object], message: str, shards: Path) -> None:
    edit_json(shards / "val" / "index.json", change)
    with pytest.raises(ShardError, match=rf"val/index\.json is missing or damaged: {message}"):
        read(shards)


def test_loaders_check_the_index_without_preparing_data(shards: Path, tmp_path: Path) -> None:
    hostile_data.pickled_shards(shards, tmp_path / "marker")
    data = DataModule.of(Shards, shards=shards, batch_size=4, num_workers=0)
    for loader in (data.train_dataloader, data.val_dataloader, data.predict_dataloader):
        with pytest.raises(ShardError, match=r"val/index\.json is missing or damaged"):
            list(loader())
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["val/shard-000000.bin", "val/index.json", "val", "shards.json"])
def test_links(name: str, shards: Path) -> None:
    moved = (shards / name).rename(shards.parent / "elsewhere")
    (shards / name).symlink_to(moved)
    with pytest.raises(ShardError, match="is a symbolic link"):
        read(shards)


def test_a_shard_with_an_odd_head(shards: Path) -> None:
    file = shards / "val" / "shard-000000.bin"
    content = file.read_bytes()
    for start, number in ((0, 2**31), (4, 0), (8, 2**32 - 1)):
        file.write_bytes(content[:start] + number.to_bytes(4, "little") + content[start + 4 :])
        with pytest.raises(ShardError, match=r"damaged: its head does not give the places of 3 samples"):
            read(shards)
    hostile_data.arrow_shard(shards / "val", samples=3)
    with pytest.raises(ShardError, match=r"shard-000000\.bin: a shard has the right size but is damaged: it ends like"):
        read(shards)


ELSEWHERE = ("s3://bucket/x", "https://host/x", "hf://datasets/x", "local:/x", "/teamspace/datasets/x")


@pytest.mark.parametrize("shards", ELSEWHERE)
def test_folders_elsewhere(shards: str) -> None:
    with pytest.raises(ValueError, match=r"data\.shards: expected a folder on a local or mounted disk"):
        DataModule.of(Shards, shards=shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(extra=1), "expected the keys format, version, spec"),
        (lambda content: content["samples"].update({"../x": 3}), r"samples: expected splits train, val, test, got '\.\./x'"),
        (lambda content: content["samples"].update(val=-1), r"samples\.val: expected an integer of at least 0, got -1"),
        (lambda content: content["rows_per_shard"].update(val=1.5), r"rows_per_shard\.val: expected an integer"),
        (lambda content: content.update(complete=1), "complete: expected true or false, got 1"),
        (lambda content: content["spec"].update(modalities=[]), r"spec\.modalities: expected an object"),
        (lambda content: content["spec"]["modalities"].update(note={}), r"spec\.modalities\.note: expected an object with"),
        (lambda content: content["spec"]["target"].update(kind="x"), r"spec\.target\.kind: expected one of classes"),
        (
            lambda content: content["spec"]["target"].update(kind=["x"]),
            r"spec\.target\.kind: expected a string, got \['x'\]",
        ),
        (lambda facts: facts["spec"]["target"].update(names=[1]), r"spec\.target\.names: expected a list of strings"),
        (
            lambda content: content["spec"]["modalities"]["note"].update(a=[{"_target_": "os.system"}]),
            r"spec\.modalities\.note\.a\[0\]\._target_: keys that begin and end",
        ),
    ],
)
def test_descriptions_that_are_not_ours(change: Callable[[dict[str, Any]], object], message: str, shards: Path) -> None:
    edit_json(shards / "shards.json", change)
    with pytest.raises(ShardError, match=rf"shards\.json is damaged: {message}"):
        read(shards)


def test_descriptions_that_are_deep_large_or_of_another_version(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((shards / "shards.json").read_text())
    for depth in (100, 100_000):
        (shards / "shards.json").write_text(hostile_data.deep_json(depth))
        with pytest.raises(ShardError, match=r"shards\.json is damaged: lists or objects are nested more than 64 deep"):
            read(shards)
    for version in (2, True, "1", None):
        (shards / "shards.json").write_text(json.dumps({**content, "version": version}))
        with pytest.raises(ShardError, match=rf"has shards of version {version!r}, but this package reads version 1"):
            read(shards)
    with (shards / "shards.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ShardError, match=r"shards\.json is damaged: it has more than 67,108,864 bytes"):
        read(shards)


CELLS: dict[str, Any] = {"id": "a", "target": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab", "a record has only 2 bytes"),
        (record({}, head_size=2**32 - 1), "the head of a record would end at byte 4294967299, but it has 6"),
        (record(hostile_data.deep_json(1000)), "nested more than 64 deep"),
        (record([1]), "the head of a record lacks id, target or cells"),
        (record({**CELLS, "cells": [1]}), "cells by name"),
        (record({**CELLS, "cells": {"x": {"bytes": 10**12}}}, b"ab"), "x of sample 'a': expected a size of at most the 2"),
        (record({**CELLS, "cells": {"x": {"bytes": -1}}}, b"ab"), "expected a size of at most the 2 bytes"),
        (record({**CELLS, "cells": {"x": {"array": True}}}, b"ab"), "expected a size of at most the 2 bytes"),
        (record({**CELLS, "cells": {"x": {"bytes": 1}}}, b"ab"), "its cells have"),
        (record({**CELLS, "cells": {"x": {"files": [["a.png", 5]], "list": False}}}, b"ab"), "expected a size"),
        (record({**CELLS, "cells": {"x": {"files": [], "list": True}}}), "expected one file, or a list of them"),
        (record({**CELLS, "cells": {"x": {"path": "a"}}}), "expected a value, files, bytes or an array"),
        (10**12, "expected the bytes of a record, got int"),
    ],
)
def test_records_that_claim_more_than_they_have(content: Any, message: str, unchecked: None) -> None:
    with pytest.raises(ShardError, match=rf"a shard has the right size but is damaged: .*{message}"):
        decode("image")(content)


def decode(kind: str) -> Decode:
    specs = {
        "image": {"kind": "image", "shape": [3, 4, 4], "range": [0, 255], "crop_fraction": 1.0},
        "audio": {"kind": "audio", "shape": [1, None], "sample_rate": 8000},
        "points": {"kind": "points", "shape": [None, 3], "unit_sphere": True},
        "text": {"kind": "text", "shape": [None], "vocabulary_size": 262, "files": True},
        "timeseries": {"kind": "timeseries", "names": ["v"], "num_values": 1, "step_seconds": 1.0},
        "video": {"kind": "video", "shape": [3, 2, 4, 4], "range": [0, 255], "crop_fraction": 1.0},
    }
    return Decode(modalities=["x"], specs={"x": specs[kind]}, target=None)


@pytest.mark.parametrize("kind", ["image", "audio", "points", "text", "timeseries", "video"])
def test_values_in_records_are_never_paths(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("1 2 3\n")
    for value in (str(path), {"bytes": str(path)}):
        with pytest.raises(BadRowError, match=r"sample 'a' of the shards, x: ") as caught:
            decode(kind)(record({**CELLS, "cells": {"x": {"value": value}}}))
        if value == str(path):
            assert "which is a path" in str(caught.value)


def test_an_array_in_a_record_that_claims_too_much(tmp_path: Path) -> None:
    content = hostile_data.claiming_npy(tmp_path / "x.npy").read_bytes()
    for entry in ({"array": len(content)}, {"files": [["x.npy", len(content)]], "list": False}):
        with pytest.raises(BadRowError, match=r"x: .*its header claims float64 \(100000000000, 3\), 2,400,000"):
            decode("points")(record({**CELLS, "cells": {"x": entry}}, content))


def test_records_of_other_targets(shards: Path) -> None:
    count = json.loads((shards / "shards.json").read_text())["samples"]["val"]
    targets: list[Any] = [[], {}, 5, "bird"]
    for target in targets:
        items = [record({"id": f"{n}", "target": target, "cells": {"note": {"value": "a"}}}) for n in range(count)]
        replace_records(shards / "val", items)
        with pytest.raises(BadRowError, match=r"sample '0' of the shards"):
            read(shards)
