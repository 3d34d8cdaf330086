"""What the training rows of a manifest say of its modalities: shapes, names, categories, mean and standard deviation."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceiver.data.manifest.cells import (
    images_in_cell,
    is_path_of_file,
    names_of_series,
    series_has_times,
    shortened,
)
from perceiver.data.manifest.modalities import Modality
from perceiver.data.manifest.rows import (
    BadRowError,
    BadRows,
    ManifestRows,
    RowIds,
    cell_of,
    reason,
)
from perceiver.data.manifest.table import ManifestTable
from perceiver.data.readers.images import deep_range_of_files
from perceiver.modalities.table import number_in_column, number_of_name, plain_text, value_text
from perceiver.modalities.written_numbers import (
    how_dates_are_written,
    how_numbers_are_written,
    is_missing_number,
)
from perceiver.runtime.process_rank import process_rank

log = logging.getLogger(__name__)

_FEW = 8  # cells, of which all may differ in a category too


def learned_facts(
    modality: Modality, *, table: ManifestTable, rows: Sequence[int], folder: Path, bad: BadRows, at_most: int = 1024
) -> dict[str, Any]:
    """The spec of a modality, complete.

    Args:
        modality: what is known of it.
        table: the manifest.
        rows: of the training split.
        folder: what paths in cells are relative to.
        bad: what to do with cells that cannot be decoded.
        at_most: how many samples are decoded for mean and standard deviation, evenly spaced ones of more.

    Raises:
        BadRowError: a cell cannot be decoded, unless `bad` skips its row.
        ValueError: the modality is missing in all rows, or never varies.
    """
    there = [row for row in rows if cell_of(table, row, modality) is not None]
    if not there:
        raise ValueError(
            f"{table.path}: column {', '.join(modality.columns)} is empty in all {len(rows)} training rows; leave "
            f"{modality.name} out of data.modalities."
        )
    facts = dict(modality.facts)
    if modality.kind == "table":
        return _table_facts(facts, table, there, bad)
    if modality.kind == "timeseries" and "names" not in facts:
        facts["names"] = _series_names(modality, table=table, rows=there, folder=folder, bad=bad)
        facts["num_values"] = len(facts["names"])
    if modality.kind in ("image", "video") and "deep_range" not in facts:
        cells = (table.cell(row, modality.columns[0]) for row in there[:: math.ceil(len(there) / at_most)])
        images = (image for cell in cells for image in images_in_cell(cell, facts=facts, folder=folder))
        if (deep_range := deep_range_of_files(images)) is not None:
            facts["deep_range"] = deep_range
    if modality.kind == "text" and not facts.get("files"):
        _warn_of_paths(modality, table=table, rows=there, folder=folder)
    if modality.kind == "timeseries" and facts.get("step_seconds") is None:
        series = (table.cell(row, modality.columns[0]) for row in there)
        if not any(_has_times(one, facts, folder) for one in series):
            facts["step_seconds"] = 1.0
            log.info(
                "%s, column %r: series have no times, so that steps are 1 second apart; set step_seconds for others.",
                *(table.path, modality.columns[0]),
            )
    if modality.kind not in _MEASURES:
        return facts
    step = math.ceil(len(there) / at_most)
    dataset = ManifestRows(
        table=table,
        rows=there[::step],
        modalities=[modality],
        specs={modality.name: facts},
        folder=folder,
        ids=RowIds(table=table, column=None),
    )
    try:
        return {**facts, **_MEASURES[modality.kind](_readable(dataset, modality, bad))}
    except BadRowError:
        raise
    except ValueError as error:
        raise ValueError(f"{table.path}, column {modality.columns[0]!r}: {error}") from error


def _warn_of_paths(modality: Modality, *, table: ManifestTable, rows: Sequence[int], folder: Path) -> None:
    """Texts that are the paths of files are hardly meant to be learned themselves."""
    looked_at = [table.cell(row, modality.columns[0]) for row in rows[:: math.ceil(len(rows) / _FEW)]]
    if all(is_path_of_file(cell, folder) for cell in looked_at):
        log.warning(
            "%s, column %r: holds paths of files, such as %s, and trains on these names; set files: true to read the files.",
            *(table.path, modality.columns[0], shortened(looked_at[0])),
        )


def _has_times(value: Any, facts: Mapping[str, Any], folder: Path) -> bool:
    """Of a series that cannot be read, another reader tells why."""
    try:
        return series_has_times(value, facts=facts, folder=folder)
    except (OSError, ValueError):
        return False


def _series_names(modality: Modality, *, table: ManifestTable, rows: Sequence[int], folder: Path, bad: BadRows) -> list[str]:
    """The values of all series, in the order in which they come first."""
    names: dict[str, None] = {}
    for row in rows:
        try:
            found = names_of_series(table.cell(row, modality.columns[0]), facts=modality.facts, folder=folder)
        except Exception as error:
            bad.report(row, f"{table.where(row, modality.columns[0])}: {reason(error)}")
            continue
        names.update(dict.fromkeys(found))
    return list(names)


def _readable(dataset: ManifestRows, modality: Modality, bad: BadRows) -> Iterator[Any]:
    for row in dataset.rows.tolist():
        try:
            x = dataset.read(row, modality)
        except BadRowError as error:
            bad.report(row, str(error))
            continue
        if x is not None:
            yield x


def _table_facts(facts: dict[str, Any], table: ManifestTable, rows: Sequence[int], bad: BadRows) -> dict[str, Any]:
    """Columns of numbers, each with mean and standard deviation, and of categories, each with its values."""
    asked = {name: kind for kind in ("numbers", "categories") for name in facts.pop(f"asked_{kind}")}
    separators = {key: facts.pop(key, None) for key in ("decimal", "thousands")}
    columns = {name: [table.cell(row, name) for row in rows] for name in facts["columns"]}
    numbers: list[str] = []
    written: dict[str, dict[str, str]] = {}
    dates: dict[str, dict[str, str]] = {}
    for name, values in columns.items():
        try:
            if asked.get(name) != "categories" and _is_numeric(name, values, asked, separators, written, dates):
                numbers.append(name)
        except ValueError as error:
            raise ValueError(f"{table.path}, column {name!r}: {error}.") from None
    facts |= {key: one for key, one in (("written", written), ("dates", dates)) if one}
    means, stds = [], []
    for name in numbers:
        present = []
        what = "date" if name in dates else "number"
        for row, value in zip(rows, columns[name], strict=True):
            try:
                number = number_in_column(value, name, facts, name="")
            except ValueError:
                bad.report(
                    row,
                    f"{table.where(row, name)}: expected a {what}, as in other rows, got {shortened(value)}. If the column "
                    "is meant so, name it under categories.",
                )
            else:
                present += [] if number is None else [number]
        how = written.get(name) or dates.get(name) or {}
        log.info(
            "%s, column %r: read as %ss%s, %d of %d cells are missing.",
            *(table.path, name, what, f" ({', '.join(f'{key}: {one}' for key, one in how.items() if one)})" if how else ""),
            *(len(rows) - len(present), len(rows)),
        )
        x = torch.tensor(present or [0.0], dtype=torch.float64)
        means.append(float(x.mean()))
        stds.append(_spread(float(x.std(correction=0)), float(x.abs().max())))
    known = {
        name: sorted({value_text(value) for value in values if value is not None}, key=natural)
        for name, values in columns.items()
        if name not in numbers
    }
    for name, found in known.items():
        there = sum(value is not None for value in columns[name])
        many = len(found) > 0.9 * there and there > _FEW
        log.log(
            logging.WARNING if many else logging.INFO,
            "%s, column %r: read as a category with %d values in %d cells%s",
            *(table.path, name, len(found), there, f", such as {shortened(found[0])}: almost one per row." if many else "."),
        )
    return {
        **facts,
        "numbers": numbers,
        "mean": means,
        "std": stds,
        "categories": known,
        "category_sizes": [len(values) + 1 for values in known.values()],
    }


def warn_of_unknown_values(table: ManifestTable, rows: Sequence[int], *, facts: Mapping[str, Any]) -> None:
    """Names in the log the columns of a table modality that are empty in all rows, and categories unknown in training.

    Args:
        table: the manifest.
        rows: for validation, test or prediction.
        facts: the stored spec of the modality.
    """
    for column in facts["columns"] if process_rank() == 0 and rows else ():
        values = [value for row in rows if (value := table.cell(row, column)) is not None]
        if not values:
            log.warning("%s, column %r: is empty in all %d rows.", table.path, column, len(rows))
        if column not in facts["categories"]:
            continue
        known = facts["categories"][column]
        unknown = Counter(text for value in values if number_of_name(text := plain_text(value), known) is None)
        if unknown:
            log.warning(
                "%s, column %r: %d of %d cells have %d values unknown in training, such as %s; a model takes them for "
                "missing categories. Known are %s.",
                *(table.path, column, unknown.total(), len(values), len(unknown), shortened(next(iter(unknown)))),
                shortened(", ".join(known)),
            )


def _is_numeric(
    name: str,
    values: Sequence[Any],
    asked: Mapping[str, str],
    separators: Mapping[str, Any],
    written: dict[str, dict[str, str]],
    dates: dict[str, dict[str, str]],
) -> bool:
    """Whether a column holds numbers or dates; notes how these are written.

    Dates are nine in ten of the cells that are there, numbers are half of them: the others are slips rather than categories.
    """
    style, share = how_numbers_are_written(values, **separators)
    if share < 0.9 and (date := how_dates_are_written(values)) is not None:
        dates[name] = date
        return True
    if share < 0.5 and asked.get(name) != "numbers" and not all(map(is_missing_number, values)):
        return False
    if style:
        written[name] = style
    return True


def natural(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by value and before words."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _spread(std: float, largest: float) -> float:
    """A standard deviation to divide by: 1 where what is left of it is rounding."""
    return std if std > 1e-9 * largest else 1.0


def _pixel_statistics(samples: Any) -> dict[str, Any]:
    """Mean and standard deviation of each channel; of images and videos, channels first."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x in samples:
        flat = x.double().flatten(1)
        count, total, squares = count + flat.shape[1], total + flat.sum(dim=1), squares + flat.square().sum(dim=1)
    _require_any(count)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    if float(std.max()) <= 1e-6:
        raise ValueError("the training images are all of one colour: nothing to normalise or to learn from.")
    return {"mean": mean.tolist(), "std": [value if value > 1e-6 else 1.0 for value in std.tolist()]}


