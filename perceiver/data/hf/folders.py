"""The files of a data set in a local folder, by split. No file is executed, and none outside of the folder is named."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perceiver.data.loading.splits import SPLIT_NAMES, SPLIT_WORDS, split_words
from perceiver.data.readers.bounded.json_files import read_json
from perceiver.data.readers.folder_files import by_number
from perceiver.runtime.process_rank import process_rank

log = logging.getLogger(__name__)

PARQUET, ARROW, IMAGES, SOUND = "parquet", "arrow", "imagefolder", "audiofolder"

_SUFFIXES = {
    PARQUET: (".parquet", ".pq"),
    ARROW: (".arrow",),
    IMAGES: (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    SOUND: (".aif", ".aiff", ".au", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav"),
}
"""Formats by priority: pictures that lie beside tables are illustrations."""

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files that describe images or sound for `datasets`."""

_SHARD = re.compile(r"(\w[\w.-]*?)-\d+-of-\d+", re.ASCII)
_MOST_FILES = 10**7


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """Files of a data set.

    Args:
        folder: the folder.
        form: format: parquet, arrow, imagefolder or audiofolder.
        splits: files of each split, in order.
    """

    folder: Path
    form: str
    splits: Mapping[str, Sequence[Path]]


def local_files(path: Path, *, name: str | None) -> LocalFiles:
    """Find the files of a data set: Parquet, Arrow, `save_to_disk`, images or sound.

    Args:
        path: the folder, or a single Parquet or Arrow file.
        name: configuration: a folder in it. None: the only one.

    Raises:
        FileNotFoundError: there is no such configuration, or no data.
        ValueError: the path is a loading script, several configurations are possible, or the folder is damaged.
    """
    if path.is_file():
        return _single(path, name)
    folder = path if name is None else path / name
    if name is not None and (Path(name).name != name or not folder.is_dir()):
        known = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."))
        raise FileNotFoundError(f"data.name: expected a folder in {path}, which has {known or 'none'}; got {name!r}.")
    if (folder / "dataset_dict.json").is_file():
        content = _described(folder / "dataset_dict.json")
        splits = content.get("splits") if isinstance(content, dict) else None
        if not isinstance(splits, list) or not splits or not all(_is_plain(split) for split in splits):
            raise ValueError(f"{folder / 'dataset_dict.json'}: expected the names of splits, got {content!r:.80}.")
        return LocalFiles(folder=folder, form=ARROW, splits={split: _saved(folder / split) for split in splits})
    if (folder / "state.json").is_file():
        return LocalFiles(folder=folder, form=ARROW, splits={"train": _saved(folder)})
    return _scanned(folder, divisible=name is None)


def _single(path: Path, name: str | None) -> LocalFiles:
    if name is not None:
        raise ValueError(f"data.name: expected null, since data.path is a file, {path}.")
    suffix = path.suffix.lower()
    for form in (PARQUET, ARROW):
        if suffix in _SUFFIXES[form]:
            return LocalFiles(folder=path.parent, form=form, splits={"train": [path]})
    if suffix == ".py":
        raise ValueError(_script(path))
    raise ValueError(
        f"data.path: expected a folder, a Parquet or an Arrow file, got {path}. For other tables: data=manifest."
    )


def _saved(folder: Path) -> list[Path]:
    """Return the Arrow files of a `Dataset` that `save_to_disk` wrote."""
    file = folder / "state.json"
    state = _described(file)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
    if not names or not all(_is_plain(name) for name in names):
        raise ValueError(f"{file}: expected the names of Arrow files in {folder}, got {names!r:.120}.")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(f"{folder}: was saved with a selection of rows; save it again with a current version of datasets.")
    files = [folder / str(name) for name in names]
    for one in files:
        if not one.is_file() or one.is_symlink():
            raise FileNotFoundError(f"data.path: {one} is missing, or a link; {file} names it.")
    return files


def _described(file: Path) -> Any:
    """Return the content of a file of `save_to_disk`."""
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: is missing or damaged: {error}.") from error


