"""Files in several folders that are matched by name, such as images and their masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from perceiver.data.readers.folder_files import files_below, report_left_out


def matching_files(root: Path, folders: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Match files by name across folders: path without suffix -> folder -> path below that folder; sorted.

    Args:
        root: parent of the folders.
        folders: lower-case suffixes of the files, by folder; other files and hidden files are skipped. The first folder
            determines the names.

    Raises:
        FileNotFoundError: a folder is missing, or lacks a file that another folder has.
        ValueError: there are no files, a folder has two files of the same name, or a file has no match in the first folder.
    """
    for folder in folders:
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{root / folder}: expected a folder, but it does not exist. {root} must contain the folders "
                f"{', '.join(folders)}, with files of the same names."
            )
    found = {folder: _named(root / folder, suffixes) for folder, suffixes in folders.items()}
    first, *others = found
    if not found[first]:
        raise ValueError(f"{root / first}: expected files that end in {', '.join(folders[first])}, found none.")
    for other in others:
        suffix = folders[other][0]
        if missing := sorted(set(found[first]) - set(found[other])):
            raise FileNotFoundError(
                f"{root / other / missing[0]}{suffix}: expected this file beside {root / first / found[first][missing[0]]}; "
                f"{len(missing)} of {len(found[first])} have none. Add them, or remove the others."
            )
        if extra := sorted(set(found[other]) - set(found[first])):
            raise ValueError(
                f"{root / other / found[other][extra[0]]}: expected a file of this name in {root / first}; {len(extra)} "
                "have none."
            )
    return {name: {folder: found[folder][name] for folder in folders} for name in sorted(found[first])}


def _named(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Map paths without suffix to paths, both relative to the folder."""
    names: dict[str, str] = {}
    others: list[str] = []
    for path in sorted(files_below(folder), key=PurePosixPath):
        own = PurePosixPath(path)
        if own.suffix.lower() not in suffixes:
            others.append(path)
            continue
        name = own.with_suffix("").as_posix()
        if name in names:
            raise ValueError(f"{folder}: expected one file per name, got {names[name]} and {own.as_posix()}.")
        names[name] = own.as_posix()
    report_left_out(others, folder=folder, kind=f"files that end in {', '.join(suffixes)}")
    return names
