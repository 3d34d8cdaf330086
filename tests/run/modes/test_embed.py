"""Files of embeddings that grow batch by batch."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from perceiver.run.modes.embed import Embed, NpyTable, ParquetTable


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
@pytest.mark.parametrize("batches", [(2, 2, 1), (7,)])
def test_what_is_written_is_read_again(shape: tuple[int, ...], batches: tuple[int, ...], tmp_path: Path) -> None:
    parts = [torch.randn(size, *shape) for size in batches]
    ids = [[f"{batch}/{row}\n" for row in range(size)] for batch, size in enumerate(batches)]
    with ExitStack() as stack:
        tables = [ParquetTable(tmp_path, stack), NpyTable(tmp_path, stack)]
        for table in tables:
            for some, part in zip(ids, parts, strict=True):
                table.write(some, part)
            table.finish()
            assert table.rows == sum(batches)
    expected = torch.cat(parts)
    array = np.load(tmp_path / "embeddings.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)
    parquet = pq.read_table(tmp_path / "embeddings.parquet")
    assert parquet.schema.metadata[b"embedding_shape"].decode() == "x".join(map(str, shape))
    np.testing.assert_array_equal(np.array(parquet["embedding"].to_pylist(), dtype=np.float32), expected.flatten(1))
    flat = [id_ for some in ids for id_ in some]
    assert parquet["id"].to_pylist() == flat
    assert (tmp_path / "embeddings_ids.txt").read_text().splitlines() == [id_.strip() for id_ in flat]


def test_without_samples_the_table_is_empty(tmp_path: Path) -> None:
    with ExitStack() as stack:
        table = ParquetTable(tmp_path, stack)
        table.finish()
    found = pq.read_table(tmp_path / "embeddings.parquet")
    assert (found.column_names, len(found), table.rows) == (["id", "embedding"], 0, 0)


def test_nothing_is_left_of_what_breaks_off(tmp_path: Path) -> None:
    def begin() -> None:
        with ExitStack() as stack:
            NpyTable(tmp_path, stack).write(["a"], torch.ones(1, 2))
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        begin()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"embed_modalities": []}, {"embed_modalities": ["a"], "rows_per_part": 5}])
def test_modalities_go_into_whole_files(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="embed_modalities: expected one or more modalities, each once"):
        Embed(ckpt_path=None, **settings)
    with pytest.raises(ValueError, match="embed: expected mean, latents or unit, got 'units'"):
        Embed(ckpt_path=None, embed="units")
