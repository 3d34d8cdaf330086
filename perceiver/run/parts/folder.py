"""The folder of a table in parts: `part-00000-of-00042.parquet`, …, and what run they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from perceiver.run.configuration.command_line import typed_override
from perceiver.runtime.files import atomic_write, remove_leftovers
from perceiver.runtime.process_rank import process_rank

MANIFEST = "_parts.json"
"""Readers of Parquet folders ignore names that begin with an underscore."""

DEFAULT_ROWS = 10_000
_VERSION = 1
_MAX_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class PartFolder:
    """A table of `rows` rows in parts of `rows_per_part`, the last one possibly shorter.

    A part has its name only once it is complete, so any part may be computed at any time by any process.

    Args:
        path: the folder; `pandas.read_parquet` and `pyarrow.parquet.read_table` read it as one table, in order.
        rows: rows of the table.
        rows_per_part: rows of a part.
    """

    path: Path
    rows: int
    rows_per_part: int

    @classmethod
    def prepared(cls, path: Path, *, rows: int, rows_per_part: int | None, run: Mapping[str, Any]) -> PartFolder:
        """Create the folder, or check that its parts belong to the same run; the first process writes for all.

        Args:
            path: the folder.
            rows: rows of the table.
            rows_per_part: rows of a part; None: those of the folder, else `DEFAULT_ROWS`.
            run: what determines the content of the parts, plain values.

        Raises:
            ValueError: the folder's parts belong to other settings, its manifest is damaged, or a part has other rows.
            FileExistsError: `path` is a table in one file.
        """
        if path.is_file():
            raise FileExistsError(
                f"hydra.run.dir: {path} already exists, a table in one file; choose another directory, or remove it."
            )
        earlier = _read(path / MANIFEST)
        if rows_per_part is None:
            rows_per_part = DEFAULT_ROWS if earlier is None else int(earlier["rows_per_part"])
        folder = cls(path=path, rows=rows, rows_per_part=rows_per_part)
        if process_rank() != 0:
            return folder
        ours = {"version": _VERSION, "rows": rows, "rows_per_part": rows_per_part, **json.loads(json.dumps(run))}
        remove_leftovers(path)
        if earlier is None:
            if path.exists() and any(path.glob("part-*")):
                raise ValueError(
                    f"{path}: has parts but no {MANIFEST}, so what they belong to is unknown. Remove the folder."
                )
            with atomic_write(path / MANIFEST) as file:
                file.write((json.dumps(ours, indent=2, sort_keys=True) + "\n").encode())
            return folder
        _require_same(path, earlier, ours)
        for part in folder.finished():
            _check_part(folder.file(part), rows=len(folder.span(part)))
        return folder

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.rows // self.rows_per_part)

    def file(self, part: int) -> Path:
        """Return the path of a part."""
        return self.path / f"part-{part:05d}-of-{self.count:05d}.parquet"

    def span(self, part: int) -> range:
        """Return the row numbers of a part."""
        return range(part * self.rows_per_part, min((part + 1) * self.rows_per_part, self.rows))

    def is_finished(self, part: int) -> bool:
        """Return whether a part is complete."""
        return self.file(part).exists()

    def finished(self) -> list[int]:
        """Return the numbers of all complete parts."""
        names = {file.name for file in self.path.glob("part-*.parquet")}
        return [part for part in range(self.count) if self.file(part).name in names]


def _read(file: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder; None if it has none."""
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({str(error)[:100]}). Remove the folder, or choose another.") from None
    rows = content.get("rows_per_part") if isinstance(content, dict) else None
    if type(rows) is not int or rows < 1:
        raise ValueError(f"{file}: expected the description of a table in parts. Remove the folder, or choose another.")
    return content  # type: ignore[no-any-return]


def _require_same(path: Path, earlier: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    before, now = _leaves(earlier), _leaves(ours)
    different = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if different:
        listed = "; ".join(f"{key}: {before.get(key)!r:.100} there, {now.get(key)!r:.100} here" for key in different[:5])
        raise ValueError(
            f"hydra.run.dir: the parts in {path} belong to other settings ({listed}). Continue with the same settings, or "
            f"choose another directory."
        )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _check_part(file: Path, *, rows: int) -> None:
    """Raise ValueError unless a part is readable and has the right number of rows."""
    try:
        found = pq.read_metadata(file).num_rows
    except Exception as error:  # pyarrow raises several kinds for damaged files
        raise ValueError(f"{file}: damaged ({' '.join(str(error).split())[:150]}). Remove it and run again.") from None
    if found != rows:
        raise ValueError(f"{file}: expected {rows:,} rows, got {found:,}. Remove it and run again.")


def continuing(directory: Path) -> str:
    """Return how to continue into a run directory, for a message."""
    return f"the same command with {typed_override('hydra.run.dir', directory)} continues"
