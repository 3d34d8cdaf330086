"""Time series in a manifest: CSV files with a column of times and columns of values, or lists."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.data.manifest.content import FileContent
from perceiver.data.readers.delimited import Delimited, decoded, is_index, numbers_of, read_delimited
from perceiver.modalities.cells.written_numbers import given_separators
from perceiver.modalities.spec import ModalitySpec

TIME_NAMES = ("time", "times", "timestamp", "seconds", "t", "date", "datetime")
"""Accepted names of the time column, in any case, if the modality's `time` does not name it."""


_HEAD_BYTES = 2**16


def read_series(value: Any, *, spec: ModalitySpec) -> dict[str, Any]:
    """Read a series for `perceiver.modalities.timeseries`: `values` (T, F), NaN if missing, and `times` (T,).

    Times are seconds or ISO 8601 instants. Without times, steps are `step_seconds` of the spec apart.

    Args:
        value: the path of a CSV file with a header; numbers (T,) or (T, F); or a dict with a list of times and either
            `values` (T, F) or a list for each value by name.
        spec: the spec: `names` of the values, `time`, `step_seconds`, `decimal`, `thousands`. Values that the series lacks
            are missing.

    Raises:
        OSError, ValueError: the value is not a series, is empty, or lacks all values of the spec; for a file, the message
            names line and column.
    """
    names = list(spec["names"])
    found, values, times = _series(value, spec)
    if len(values) == 0:
        raise ValueError(f"{_name(value)}has no steps.")
    if found is None:
        if values.shape[1] != len(names):
            raise ValueError(f"expected {len(names)} values per step, {', '.join(names)}, got {values.shape[1]}.")
    else:
        if not set(found) & set(names):
            raise ValueError(f"{_name(value)}expected some of the values {', '.join(names)}, got {', '.join(found)}.")
        missing = np.full((len(values), 1), np.nan)
        values = np.concatenate([values[:, [found.index(name)]] if name in found else missing for name in names], axis=1)
    if times is None and spec.get("step_seconds") is None:
        raise ValueError(
            f"{_name(value)}has no times; give the interval of its steps with {{kind: timeseries, step_seconds: …}}, "
            "or name the time column with time: NAME."
        )
    if not np.isfinite(values[~np.isnan(values)]).all():
        raise ValueError(f"{_name(value)}contains infinite values.")
    return {"values": values} if times is None else {"values": values, "times": times}


def has_times(value: Any, *, spec: ModalitySpec) -> bool:
    """Return whether a series has times. Errors as in `read_series`."""
    if isinstance(value, Path | FileContent):
        columns = _columns(_file(value, head=True).header, spec, path=value)
        return _time_column(list(columns), spec, where=f"{value}: ") is not None
    return _series(value, spec)[2] is not None


def series_names(value: Any, *, spec: ModalitySpec) -> list[str]:
    """Return the names of the values of a series. Errors as in `read_series`."""
    if isinstance(value, Path | FileContent):
        header = list(_columns(_file(value, head=True).header, spec, path=value))
        time = _time_column(header, spec, where=f"{value}: ")
        names = [name for name in header if name != time]
        if not names:
            raise ValueError(f"{value}: expected a time column and value columns, got {', '.join(header) or 'nothing'}.")
        return names
    found, values, _ = _series(value, spec)
    if found is not None:
        return found
    return ["value"] if values.shape[1] == 1 else [f"value_{number}" for number in range(values.shape[1])]


def _series(value: Any, spec: ModalitySpec) -> tuple[list[str] | None, NDArray[np.float64], NDArray[np.float64] | None]:
    """Return names of values or None, values (T, F), and times (T,) or None."""
    if isinstance(value, Path | FileContent):
        return _from_file(value, spec)
    if not isinstance(value, Mapping):
        return None, _matrix(value, "values"), None
    time = _time_column(list(value), spec, where="")
    times = None if time is None else _times([str(one) for one in value[time]], lambda step: f"step {step}")
    if "values" in value:
        names, values = None, _matrix(value["values"], "values")
    else:
        names = [name for name in value if name != time]
        columns = [_matrix(value[name], name)[:, 0] for name in names]
        if len({len(column) for column in columns}) > 1 or not columns:
            lengths = {name: len(column) for name, column in zip(names, columns, strict=True)}
            raise ValueError(f"expected lists of equal length for all values, got {lengths}.")
        values = np.stack(columns, axis=1)
    if times is not None and len(times) != len(values):
        raise ValueError(f"expected one time per step, got {len(times)} times and {len(values)} steps.")
    return names, values, times


def _matrix(value: Any, name: str) -> NDArray[np.float64]:
    try:
        # None becomes NaN.
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected numbers, in lists of equal length.") from None
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2:
        raise ValueError(f"{name}: expected (steps,) or (steps, values), got shape {matrix.shape}.")
    return matrix


