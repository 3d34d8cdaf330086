"""Paths in cells: the folder that they start from, and patterns, `images/{id}.jpg`, that are filled from a row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from perceiver.modalities.cells.values import value_text
from perceiver.runtime.user_paths import expanded

_PLACEHOLDER = re.compile(r"(?<!\$)\{(?P<column>[^{}:]+)(?::0(?P<width>\d{1,2})d?)?\}")

_ENCLOSED = re.compile(_PLACEHOLDER.pattern + r"|\$\{\w+\}")


@dataclass(frozen=True, kw_only=True)
class EnclosedFolder:
    """Base of the paths in a data set whose cells must not name files elsewhere, by `..`, absolute paths or links.

    Args:
        path: base of relative paths.
        others: other folders in which absolute paths may lie, such as the cache of a library.

    Examples:
        >>> from pathlib import Path
        >>> from perceiver.data.manifest.paths import EnclosedFolder
        >>> EnclosedFolder(path=Path("set")).place("train/1.png").as_posix()
        'set/train/1.png'
    """

    path: Path
    others: Sequence[Path] = ()

    def place(self, path: str | Path) -> Path:
        """Return the place of a path in a cell.

        Raises:
            ValueError: it is outside of the folders.
        """
        windows = PureWindowsPath(path)
        place = self.path / path
        absolute = Path(path).is_absolute()
        # Also what another system takes for a drive or a parent.
        odd = ".." in windows.parts or (not absolute and (bool(windows.drive) or bool(windows.root)))
        allowed = [folder.resolve() for folder in (self.path, *(self.others if absolute else ()))]
        if odd or not any(place.resolve().is_relative_to(folder) for folder in allowed):
            raise ValueError(
                f"{str(path)!r:.200} is outside of {self.path}, where the files of this data set must be. If they are "
                "elsewhere, and you trust its paths, set data.root to their folder."
            )
        return place


Folder = Path | EnclosedFolder
"""Base of the paths in cells. From a `Path`, they may lead to any file."""


def placed(folder: Folder, path: str | Path) -> Path:
    """Return the place of a path in a cell; ValueError if it leaves an `EnclosedFolder`."""
    return folder.place(path) if isinstance(folder, EnclosedFolder) else folder / path


@dataclass(frozen=True, kw_only=True)
class PathPattern:
    """A pattern of paths. `{column}` stands for the cell of a column, `{column:05}` for a number filled up with zeros.

    Args:
        text: the pattern as the user typed it.
        folder: folder in front of the first placeholder, which filled paths do not leave; relative to `data.root`.
        rest: the pattern below that folder.

    Examples:
        >>> from perceiver.data.manifest.paths import PathPattern
        >>> pattern = PathPattern.of("images/{species}/{id:03}.jpg", setting="path")
        >>> pattern.columns
        ('species', 'id')
        >>> pattern.filled({"species": "cat", "id": 7}).as_posix()
        'images/cat/007.jpg'
    """

    text: str
    folder: Path
    rest: str

    @classmethod
    def of(cls, text: Any, *, setting: str) -> "PathPattern":
        """Parse a pattern in the user's settings; `~` and `$VARIABLE` in front of the first placeholder are expanded.

        Raises:
            ValueError: it has no placeholder, or braces that do not enclose a column.
        """
        cls._check(text, setting=setting)
        before, rest = _divided(text)
        return cls(text=text, folder=expanded(before, setting=setting) if before else Path(), rest=rest)

    @classmethod
    def stored(cls, text: Any, *, setting: str) -> "PathPattern":
        """Parse a pattern in a stored spec, which may be a stranger's: nothing is expanded, and it must not leave the root.

        Raises:
            ValueError: as in `of`, or the user must give such a pattern again.
        """
        cls._check(text, setting=setting)
        before, rest = _divided(text)
        if _leaves(before) or before.startswith("~") or "$" in before:
            raise ValueError(
                f"{setting}: expected a path below data.root, got {text!r} in the stored spec. If you trust it, name all "
                f"modalities in data.modalities, this one with path: {text!r}."
            )
        return cls(text=text, folder=Path(before), rest=rest)

    @staticmethod
    def _check(text: Any, *, setting: str) -> None:
        text = str(text) if isinstance(text, Path) else text
        if not isinstance(text, str) or not _PLACEHOLDER.search(text) or re.search(r"[{}]", _ENCLOSED.sub("", text)):
            raise ValueError(
                f"{setting}: expected a path with columns in braces, such as 'images/{{id}}.jpg', got {text!r}."
            )
        if ".." in PurePosixPath(_divided(text)[1]).parts:
            raise ValueError(f"{setting}: expected '..' in front of the first placeholder only, got {text!r}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the placeholders, each once."""
        return tuple(dict.fromkeys(match["column"] for match in _PLACEHOLDER.finditer(self.rest)))

    def filled(self, cells: Mapping[str, Any]) -> Path:
        """Return the path for the cells of a row.

        Raises:
            ValueError: a cell is neither text nor a number, or the path would leave the folder of the pattern.
        """

        def cell(match: re.Match[str]) -> str:
            value = cells[match["column"]]
            if not isinstance(value, str | int | float):
                raise ValueError(f"expected text or a number for {match[0]} of {self.text!r}, got {type(value).__name__}.")
            return value_text(value).zfill(int(match["width"] or 0))

        rest = _PLACEHOLDER.sub(cell, self.rest)
        if _leaves(rest):
            raise ValueError(f"{rest!r:.200} would leave the folder of the pattern {self.text!r}.")
        return self.folder / rest


def _divided(text: str) -> tuple[str, str]:
    """Divide a pattern into its folder in front of the first placeholder, with its slash, and the rest."""
    first = _PLACEHOLDER.search(text)
    assert first is not None
    end = text.rfind("/", 0, first.start()) + 1
    return text[:end], text[end:]


def _leaves(path: str) -> bool:
    """Return whether a relative path may leave its folder, on any system."""
    windows = PureWindowsPath(path)
    return "\0" in path or path.startswith(("/", "\\")) or bool(windows.drive) or ".." in windows.parts
