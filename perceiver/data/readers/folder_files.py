"""Files below the folders of a data set: listing, names of splits, and files left out."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from perceiver.data.loading.splits import SPLIT_NAMES
from perceiver.runtime.process_rank import process_rank

log = logging.getLogger(__name__)


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split, "train", "val" or "test"; `valid`, `validation` and `dev` also stand for "val".

    Raises:
        ValueError: there are several folders for this split.
    """
    found = []
    if split == "val" and root.is_dir():
        found = sorted(path for path in root.iterdir() if SPLIT_NAMES.get(path.name.lower()) == split and path.is_dir())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{root}: expected one folder for {split}, got {names}. Remove all but one.")
    return found[0] if found else root / split


def is_flat(root: Path) -> bool:
    """Return whether a folder exists and has no folder of a split, so that its files can only be predicted for."""
    return root.is_dir() and not any(split_folder(root, split).is_dir() for split in ("train", "val", "test"))


def files_below(folder: Path, *, _above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the relative paths, with slashes, of all files below a folder, linked files and folders included.

    Names that begin with a dot are skipped, and so are links to a parent folder.
    """
    place = os.stat(folder)
    identity = (place.st_dev, place.st_ino)
    if identity in _above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below = files_below(folder / entry.name, _above=_above | {identity})
                yield from (f"{entry.name}/{path}" for path in below)
            elif entry.is_file():
                yield entry.name


def report_left_out(others: Sequence[str], *, folder: Path, kind: str) -> None:
    """Log the number of files below a folder that were left out, with an example."""
    if others and process_rank() == 0:
        count = len(others)
        log.warning("%s: skipped %d files whose names are not those of %s, such as %s.", folder, count, kind, others[0])


def by_number(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
