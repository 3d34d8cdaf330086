"""Files below folders: linked folders, splits by their usual names, what is left out, frames in order."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from perceiver.data.manifest.video import frame_files
from perceiver.data.readers.folder_files import files_below, split_folder
from perceiver.data.readers.images import find_images
from perceiver.modalities.media.framing import Frame


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").touch()
    (tmp_path / "a" / ".hidden").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert sorted(files_below(tmp_path)) == ["a/1.txt", "b/1.txt"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_names_of_the_validation_split(name: str, tmp_path: Path) -> None:
    assert split_folder(tmp_path, "val") == tmp_path / "val"
    (tmp_path / name).mkdir()
    assert split_folder(tmp_path, "val") == tmp_path / name
    (tmp_path / "Val").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"expected one folder for val, got Val, "):
        split_folder(tmp_path, "val")


def test_images_by_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, form in (("1.jfif", "JPEG"), ("2", "PNG"), ("3.PNG", "PNG"), ("4.avif", "AVIF")):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / name, form)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "notes.md").touch()
    (tmp_path / "a" / "list").write_text("no image")
    with caplog.at_level(logging.WARNING):
        found = find_images(tmp_path, frame=Frame(size=(4, 4)))
    assert found.paths.tolist() == [
        f"{folder}/{name}".encode() for folder in "ab" for name in ("1.jfif", "2", "3.PNG", "4.avif")
    ]
    assert "skipped 4 files whose names are not those of images, such as a/" in caplog.text


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"frame{number}.png")
    assert [path.name for path in frame_files(tmp_path, num_frames=None)] == ["frame1.png", "frame2.png", "frame10.png"]
