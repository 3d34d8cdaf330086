"""Files that are there whole or not at all."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killed import killed_at_every_step

from perceiver.runtime.files import (
    DiskFullError,
    atomic_write,
    remove_leftovers,
    replace_keeping,
    staged,
    write_json,
)


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


KILLED = """
import os, signal, sys
from pathlib import Path
from perceiver.runtime.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_of_writing_leaves_the_earlier_file(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=repository)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 2, "what was being written is still there"
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("folders", [True, False])
def test_the_previous_one_is_kept(links: bool, folders: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(path: Path, content: str) -> Path:
        if folders:
            path.mkdir()
        (path / "part" if folders else path).write_text(content)
        return path

    def content(path: Path) -> str:
        return (path / "part" if folders else path).read_text()

    def refused(*names: object) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    last, previous = tmp_path / "last", tmp_path / "previous"
    for number in "123":
        replace_keeping(make(tmp_path / "new", number), last, previous=previous)
    assert (content(last), content(previous)) == ("3", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]


def test_files_that_belong_together_are_never_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def write(text: str) -> None:
        with staged(folder) as new:
            (new / "masks").mkdir()
            for name in ("table.csv", "masks/1.png"):
                with atomic_write(new / name) as file:
                    file.write(text.encode())

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write("old")
        (folder / "other").write_text("kept")

    def texts() -> set[str]:
        return {file.read_text() for file in folder.rglob("*") if file.is_file() and not hidden(file)} - {"kept"}

    def hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    seen = [texts() for _ in killed_at_every_step(lambda: write("new"), folder, restore=restore)]
    assert all(len(one) <= 1 for one in seen)
    assert seen[0] == {"old"}
    assert sum(one == set() for one in seen) <= 3, "only between renames"
    assert texts() == {"new"}
    write("newer")
    assert texts() == {"newer"}
    assert sorted(file.name for file in folder.iterdir()) == ["masks", "other", "table.csv"]


def test_a_failure_keeps_files_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(TypeError), staged(tmp_path) as new, (new / "table.csv").open("wb") as file:
        file.write("new")  # type: ignore[arg-type]
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.csv", "old")]