def _from_file(
    path: Path | FileContent, spec: ModalitySpec
) -> tuple[list[str] | None, NDArray[np.float64], NDArray[np.float64] | None]:
    file = _file(path)
    columns = _columns(file.header, spec, path=path)
    time = _time_column(list(columns), spec, where=f"{path}: ")
    width = len(file.header)
    for line, row in zip(file.lines, file.rows, strict=True):
        if len(row) != width:
            raise ValueError(f"{path}, row {line}: expected {width} cells, as in the header, got {len(row)}.")
    names = [name for name in columns if name != time]
    asked = [name for name in names if name in spec.get("names", names)]
    if not asked:
        expected = ", ".join(spec.get("names", ["values"]))
        raise ValueError(f"{path}: expected some of the values {expected}, got {', '.join(names) or 'none'}.")
    if not file.rows:
        return names, np.empty((0, len(names))), None
    cells = list(zip(*file.rows, strict=True))
    known = [cells[columns[name]] for name in asked]
    separators = given_separators(spec)
    values = [
        numbers_of(column, partial(_step, f"{path}, column {name!r}"), separators=separators, others=known)
        for name, column in zip(asked, known, strict=True)
    ]
    if time is None:
        return asked, np.stack(values, axis=1), None
    times = _times(
        cells[columns[time]],
        lambda step: f"{path}, row {step + 2}, column {time!r}",
        separators=separators,
        others=known,
    )
    return asked, np.stack(values, axis=1), times


def _step(where: str, step: int) -> str:
    return f"{where}, row {step + 2}"


def _file(path: Path | FileContent, *, head: bool = False) -> Delimited:
    content = path.read_bytes() if not head or isinstance(path, FileContent) else _head(path)
    return read_delimited(decoded(content, path=path), path=path)


def _head(path: Path) -> bytes:
    """Read whole lines from the beginning of a file, enough to parse its header as in the whole file."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return head
        ends = max(head.rfind(b"\n"), head.rfind(b"\r"))
        return head[: ends + 1] if ends > 0 else head + file.read()


def _columns(header: Sequence[str], spec: ModalitySpec, *, path: object) -> dict[str, int]:
    """Return the position of each column, without a pandas index column unless the spec names it.

    Raises:
        ValueError: a name of values or times is repeated.
    """
    asked = spec.get("names")
    columns: dict[str, int] = {}
    for number, name in enumerate(header):
        wanted = asked is None or name in asked or name == spec.get("time") or name.lower() in TIME_NAMES
        if name in columns and wanted:
            raise ValueError(f"{path}: several columns are named {name!r}; rename all but one.")
        if (not is_index(name) and name not in columns) or (asked is not None and name in asked):
            columns[name] = number
    return columns


def _times(
    column: Sequence[str],
    where: Any,
    *,
    separators: Mapping[str, str] = MappingProxyType({}),
    others: Sequence[Sequence[str]] = (),
) -> NDArray[np.float64]:
    """Parse times: seconds unchanged, instants as seconds since 1970, in UTC if they have no time zone.

    Instants follow ISO 8601, with or without hyphens and colons: 20260131 is a day if all times are such days.
    """
    if (calendar := _calendar_times(column)) is not None:
        return calendar
    try:
        times = np.array(column, dtype=np.float64)
    except ValueError:
        if all(re.fullmatch(r"\s*-?\d+(,\d+)*\s*", text) for text in column):
            return numbers_of(column, where, separators=separators, others=others)
        # The first time determines the format, so that the message names the time that deviates from it.
        read = _seconds if _is_number(column[0]) else _instant
        times = np.array([read(text, where(step)) for step, text in enumerate(column)])
    if not np.isfinite(times).all():
        step = int(np.argmin(np.isfinite(times)))
        raise ValueError(f"{where(step)}: expected a time, got {column[step]!r}.")
    return times


def _calendar_times(column: Sequence[str]) -> NDArray[np.float64] | None:
    """Parse times written in digits alone, such as 20260131; return None if some are not."""
    texts = [text.strip().removesuffix(".0") for text in column]
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(texts[0])) if texts else None
    if form is None or not all(text.isdecimal() and len(text) == len(texts[0]) for text in texts):
        return None
    try:
        instants = [datetime.strptime(text, form).replace(tzinfo=UTC) for text in texts]
    except ValueError:
        return None
    plausible = all(1800 <= instant.year < 2200 for instant in instants)
    return np.array([instant.timestamp() for instant in instants]) if plausible else None


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _seconds(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: expected seconds, got {text!r}.") from None


def _instant(text: str, where: str) -> float:
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{where}: expected seconds or an instant like 2026-01-31T12:00:00, got {text!r}.") from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _time_column(names: Sequence[str], spec: ModalitySpec, *, where: str) -> str | None:
    """Return the time column; None if there is none and steps are regular."""
    asked = spec.get("time")
    if asked is not None:
        if asked not in names:
            raise ValueError(f"{where}expected the time column {asked!r}, got {', '.join(names)}.")
        return str(asked)
    found = [name for name in names if name.lower() in TIME_NAMES]
    if len(found) > 1:
        raise ValueError(f"{where}any of the columns {', '.join(found)} may be times; name one with time: NAME.")
    return found[0] if found else None


def _name(value: Any) -> str:
    return f"{value}: " if isinstance(value, Path | FileContent) else ""
