"""Packing a manifest into shards: nothing lost, nothing twice, continued after an interruption; what may be in the way."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from manifest_cases import write_csv, write_json_lines
from PIL import Image
from shard_cases import SETTINGS, manifest, pack, splits

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError
from perceiver.data.shards import ShardError, ShardFolder, Shards, writing


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    data = manifest(tmp_path)
    folder = ShardFolder.read(pack(data, tmp_path / "shards", num_workers=1))
    assert folder.spec == data.spec
    assert folder.samples == {name: len(rows) for name, rows in splits(data).items()}
    assert sum(folder.samples.values()) == 40
    assert folder.complete
    folder.check()
    indexes = {split: json.loads((tmp_path / "shards" / split / "index.json").read_text()) for split in folder.samples}
    assert {split: sum(one["chunk_size"] for one in index["chunks"]) for split, index in indexes.items()} == folder.samples
    assert len(list((tmp_path / "shards" / "train").glob("*.bin"))) == -(-folder.samples["train"] // 8)
    assert not list((tmp_path / "shards").glob("*/.parts")), "what was needed to continue is gone"


def test_size_of_shards(tmp_path: Path) -> None:
    data = manifest(tmp_path, modalities={"note": "text"})
    with mock.patch.object(writing, "LEAST_ROWS", 1), mock.patch.object(writing, "SHARDS_PER_SPLIT", 1):
        written = writing.write_shards(splits(data), spec=data.spec, folder=tmp_path / "s", source={}, shard_bytes=500)
    sizes = [file.stat().st_size for file in (tmp_path / "s" / "train").glob("*.bin")]
    assert len(sizes) > 3
    assert max(sizes) < 700
    assert written.rows_per_shard["train"] >= 3


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    """The third shard cannot be written at first; the first two are not written again."""
    data, shards = manifest(tmp_path), tmp_path / "shards"
    write, done = writing._write_chunk, []

    def failing(records: Any, scratch: Path) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(scratch)
        return write(records, scratch)

    with mock.patch.object(writing, "_write_chunk", failing), pytest.raises(KeyboardInterrupt):
        pack(data, shards)
    assert not ShardFolder.read(shards).complete
    with pytest.raises(ShardError, match=r"the conversion to \S+shards is not finished\. Continue it with the same command"):
        DataModule.of(Shards, shards=shards).prepare_data()
    before = {file: file.stat().st_mtime_ns for file in shards.glob("*/*.bin")}
    assert len(before) == 2
    with mock.patch.object(writing, "_write_chunk", side_effect=write) as counted:
        pack(data, shards)
    total = len(list(shards.glob("*/*.bin")))
    assert counted.call_count == total - 2
    assert all(file.stat().st_mtime_ns == at for file, at in before.items())
    read = DataModule.of(Shards, shards=shards, batch_size=4, num_workers=0)
    read.prepare_data()
    loaders = (read.train_dataloader(), read.val_dataloader(), read.test_dataloader())
    ids = [name for loader in loaders for batch in loader for name in batch.ids]
    assert sorted(ids) == sorted(f"a{number}" for number in range(40))
    with mock.patch.object(writing, "_write_chunk", side_effect=write) as counted:
        pack(data, shards)
    assert counted.call_count == 0, "all is there"


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    data = manifest(tmp_path, modalities={"note": "text"})
    with pytest.raises(ShardError, match=r"shards: \S+ already contains other files; choose a new folder"):
        pack(data, tmp_path)
    pack(data, tmp_path / "shards")
    other = manifest(tmp_path, modalities={"note": "text"}, split_seed=1)
    with pytest.raises(ShardError, match=r"holds shards of another manifest or other settings: rows differ"):
        pack(other, tmp_path / "shards")
    other = manifest(tmp_path, modalities={"cloud": "points"})
    with pytest.raises(ShardError, match=r"other settings: spec differ"):
        pack(other, tmp_path / "shards")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_row_that_cannot_be_decoded(num_workers: int, tmp_path: Path) -> None:
    """Found while converting, not in the third epoch of training."""
    data = manifest(tmp_path, modalities={"photo": "image", "cloud": "points"})
    path = tmp_path / "5.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadRowError, match=r"^\S+m\.csv, line 7, column 'photo': \S+5\.png: not a valid image") as caught:
        pack(data, tmp_path / "shards", num_workers=num_workers)
    assert "Traceback" not in str(caught.value)


def test_without_litdata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = manifest(tmp_path, modalities={"note": "text"})
    shutil.copytree(pack(data, tmp_path / "shards"), tmp_path / "copy")
    monkeypatch.setitem(__import__("sys").modules, "litdata", None)
    for work in (lambda: pack(data, tmp_path / "new"), DataModule.of(Shards, shards=tmp_path / "copy").prepare_data):
        with pytest.raises(ImportError, match=r"shards need litdata: pip install 'perceiver-multimodal\[shards\]'"):
            work()


def test_values_lists_and_folders_of_images(tmp_path: Path) -> None:
    """Cells without files, and a video whose frames are files."""
    for frame in range(3):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), 60 * frame, np.uint8)).save(tmp_path / "clip" / f"{frame}.png")
    rows = [
        {"pixels": [[number, 255], [0, 9]], "wave": [0.1, number / 40, 0.3], "clip": "clip" if number % 3 else None,
         "series": {"t": [0, 1], "v": [number, None]}, "label": number % 2}
        for number in range(20)
    ]  # fmt: skip
    modalities = {
        "pixels": {"kind": "image", "channels": 1}, "wave": "audio", "series": "timeseries",
        "clip": {"kind": "video", "num_frames": 2},
    }  # fmt: skip
    data = DataModule.of(Manifest, manifest=write_json_lines(tmp_path / "m.jsonl", rows), modalities=modalities, **SETTINGS)
    data.setup("fit")
    read = DataModule.of(Shards, shards=pack(data, tmp_path / "shards"), batch_size=4, num_workers=0)
    read.setup("fit")
    (expected,), (got,) = list(data.val_dataloader())[:1], list(read.val_dataloader())[:1]
    assert got.ids == expected.ids
    assert set(got.inputs) == set(expected.inputs)
    for name in ("pixels", "wave", "clip"):
        assert (got.inputs[name] == expected.inputs[name]).all()
    assert (got.inputs["series"]["values"] == expected.inputs["series"]["values"]).all()


def test_labels_and_values(tmp_path: Path) -> None:
    for kind, target, cells in (("labels", "tags", ["a;b", "b", ""]), ("values", "size", [1.5, 2, 7])):
        rows = [{"note": f"text {number}", target: cells[number % 3]} for number in range(30)]
        path = write_csv(tmp_path / f"{kind}.csv", rows)
        data = DataModule.of(
            Manifest, manifest=path, modalities={"note": "text"}, target=target, target_kind=kind, **SETTINGS
        )
        data.setup("fit")
        read = DataModule.of(Shards, shards=pack(data, tmp_path / kind), batch_size=4, num_workers=0)
        read.setup("fit")
        assert read.spec == data.spec
        for expected, got in zip(data.val_dataloader(), read.val_dataloader(), strict=True):
            assert (got.target == expected.target).all()
            assert got.target.dtype == expected.target.dtype
