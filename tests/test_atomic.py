"""Files that are there whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from perceiver.atomic import DiskFullError, atomic_write, write_json


def test_replaces_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"first")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write(b"second" + file)  # type: ignore[operator]
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"], "no temporary file is left"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_earlier_file(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(DiskFullError, match=rf"{path}.*after 5 bytes, [\d,]+ bytes are free.*intact"),
        atomic_write(path) as file,
    ):
        file.write(b"later")
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_is_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"b": 1.5, "a": 2})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": 2, "b": 1.5}
    assert (tmp_path / "metrics.json").stat().st_mode & 0o044, "others may read it as any other file"
