"""data=hf with streaming: every row once per epoch, a new order in each, and the place in an epoch that was interrupted."""

from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hf_cases import library, parquet_set, rows_of

from perceiver.data import DataModule

library()

from perceiver.data.hf import HuggingFace  # noqa: E402
from perceiver.data.hf.streaming import StreamLoader  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streamed")
    rows = rows_of(root / "files", 40)
    return parquet_set(root / "set", {"train": rows[:24], "validation": rows[24:30], "test": rows[30:]})


def streamed(path: Path, **settings: Any) -> DataModule:
    given = {"image_size": [8, 8], "batch_size": 4, "shuffle_buffer": 10, **settings}
    data = DataModule.of(HuggingFace, path=path, streaming=True, **given)
    data.prepare_data()
    data.setup("fit")
    return data


def ids(loader: Any) -> list[list[str]]:
    return [batch.ids for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_has_every_row_once(num_workers: int, folder: Path) -> None:
    loader = streamed(folder, num_workers=num_workers).train_dataloader()
    epochs = [ids(loader), ids(loader)]
    for epoch in epochs:
        assert sorted(name for batch in epoch for name in batch) == sorted(f"a{number}" for number in range(24))
    assert epochs[0] != epochs[1]
    assert len(loader) == 6


@pytest.mark.parametrize("at", [1, 4, 6])
def test_an_interrupted_epoch_continues(at: int, folder: Path) -> None:
    settings = {"modalities": {"sound": "audio"}, "max_seconds": 0.05, "on_bad_row": "skip", "id": "id"}
    whole = streamed(folder, **settings).train_dataloader()
    first, second = list(whole), list(whole)
    begun = streamed(folder, **settings).train_dataloader()
    batches = iter(begun)
    for _ in range(at):
        next(batches)
    resumed = streamed(folder, **settings).train_dataloader()
    resumed.load_state_dict(begun.state_dict())
    torch.rand(3)  # random cuts of recordings depend on the batch alone
    rest = [*resumed, *resumed] if at < 6 else list(resumed)
    expected = [*first[at:], *second]
    assert [batch.ids for batch in rest] == [batch.ids for batch in expected]
    for a, b in zip(rest, expected, strict=True):
        assert torch.equal(a.inputs["sound"], b.inputs["sound"])


def test_an_epoch_continues_with_the_same_settings_only(folder: Path) -> None:
    loader = streamed(folder).train_dataloader()
    next(iter(loader))
    other = streamed(folder, batch_size=8).train_dataloader()
    with pytest.raises(ValueError, match=r"data\.batch_size: expected 4, as when the epoch was interrupted"):
        other.load_state_dict(loader.state_dict())


def test_several_files_for_several_processes(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "files", 32)
    parquet_set(tmp_path / "set", {"train": rows[:12], "validation": rows[24:28], "test": rows[28:]})
    second = parquet_set(tmp_path / "other", {"train": rows[12:24]}) / "train-00000-of-00001.parquet"
    second.rename(tmp_path / "set" / "train-00001-of-00002.parquet")
    settings = {"num_workers": 2, "modalities": {"note": "text"}}
    whole = streamed(tmp_path / "set", **settings).train_dataloader()
    assert isinstance(whole, StreamLoader)
    epoch = ids(whole)
    assert sorted(name for batch in epoch for name in batch) == sorted(f"a{number}" for number in range(24))
    begun = streamed(tmp_path / "set", **settings).train_dataloader()
    batches = iter(begun)
    done = [next(batches).ids for _ in range(3)]
    del batches
    resumed = streamed(tmp_path / "set", **settings).train_dataloader()
    resumed.load_state_dict(begun.state_dict())
    assert done + ids(resumed) == epoch


def test_evaluation_in_order(folder: Path) -> None:
    data = streamed(folder)
    assert len(data.split("val")) == 6
    data.setup("test")
    data.setup("predict")
    tested = [name for batch in ids(data.test_dataloader()) for name in batch]
    assert tested == [f"a{number}" for number in range(30, 40)]
    predicted = [name for batch in ids(data.predict_dataloader()) for name in batch]
    assert predicted == [f"a{number}" for number in range(40)]


def test_absent_splits_are_cut(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "files")
    path = parquet_set(tmp_path / "set", {"train": rows})
    data = streamed(path, first_rows=20, validation_fraction=0.2, test_fraction=0.3)
    data.setup("test")
    val = [sample.id for sample in data.split("val")]
    test = [name for batch in ids(data.test_dataloader()) for name in batch]
    loader = data.train_dataloader()
    training = [name for batch in ids(loader) for name in batch]
    assert (len(val), len(test), len(training)) == (4, 6, 12)
    assert not {*val} & {*test}
    assert not {*training} & {*val, *test}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_cut_rows_are_not_trained_on_in_loader_processes(num_workers: int, tmp_path: Path) -> None:
    """The library shuffles the buffer of an iteration in a loader process in another order."""
    tmp_path.mkdir(exist_ok=True)
    for file in range(2):
        numbers = range(32 * file, 32 * file + 32)
        columns = {"id": [f"r{n}" for n in numbers], "x": [n / 64 for n in numbers], "label": ["ab"[n % 2] for n in numbers]}
        pq.write_table(pa.table(columns), tmp_path / f"train-{file:05}-of-00002.parquet", row_group_size=8)
    data = streamed(tmp_path, num_workers=num_workers, first_rows=40, shuffle_buffer=20)
    held_out = {sample.id for sample in data.split("val")} | {i for batch in ids(data.test_dataloader()) for i in batch}
    loader = data.train_dataloader()
    epochs = [[name for batch in ids(loader) for name in batch] for _ in range(2)]
    for epoch in epochs:
        assert sorted([*epoch, *held_out]) == sorted(f"r{number}" for number in range(64))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_tokens": 7},
            r"data\.batch_tokens: expected null, since HuggingFace streams its samples; set data\.batch_size",
        ),
        (
            {"steps_per_epoch": 7},
            r"data\.steps_per_epoch: expected null, since HuggingFace streams its samples; see trainer",
        ),
        (
            {"balanced_sampling": True},
            r"data\.balanced_sampling: expected false, because HuggingFace streams its samples in",
        ),
        ({"num_labelled": 7}, r"data\.num_labelled: expected null, because HuggingFace streams its samples in order"),
    ],
)
def test_settings_that_need_random_access(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        streamed(folder, modalities={"note": "text"}, **settings).train_dataloader()


def test_classes_that_the_first_rows_lack(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "files", 40)
    cats, dogs = ([row for row in rows if row["label"] == label] for label in (0, 1))
    splits = {"train": cats[:16] + dogs[:16], "validation": cats[16:18] + dogs[16:18], "test": cats[18:] + dogs[18:]}
    path = parquet_set(tmp_path / "set", splits)
    data = streamed(path, first_rows=6, shuffle_buffer=1)
    assert data.spec["target"]["names"] == ["cat", "dog"]
    assert data.spec["target"]["columns"] == ["label"]
    loader = data.train_dataloader()
    assert {int(one) for batch in loader for one in batch.target} == {0, 1}


def test_what_a_stream_cannot_do(folder: Path, tmp_path: Path) -> None:
    datasets = library()
    data = streamed(folder)
    with (
        mock.patch.object(torch.distributed, "is_initialized", return_value=True),
        mock.patch.object(torch.distributed, "get_world_size", return_value=2),
        pytest.raises(ValueError, match=r"data\.streaming: expected false with several processes"),
    ):
        data.train_dataloader()
    with pytest.raises(ValueError, match=r"data\.batch_size: expected at most the 24 rows of an epoch, got 32"):
        streamed(folder, batch_size=32).train_dataloader()
    with pytest.raises(ValueError, match=r"data\.split: expected a whole split, one of .*; got 'train\[:50%\]'"):
        streamed(folder, split="train[:50%]")
    datasets.Dataset.from_dict({"note": ["x"], "label": [0]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"data\.streaming: expected false for .*saved: Arrow files are mapped into memory"):
        streamed(tmp_path / "saved")
