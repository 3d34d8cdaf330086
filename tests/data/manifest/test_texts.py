"""Input texts of a manifest that are longer than their maximum: counted, or errors."""

from pathlib import Path
from typing import Any

import pytest
from manifest_cases import write_csv

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError, texts


def module(folder: Path, *, long: tuple[int, ...], **settings: Any) -> DataModule:
    """Twelve rows, six of them for training and three each for validation and test; those in `long` have too many ids."""
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    rows = [
        {"words": "abcde" if number in long else "abcd", "label": "yn"[number % 2], "split": split}
        for number, split in enumerate(splits)
    ]
    words = {"kind": "text", "max_length": 4, **settings}
    return DataModule.of(
        Manifest, manifest=write_csv(folder / "m.csv", rows), modalities={"words": words}, split="split", num_workers=0
    )


def test_cut_texts_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(tmp_path, long=(0, 7, 11))
    data.setup("fit")
    data.setup("test")
    counts = [message.split(": ", 1)[1].split(",")[0] for message in caplog.messages if "max_length" in message]
    cut = "texts have more than max_length = 4 ids"
    assert counts == [f"2 of 9 {cut}", f"1 of 3 {cut}"]
    assert {len(sample.inputs["words"]) for sample in data.split("train")} == {4}


def test_of_many_texts_some_are_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MOST_TEXTS", 4)
    module(tmp_path, long=(0, 1, 3, 7)).setup("fit")
    assert "2 of 3 texts" in caplog.text, "rows 0, 3 and 6"


def test_long_texts_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(tmp_path, long=(0,), truncate=False)
    data.setup("fit")
    assert "max_length" not in caplog.text
    with pytest.raises(BadRowError, match=r"line 2, column 'words': .*at most max_length = 4 ids, got 5 ids\. Shorten it"):
        data.split("train")[0]
