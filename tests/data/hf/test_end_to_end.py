"""From a data set of `datasets` to predictions, embeddings and shards."""

import csv
import json
from pathlib import Path

import pytest
from hf_cases import library, parquet_set, rows_of
from hydra_runs import QUIET, run

library()

MODEL = (
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.num_self_heads=2",
    "model.encoder.num_blocks=1",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1",
    "optimizer.lr=1e-2",
    "trainer.max_epochs=6",
    "logger=none",
    *QUIET,
)
DATA = ("data=hf", "data.image_size=[8,8]", "data.num_workers=0", "data.batch_size=8")


@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_mode(streaming: bool, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "files", 48)
    splits = {"train": rows[:32], "validation": rows[32:40], "test": rows[40:]}
    place = (f"data.path={parquet_set(tmp_path / 'set', splits)}", f"data.streaming={str(streaming).lower()}")
    trained = tmp_path / "run"
    ended = run(*MODEL, *DATA, *place, "data.modalities={photo: image, sound: audio}", f"hydra.run.dir={trained}")
    assert ended.code == 0, ended.err
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["test/accuracy"] >= 0.75
    ended = run("mode=test", f"ckpt_path={trained}", *DATA, *place, *MODEL[-4:], f"hydra.run.dir={tmp_path / 'test'}")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "test" / "metrics.json").read_text())["test/accuracy"] == metrics["test/accuracy"]
    # The checkpoint says which data group it was trained with, and which columns.
    ended = run(
        "mode=predict", f"ckpt_path={trained}", *place, "data.num_workers=0", f"hydra.run.dir={tmp_path / 'predict'}"
    )
    assert ended.code == 0, ended.err
    with (tmp_path / "predict" / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    assert [row["id"] for row in predicted] == [row["id"] for row in rows]
    if streaming:
        ended = run(*MODEL, *DATA, *place, "mode=shard", f"shards={tmp_path / 'shards'}", f"hydra.run.dir={tmp_path / 'a'}")
        assert "mode=shard: expected data.streaming=false" in ended.error
        more = ("data.modalities={photo: image, sound: audio}", "trainer.max_epochs=7", f"ckpt_path={trained}")
        ended = run(*MODEL, *DATA, *place, *more, f"hydra.run.dir={tmp_path / 'more'}")
        assert ended.code == 0, ended.err
        assert "epoch 7/7" in ended.out
        assert "epoch 6/7" not in ended.out
        return
    ended = run("mode=embed", f"ckpt_path={trained}", *place, "data.split=test", f"hydra.run.dir={tmp_path / 'embed'}")
    assert ended.code == 0, ended.err
    assert (tmp_path / "embed" / "embeddings.parquet").is_file()
    pytest.importorskip("litdata")
    modalities = "data.modalities={photo: image, sound: audio}"
    ended = run(
        *MODEL, *DATA, *place, modalities, "mode=shard", f"shards={tmp_path / 'shards'}", f"hydra.run.dir={tmp_path / 'a'}"
    )
    assert ended.code == 0, ended.err
    assert "32 train, 8 val, 8 test samples" in ended.out
