"""mode=predict and mode=embed in parts, from the command line."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hydra_runs import QUICK, run

COMMON = ("data=digits", "trainer.accelerator=cpu", "data.batch_size=64")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    code, _, err = run("data=digits", *QUICK, "test=false", "trainer.accelerator=cpu", f"hydra.run.dir={folder}")
    assert code == 0, err
    return folder


def test_predictions_in_parts(trained: Path, tmp_path: Path) -> None:
    """The rows of one table; a part that is missing is computed again; other settings and other tables are refused."""
    predict = ("mode=predict", *COMMON, f"ckpt_path={trained}")
    assert run(*predict, f"hydra.run.dir={tmp_path / 'one'}").code == 0
    with (tmp_path / "one" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    command = (*predict, "rows_per_part=100", f"hydra.run.dir={tmp_path / 'parts'}")
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    folder = tmp_path / "parts" / "predictions.parquet"
    assert f"{folder}: 4 parts of 100 rows; if interrupted, the same command with hydra.run.dir={tmp_path}/parts" in out
    assert f"360 predictions of {trained}/checkpoints/best.ckpt: {folder} (4 parts)" in out

    def same() -> bool:
        table = pq.read_table(folder).to_pylist()
        numbers = [name for name in rows[0] if name not in ("id", "prediction")]
        np.testing.assert_allclose(
            [[row[name] for name in numbers] for row in table], [[float(row[name]) for name in numbers] for row in rows],
            atol=1e-5,
        )  # fmt: skip
        return [(row["id"], row["prediction"]) for row in table] == [(row["id"], row["prediction"]) for row in rows]

    assert same()
    (folder / "part-00002-of-00004.parquet").unlink()
    (tmp_path / "parts" / "predictions.parquet" / ".part-00002-of-00004.parquet.1.tmp").write_bytes(b"PAR1")
    code, out, _ = run(*command)
    assert "4 parts of 100 rows, 3 of them complete" in out
    assert (code, same(), len(list(folder.iterdir()))) == (0, True, 5)
    assert "data.split_seed: 0 there, 1 here" in run(*command, "data.split_seed=1").error
    assert run(*command, "data.batch_size=32").code == 0
    refused = run(*predict, "rows_per_part=100", f"hydra.run.dir={tmp_path / 'one'}").error
    assert f"{tmp_path}/one/predictions.csv already exists; choose another directory" in refused
    assert "rows_per_part: expected 1 or more, or null, got 0" in run(*predict, "rows_per_part=0").error


def test_embeddings_in_parts(trained: Path, tmp_path: Path) -> None:
    embed = ("mode=embed", *COMMON, f"ckpt_path={trained}", "embed=latents")
    assert run(*embed, f"hydra.run.dir={tmp_path / 'one'}").code == 0
    code, _, err = run(*embed, "rows_per_part=150", f"hydra.run.dir={tmp_path / 'parts'}")
    assert (code, err) == (0, "")
    one, parts = (pq.read_table(tmp_path / name / "embeddings.parquet") for name in ("one", "parts"))
    assert one.schema.metadata[b"embedding_shape"] == parts.schema.metadata[b"embedding_shape"] == b"4x16"
    assert one["id"].to_pylist() == parts["id"].to_pylist()
    np.testing.assert_allclose(one["embedding"].to_pylist(), parts["embedding"].to_pylist(), atol=1e-5)
    other = run(*embed, "rows_per_part=150", "embed=mean", f"hydra.run.dir={tmp_path / 'parts'}").error
    assert "embed: 'latents' there, 'mean' here" in other
    assert "is a table in parts" in run(*embed, f"hydra.run.dir={tmp_path / 'parts'}").error
    assert "already exists, a table in one file" in run(*embed, "rows_per_part=9", f"hydra.run.dir={tmp_path / 'one'}").error
    refused = run(*embed, "rows_per_part=9", "embed_format=npy", f"hydra.run.dir={tmp_path / 'npy'}").error
    assert "embed_format: expected parquet, the format of parts" in refused


def test_data_that_changed_is_refused(trained: Path, tmp_path: Path) -> None:
    """The settings are the same, but another row has the place of the first."""
    command: tuple[Any, ...] = (
        "mode=embed", *COMMON, f"ckpt_path={trained}", "rows_per_part=200", f"hydra.run.dir={tmp_path}"
    )  # fmt: skip
    assert run(*command).code == 0
    part = tmp_path / "embeddings.parquet" / "part-00000-of-00002.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(0, "id", [["other", *table["id"].to_pylist()[1:]]]), part)
    assert "row 0 has the id 'other' there, and " in run(*command).error
