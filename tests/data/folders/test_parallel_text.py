"""Pairs of texts of a user: two files or two columns, splits, a run from the command line, and bad files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hydra_runs import QUIET, run

import perceiver
from perceiver.data import DataModule, ParallelText

ENGLISH = [f"a dog {number}" for number in range(30)]
GERMAN = [f"ein Hund {number}" for number in range(30)]
BYTES: dict[str, Any] = {"tokenizer": "bytes"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "a.en").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress("\r\n".join(GERMAN).encode("utf-8-sig")))
    return {"source": tmp_path / "a.en", "target": tmp_path / "a.de.gz"}


def splits(**settings: Any) -> dict[str, list[tuple[str, str]]]:
    source = ParallelText(**{**BYTES, **settings})
    source.prepare()
    return {name: [(pair.source, pair.target) for pair in source.read_pairs(name)] for name in ("train", "val", "test")}


def read(settings: dict[str, Any]) -> None:
    """Read every batch."""
    data = DataModule(ParallelText(**{**BYTES, **settings}))
    data.prepare_data()
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)


def test_shares_of_two_files(files: dict[str, Path]) -> None:
    found = splits(**files, validation_fraction=0.1, test_fraction=0.2)
    assert {name: len(pairs) for name, pairs in found.items()} == {"train": 22, "val": 2, "test": 6}
    assert sorted(pair for pairs in found.values() for pair in pairs) == sorted(zip(ENGLISH, GERMAN, strict=True))
    assert splits(**files, split_seed=1) != splits(**files) == splits(**files)


def test_files_of_their_own(files: dict[str, Path]) -> None:
    found = splits(**files, val_source=files["source"], val_target=files["target"], test_source=files["source"],
                   test_target=files["target"])  # fmt: skip
    assert {name: len(pairs) for name, pairs in found.items()} == {"train": 30, "val": 30, "test": 30}
    with pytest.raises(ValueError, match=r"expected pairs of texts for test, got none .*Set test=false"):
        splits(**files, val_source=files["source"], val_target=files["target"])


def test_columns_of_a_table(tmp_path: Path) -> None:
    names = ["train"] * 20 + ["val"] * 5 + ["test"] * 5
    lines = [f"{one},{other},{split}" for one, other, split in zip(ENGLISH, GERMAN, names, strict=True)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["en,de,split", *lines, ",,train"]) + "\n")
    found = splits(table=table, source="en", target="de")
    assert {name: len(pairs) for name, pairs in found.items()} == {"train": 20, "val": 5, "test": 5}
    assert found["val"][0] == (ENGLISH[20], GERMAN[20])
    assert len(splits(table=table, source="en", target="de", split=None)["train"]) == 27
    with pytest.raises(ValueError, match=r"data\.target: .*t\.csv has no column 'fr', only en, de, split"):
        splits(table=table, source="en", target="fr")
    table.write_text("en,de,split\na,b,sometimes\n")
    with pytest.raises(ValueError, match=r"line 2, column 'split': expected train, val or test"):
        splits(table=table, source="en", target="de")


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        (["a"], {}, r"expected as many lines in both files, got 30 in .*a\.en and 1 in"),
        ([*GERMAN[:-1], "\udcff"], {}, r"b\.de: is not UTF-8: byte \d+ \(line 30\) is 0xff"),
        ([*GERMAN[:-1], " "], {}, r"a\.en:30: its target text is empty"),
        (GERMAN, {"max_length": 11}, r"text has 1[012] ids, .*data\.max_length = 11"),
        (GERMAN, {"val_source": "x"}, r"data\.val_source, data\.val_target: expected two files, or none"),
        (GERMAN, {"validation_fraction": 0.0}, r"data\.validation_fraction: expected a share"),
        (GERMAN, {"test_fraction": 1.0}, r"data\.test_fraction: expected a share"),
        (GERMAN, {"table": "t.csv", "val_source": "x", "val_target": "x"}, r"expected null with data\.table"),
    ],
)
def test_bad_files(files: dict[str, Path], tmp_path: Path, lines: list[str], settings: Any, message: str) -> None:
    target = tmp_path / "b.de"
    target.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read({"source": files["source"], "target": target, **settings})


def test_an_empty_source_and_an_absent_file(files: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "b.en"
    source.write_text("\n".join(["", *ENGLISH[1:]]))
    with pytest.raises(ValueError, match=r"b\.en:1: its input text is empty\. Leave the pair out"):
        read({**files, "source": source})
    with pytest.raises(FileNotFoundError, match=r"data\.source: expected a file of texts, a line each, got .*absent"):
        splits(**{**files, "source": tmp_path / "absent"})


def test_cut_texts_are_counted(files: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    data = DataModule(ParallelText(**BYTES, **files, max_length=8, truncate=True, test_fraction=0))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch.target.shape[1] == 8
    assert "2 of 2 text pairs, such as a.en:" in caplog.text


def test_a_translator_from_the_command_line(files: dict[str, Path], tmp_path: Path) -> None:
    done = run(
        "experiment=multi30k", "data=parallel_text", f"data.source={files['source']}", f"data.target={files['target']}",
        "data.tokenizer=bytes", "data.batch_tokens=200", "model.encoder.num_latents=2", "model.encoder.latent_channels=8",
        "model.encoder.num_cross_heads=2", "model.encoder.num_self_heads=2", "model.adapters.text.embedding_channels=8",
        "trainer.max_epochs=1", "callbacks.figures=null", *QUIET[-1:], "logger=none", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert {"test/bleu", "test/alignment_accuracy"} <= set(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    [prediction] = perceiver.load(tmp_path / "run").predict("a dog", alignments=True, generation={"max_length": 5})
    assert [word.text for word in prediction.alignment.sources["text"]] == ["a", "dog"]
