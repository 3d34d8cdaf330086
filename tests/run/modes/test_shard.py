"""mode=shard from the command line: a manifest is packed, trained from and predicted with."""

import csv
import json
from pathlib import Path

import pytest
from manifest_cases import animals, write_csv
from manifest_runs import SMALL, train

MODALITIES = "data.modalities={sound: audio, cloud: points}"
# Settings of manifests that shards need not be told again.
KNOWN = ("data.image_size", "data.sample_rate", "trainer.max_epochs")
TRAINING = tuple(word for word in SMALL if not word.startswith(KNOWN))


def test_from_a_manifest_to_predictions(tmp_path: Path) -> None:
    path, shards, run = write_csv(tmp_path / "m.csv", animals(tmp_path, count=40)), tmp_path / "shards", tmp_path / "run"
    packing = (*SMALL, "mode=shard", f"data.manifest={path}", MODALITIES, f"shards={shards}", f"hydra.run.dir={tmp_path}/a")
    code, out, err = train(*packing)
    assert code == 0, err
    assert f"{shards}: 29 train, 5 val, 6 test samples in 3 shards, counts verified" in out
    code, out, err = train(*packing)
    assert code == 0, "all is there: the same command does no harm"
    given = ("data=shards", f"data.shards={shards}", "trainer.max_epochs=6")
    code, out, err = train(*TRAINING, *given, f"hydra.run.dir={run}")
    assert code == 0, err
    assert json.loads((run / "metrics.json").read_text())["test/accuracy"] > 0.8
    code, out, err = train(*TRAINING, *given[:2], "trainer.max_epochs=7", f"ckpt_path={run}", f"hydra.run.dir={tmp_path}/c")
    assert code == 0, err
    assert "epoch 7/7" in out
    assert "epoch 6/7" not in out
    predicting = ("mode=predict", f"ckpt_path={run}", f"data.manifest={path}", "data.num_workers=0")
    code, _, err = train(*predicting, f"hydra.run.dir={tmp_path}/b")
    assert code == 0, err
    with (tmp_path / "b" / "predictions.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == [f"a{number}" for number in range(40)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=manifest", "data.manifest=m.csv", "mode=shard"], "mode=shard: expected an output folder, shards=DIR"),
        (["mode=shard", "shards=s"], "mode=shard: expected data=manifest data.manifest=FILE or data=hf data.path=DIR, got"),
        (["data=shards", "data.shards=nowhere"], "data.shards: expected a folder of shards with shards.json, but"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tmp_path: Path) -> None:
    code, _, err = train(*arguments, f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert words in err.splitlines()[0]