def _is_plain(name: object) -> bool:
    """Return whether a name from a file is that of a file or folder beside it, on any system."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w. -]*", name) is not None and ".." not in name


def _scanned(folder: Path, *, divisible: bool) -> LocalFiles:
    files, archives = _files(folder)
    for form, suffixes in _SUFFIXES.items():
        found = [file for file in files if file.suffix.lower() in suffixes and file.name not in _METADATA]
        if not found:
            continue
        if form in (PARQUET, ARROW):
            _require_single_configuration(found, folder, divisible=divisible)
        else:
            found += [file for file in files if file.name in _METADATA]
        own = sorted((file.relative_to(folder) for file in found), key=lambda file: by_number(file.as_posix()))
        named = {file: _split_of(file, form=form) for file in own}
        splits: dict[str, list[Path]] = {}
        for file, split in named.items():
            splits.setdefault(split or "train", []).append(folder / file)
        unnamed = [file for file, split in named.items() if split is None and file.name not in _METADATA]
        _warn_of_unnamed(unnamed, folder, alone=set(named.values()) == {None})
        return LocalFiles(folder=folder, form=form, splits=splits)
    if scripts := [file for file in files if file.suffix == ".py"]:
        raise ValueError(_script(scripts[0]))
    hint = f" Unpack {archives[0]} first." if archives else ""
    raise FileNotFoundError(
        "data.path: expected Parquet or Arrow files, images or sound, or a folder of save_to_disk, but "
        f"{folder.resolve()} has none.{hint}"
    )


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return all files below a folder without following links, and the archives among them; hidden ones are left out."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        found += [Path(place, name) for name in names if name[0] not in "._"]
        if len(found) > _MOST_FILES:
            raise ValueError(f"data.path: {folder} has more than {_MOST_FILES:,} files.")
    return found, [file for file in found if file.suffix.lower() in (".zip", ".tar", ".gz", ".tgz")]


def _require_single_configuration(files: Iterable[Path], folder: Path, *, divisible: bool) -> None:
    tops = {file.relative_to(folder).parts[0] for file in files if len(file.relative_to(folder).parts) > 1}
    several = sorted(top for top in tops if top.lower() not in (*SPLIT_WORDS, "data"))
    if divisible and len(several) > 1:
        raise ValueError(f"data.name: {folder} has several configurations, {', '.join(several)}; name one: data.name=NAME.")


def _split_of(file: Path, *, form: str) -> str | None:
    """Return the split that a file's folder or, of a table, its name has among its words; None without such a word.

    Raises:
        ValueError: the name has words of several splits.
    """
    for folder in file.parts[:-1]:
        if folder.lower() in SPLIT_WORDS:
            return folder if folder.lower() in SPLIT_NAMES else SPLIT_WORDS[folder.lower()]
    if form in (IMAGES, SOUND):
        return None
    if (numbered := _SHARD.match(file.name)) is not None:
        return numbered[1]
    words = split_words(file.name)
    if len({SPLIT_NAMES[word] for word in words}) > 1:
        raise ValueError(f"data.path: expected files whose names have a single split, but {file} has several; rename it.")
    return words[0] if words else None


def _warn_of_unnamed(unnamed: Sequence[Path], folder: Path, *, alone: bool) -> None:
    """Warn of training files that may belong to another split.

    Args:
        unnamed: files whose split is not named as it should be.
        folder: the folder of the data set.
        alone: whether no other file names a split; then files are suspect only if their paths have the word of one.
    """
    if alone:
        unnamed = [file for file in unnamed if any(SPLIT_NAMES[word] != "train" for word in split_words(str(file)))]
    if unnamed and process_rank() == 0:
        log.warning(
            "%s: %d files of no named split are used for training, such as %s. Move those of other splits to folders named "
            "validation and test.",
            folder,
            len(unnamed),
            unnamed[0],
        )


def _script(path: Path) -> str:
    return (
        f"data.path: {path} is a loading script, which is not run: data is never code. Use a version of the data set in "
        "Parquet, as most have on the Hub (branch refs/convert/parquet), or write it with save_to_disk."
    )
