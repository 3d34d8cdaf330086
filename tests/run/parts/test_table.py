"""Parts that are computed by a loop: batches within parts, kills at every moment, bounded memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from killed import killed_at_every_step
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from perceiver.run.parts.folder import PartFolder
from perceiver.run.parts.loader import PartLoader, Place, rows_of, samples_at
from perceiver.run.parts.shares import Counter, unfinished
from perceiver.run.parts.table import ROW_GROUP_BYTES, PartWriter
from perceiver.samples.batch import Batch

ROWS = 23


class Numbers(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> int:
        return index


def batch_of(numbers: list[int]) -> Batch:
    return Batch(inputs={"x": torch.tensor(numbers)[:, None]}, ids=[f"id {number}" for number in numbers])


def loader(workers: int = 0) -> DataLoader[Any]:
    return DataLoader(Numbers(), batch_size=4, num_workers=workers, collate_fn=batch_of)


def compute(path: Path) -> list[int]:
    """Compute what is missing; return the rows computed."""
    folder = PartFolder.prepared(path, rows=ROWS, rows_per_part=10, run={})
    loading = PartLoader(loader(), folder, unfinished(folder))
    computed = []
    with PartWriter(folder) as table:
        for batch in loading:
            x = batch.inputs["x"]
            assert isinstance(x, torch.Tensor)
            computed += x[:, 0].tolist()
            table.write(loading.places.popleft(), pa.table({"id": batch.ids, "square": (x[:, 0] ** 2).numpy()}))
    return computed


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_lie_within_parts(workers: int, tmp_path: Path) -> None:
    folder = PartFolder(path=tmp_path, rows=ROWS, rows_per_part=10)
    folder.file(1).touch()
    loading = PartLoader(loader(workers), folder, unfinished(folder))
    seen = [(loading.places.popleft(), batch.ids) for batch in loading]
    assert [place for place, _ in seen] == [Place(0, 0), Place(0, 4), Place(0, 8), Place(2, 20)]
    assert [len(ids) for _, ids in seen] == [4, 4, 2, 3]
    assert [id_ for _, ids in seen for id_ in ids] == [f"id {row}" for row in (*range(10), *range(20, 23))]


def test_a_killed_run_continues(tmp_path: Path) -> None:
    """Killed before each operation on files: what is complete is not computed again, and in the end every row is there."""
    path = tmp_path / "parts"
    whole = {"id": [f"id {row}" for row in range(ROWS)], "square": [row**2 for row in range(ROWS)]}
    numbers_left = set()
    for _ in killed_at_every_step(lambda: compute(path), path, restore=lambda: shutil.rmtree(path, ignore_errors=True)):
        there = PartFolder(path=path, rows=ROWS, rows_per_part=10).finished()
        computed = compute(path)
        numbers_left.add(len(computed))
        assert len(computed) == ROWS - sum(10 if part < 2 else 3 for part in there)
        assert pq.read_table(path).to_pydict() == whole
        assert not list(path.glob(".*"))
    assert numbers_left == {23, 13, 3, 0}


def test_a_part_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    folder = PartFolder(path=tmp_path, rows=ROWS, rows_per_part=10)
    row = pa.table({"id": ["a"]})

    def fail() -> None:
        with PartWriter(folder) as table:
            table.write(Place(0, 0), row)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="has 1 rows only"), PartWriter(folder) as table:
        table.write(Place(0, 0), row)
    assert list(tmp_path.iterdir()) == []


def test_rows_leave_memory_in_row_groups(tmp_path: Path) -> None:
    rows = 64
    folder = PartFolder(path=tmp_path, rows=rows, rows_per_part=rows)
    wide = pa.table({"id": ["a"], "x": [bytes(ROW_GROUP_BYTES // 8)]})
    with PartWriter(folder) as table:
        for row in range(rows):
            table.write(Place(0, row), wide)
            assert sum(kept.nbytes for kept in table._kept) <= ROW_GROUP_BYTES
    groups = pq.read_metadata(folder.file(0))
    assert 8 <= groups.num_row_groups <= 9
    assert groups.num_rows == rows


def test_counters_go_on_from_their_start() -> None:
    counter = Counter("rows", start=7)
    assert [counter.add(2), counter.add(0), counter.add(3)] == [9, 9, 12]


def test_data_without_positions_is_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter([0])

    for one in (DataLoader(Stream(), batch_size=2), DataLoader(Numbers(), batch_size=None), [1]):
        with pytest.raises(ValueError, match="rows_per_part: expected data whose samples have positions"):
            rows_of(one)
    assert rows_of(loader()) == ROWS
    assert samples_at(loader(), 7).ids == ["id 7"]


def test_rows_that_are_read_at_once() -> None:
    class AtOnce(TensorDataset):
        def __getitems__(self, indices: list[int]) -> Batch:
            return batch_of(indices)

    data = DataLoader(AtOnce(torch.zeros(5)), batch_size=2, collate_fn=lambda batch: batch)
    assert samples_at(data, 3).ids == ["id 3"]
