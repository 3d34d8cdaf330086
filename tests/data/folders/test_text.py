"""Text files of one's own, and Python's texts: what is found, how it is split, the kit, and what is wrong with files."""

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from perceiver.data import DataModule, PythonTexts, TextFiles
from perceiver.modalities.texts.text_bytes import decode_bytes
from perceiver.testing import check_data_module

LINES = topics["if"].splitlines(keepends=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(24):
        path = tmp_path / "texts" / f"{number % 3}" / f"{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Text {number}.\n" + "".join(LINES[number % 20 : number % 20 + 12]), encoding="utf-8")
    (tmp_path / "texts" / "notes.md").write_text("Another kind of file.")
    (tmp_path / "texts" / ".hidden.txt").write_text("Not this.")
    return tmp_path / "texts"


def pieces(loader: Any) -> dict[str, str]:
    """Texts by id."""
    found = {}
    for batch in loader:
        mask = batch.masks.get("text")
        for row, name in enumerate(batch.ids):
            ids = batch.inputs["text"][row]
            found[name] = decode_bytes(ids if mask is None else ids[mask[row]])
    return found


def texts(loader: Any) -> list[str]:
    return list(pieces(loader).values())


def ready(**arguments: Any) -> DataModule:
    data = DataModule.of(TextFiles, batch_size=8, **arguments)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("split_by", ["document", "stretch"])
def test_splits_hold_all_text_once(folder: Path, split_by: Any) -> None:
    data = ready(files=folder, split_by=split_by, max_length=64)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    batches = [list(loader) for loader in loaders]
    assert all(batch.inputs["text"].shape[1] <= 64 for split in batches for batch in split)
    assert all(batch.target is None for split in batches for batch in split)
    found = [pieces(loader) for loader in loaders]
    ids = [[name for batch in split for name in batch.ids] for split in batches]
    assert sum(len(split) for split in ids) == len({name for split in ids for name in split})
    assert [set(split) for split in ids] == [set(split) for split in found], "in every epoch"
    documents = [{name.rpartition("@")[0] for name in split} for split in ids]
    if split_by == "document":
        assert len(documents[0] | documents[1] | documents[2]) == sum(len(split) for split in documents) == 24
    else:
        assert [len(documents[0]), len(documents[2])] == [24, 24]
    joined: dict[str, str] = {}
    for name, text in sorted((found[0] | found[1] | found[2]).items(), key=lambda one: int(one[0].rpartition("@")[2])):
        joined[name.rpartition("@")[0]] = joined.get(name.rpartition("@")[0], "") + text
    written = sorted("".join(path.read_text().split()) for path in folder.rglob("[0-9]*.txt"))
    assert sorted("".join(text.split()) for text in joined.values()) == written


def test_files_folders_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(TextFiles(files=folder).documents()) == 24
    assert [one.name for one in TextFiles(files=folder / "0" / "00.txt").documents()] == ["00.txt"]
    assert len(TextFiles(files=f"{folder}/**/*.txt").documents()) == 24
    assert len(TextFiles(files=[folder / "0", f"{folder}/1/*.txt", folder / "0" / "00.txt"]).documents()) == 16
    assert [one.name for one in TextFiles(files=folder, suffix=".md").documents()] == ["notes.md"]
    monkeypatch.chdir(folder)
    assert len(TextFiles(files="0").documents()) == 8


def test_a_single_file_is_cut_in_three(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + topics["assignment"].encode())
    data = ready(files=path, max_length=100)
    splits = [set(texts(one)) for one in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert all(splits)
    assert len(splits[0] | splits[1] | splits[2]) == sum(len(split) for split in splits)
    assert data.spec == {
        "modalities": {"text": {"kind": "text", "shape": [None], "vocabulary_size": 262, "max_length": 100}}
    }
    assert data.source.documents()[0].text.startswith("Assignment"), "without its byte order mark"


def test_kit(folder: Path) -> None:
    check_data_module(lambda: DataModule.of(TextFiles, files=folder, max_length=64, batch_size=4))
    check_data_module(lambda: DataModule.of(PythonTexts, max_length=64, batch_size=4))


def test_a_stored_window_holds(folder: Path) -> None:
    data = DataModule.of(TextFiles, files=folder, max_length=64, batch_size=4)
    data.setup("fit")
    spec = data.spec
    spec["modalities"]["text"]["max_length"] = 32
    data.spec = spec
    assert max(batch.inputs["text"].shape[1] for batch in data.val_dataloader()) <= 32


def test_python_texts_are_english() -> None:
    data = DataModule.of(PythonTexts)
    data.setup("fit")
    joined = " ".join(texts(data.train_dataloader()))
    assert joined.count(" the ") > 500
    other = DataModule.of(PythonTexts)
    other.setup("fit")
    assert texts(other.val_dataloader()) == texts(data.val_dataloader())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"fine\nbut \xff not this", r"bad\.txt: is not UTF-8: byte 9 \(line 2\) is 0xff"),
        ("größe".encode("latin-1"), r"bad\.txt: is not UTF-8: byte 2 \(line 1\) is 0xf6"),
    ],
)
def test_a_file_that_is_not_utf8(folder: Path, raw: bytes, words: str) -> None:
    (folder / "bad.txt").write_bytes(raw)
    with pytest.raises(ValueError, match=words):
        ready(files=folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"files": "{root}/empty"}, r"expected files that end in '\.txt' in the folder .*/empty, found none"),
        ({"files": "{root}/no/such.txt"}, "expected a file, a folder, or files that match the pattern"),
        ({"files": "{root}/*.rst"}, r"the pattern '.*/\*\.rst'"),
    ],
)
def test_nothing_there(tmp_path: Path, arguments: dict[str, str], words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=words):
        DataModule.of(TextFiles, files=arguments["files"].replace("{root}", str(tmp_path))).prepare_data()


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (" \n", {}, "1 files in .* contain no text"),
        ("x", {}, "data: too little text"),
        ("one\ntwo\n", {"split_by": "document"}, "there is 1 document.*data.split_by=stretch"),
    ],
)
def test_too_little_text(tmp_path: Path, text: str, arguments: dict[str, Any], words: str) -> None:
    (tmp_path / "it.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        ready(files=tmp_path, **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_length": 4}, "data.max_length: expected windows of at least 8 bytes, got 4"),
        ({"validation_fraction": 0.6, "test_fraction": 0.4}, "expected shares above 0 that leave data for training"),
        ({"test_fraction": 0.0}, "expected shares above 0"),
        ({"cut_at": "page"}, "data.cut_at: expected one of word, line, got 'page'"),
        ({"files": []}, "got an empty list"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_settings(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataModule.of(TextFiles, **{"files": "x.txt", **arguments})
