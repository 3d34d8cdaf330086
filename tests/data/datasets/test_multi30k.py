"""Multi30k: pairs, tokenizers learned from training alone, checked files, and a run from end to end."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hydra_runs import run

import perceiver
from perceiver.data import DataModule, Multi30k
from perceiver.data.datasets import multi30k


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set of the same layout."""
    english = ["A dog runs.", "Two men sit.", "A man sleeps.", "Two dogs sleep."] * 4
    german = ["Ein Hund läuft.", "Zwei Männer sitzen.", "Ein Mann schläft.", "Zwei Hunde schlafen."] * 4
    files = {}
    for split, count in (("train", 16), ("val", 4), ("test_2016_flickr", 4)):
        for language, lines in (("en", english), ("de", german)):
            content = gzip.compress(("\n".join(lines[:count]) + "\n").encode(), mtime=0)
            (tmp_path / f"{split}.{language}.gz").write_bytes(content)
            files[f"{split}.{language}.gz"] = (len(content), multi30k.hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(multi30k, "FILES", files)
    return tmp_path


def test_pairs(folder: Path) -> None:
    data = DataModule(Multi30k(root=folder, vocabulary_size=280), batch_size=3)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    target = perceiver.targets.kinds.target_of(data.spec)  # type: ignore[attr-defined]
    assert batch.ids[0] == "multi30k/val/0"
    assert [target.tokenizer.decode(row) for row in batch.target.tolist()][1] == "Zwei Männer sitzen."
    assert data.spec["modalities"]["text"]["tokenizer"] == data.spec["target"]["tokenizer"]
    again = DataModule(Multi30k(root=folder, vocabulary_size=280), batch_size=3)
    again.spec = data.spec
    again.setup("test")
    assert next(iter(again.test_dataloader())).ids[0] == "multi30k/test_2016_flickr/0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "es"}, r"data\.source: expected one of en, de, fr"),
        ({"source": "de"}, r"data\.target_language: expected another language"),
        ({"tokenizer": "words"}, r"data\.tokenizer: expected pairs or bytes"),
        ({"max_length": 2}, r"data\.max_length: expected 3 or more"),
        ({"max_length": 5}, r"multi30k/train/\d+: its .*text has \d+ ids, more than"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings(folder: Path, settings: dict[str, Any], message: str) -> None:
    def read() -> None:
        data = DataModule(Multi30k(root=folder, **{"tokenizer": "bytes", **settings}))
        data.setup("fit")
        list(data.train_dataloader())

    with pytest.raises(ValueError, match=message):
        read()


def test_damaged_and_absent_files(folder: Path) -> None:
    (folder / "val.de.gz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"val\.de\.gz: not the published val\.de\.gz: expected .* got 2 bytes"):
        DataModule(Multi30k(root=folder)).prepare_data()
    (folder / "val.de.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected Multi30k's file val\.de\.gz in .*data\.download is false"):
        DataModule(Multi30k(root=folder, download=False)).prepare_data()


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    size = ("model.encoder.num_latents=2", "model.encoder.latent_channels=8", "model.adapters.text.embedding_channels=8")
    where = (f"data.root={folder}", "data.vocabulary_size=280", "data.batch_tokens=64", f"hydra.run.dir={tmp_path / 'run'}")
    heads = ("model.encoder.num_cross_heads=2", "model.encoder.num_self_heads=2", "model.head.generation={max_length: 6}")
    run("experiment=multi30k", *size, *where, *heads, "trainer.max_epochs=1", "callbacks.figures=null")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"test/bleu", "test/chrf", "test/exact_match", "test/loss"} <= set(metrics)
    [prediction] = perceiver.load(tmp_path / "run").predict("A dog runs.")
    assert isinstance(prediction.text, str)
    code, out, err = run(
        "mode=predict",
        f"ckpt_path={tmp_path / 'run'}",
        "data=multi30k",
        f"data.root={folder}",
        f"hydra.run.dir={tmp_path / 'p'}",
    )
    assert code == 0, out + err
    header, *rows = (tmp_path / "p" / "predictions.csv").read_text().splitlines()
    assert header == "id,prediction,score"
    assert len(rows) == 4