def _loudness(samples: Any) -> dict[str, Any]:
    """Mean 0, so that silence stays 0, and the root mean square of each channel."""
    count, squares = 0, torch.zeros(())
    for x in samples:
        count, squares = count + x.shape[1], squares + x.double().square().sum(dim=1)
    _require_any(count)
    rms = (squares / count).sqrt()
    if not bool((rms > 0).all()):
        raise ValueError("the training recordings are silent: nothing to normalise or to learn from.")
    return {"mean": [0.0] * len(rms), "std": rms.tolist()}


def _series_statistics(samples: Any) -> dict[str, Any]:
    """Mean and standard deviation of each value over the steps that have it, and the longest duration."""
    duration = 0.0
    # By Welford's way, shifted by what came first: values may lie far from 0.
    count: Tensor | float = 0.0
    mean: Tensor | float = 0.0
    moment: Tensor | float = 0.0
    for x in samples:
        values = x["values"].double()
        present = x.get("present", torch.ones_like(values, dtype=torch.bool)).double()
        own = present.sum(dim=0)
        own_mean = (values * present).sum(dim=0) / own.clamp(min=1)
        own_moment = ((values - own_mean).square() * present).sum(dim=0)
        both = count + own
        delta = own_mean - mean
        mean = mean + delta * own / both.clamp(min=1)
        moment = moment + own_moment + delta.square() * count * own / both.clamp(min=1)
        count = both
        duration = max(duration, float(x["times"][-1] - x["times"][0]))
    _require_any(int(isinstance(mean, Tensor)))
    assert isinstance(mean, Tensor)
    assert isinstance(count, Tensor)
    std = (moment / count.clamp(min=1)).sqrt()
    return {
        "mean": mean.tolist(),
        "std": [_spread(one, abs(level)) for one, level in zip(std.tolist(), mean.tolist(), strict=True)],
        "duration_seconds": duration or 1.0,
    }


def _require_any(count: int) -> None:
    if count == 0:
        raise ValueError("none of the training cells can be read.")


def _point_shape(samples: Any) -> dict[str, Any]:
    """Any number of points, of as many coordinates and features as the first set has."""
    first = next(samples, None)
    if first is None:
        raise ValueError("no point set can be read.")
    if first.ndim != 2:
        raise ValueError(f"expected point sets (points, coordinates), got shape {tuple(first.shape)}.")
    return {"shape": [None, first.shape[1]]}


_MEASURES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "image": _pixel_statistics,
    "video": _pixel_statistics,
    "audio": _loudness,
    "timeseries": _series_statistics,
    "points": _point_shape,
}
