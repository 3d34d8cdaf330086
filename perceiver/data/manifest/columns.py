"""The columns of a table modality: numeric or categorical, with their statistics in the training rows."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from perceiver.data.manifest.paths import Folder
from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.cells.values import number_in_column, value_text
from perceiver.modalities.cells.written_numbers import (
    how_dates_are_written,
    how_numbers_are_written,
    is_missing_number,
)
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.statistics import spread
from perceiver.modalities.table import UnknownCategories
from perceiver.runtime.process_rank import process_rank

log = logging.getLogger(__name__)

_FEW = 8  # with so few cells, all may differ in a categorical column too

Report = Callable[[int, str | None, object], None]
"""Gets an unusable row, the column at fault if there is a single one, and the problem."""


def table_spec(
    cells: Iterable[tuple[int, Mapping[str, Any]]], *, spec: ModalitySpec, folder: Folder | None, report: Report
) -> dict[str, Any]:
    """Return the spec with numeric columns (mean and standard deviation) and categorical columns (values)."""
    asked = {name: kind for kind in ("numbers", "categories") for name in spec[f"asked_{kind}"]}
    rows = dict(cells)
    columns = {name: [values.get(name) for values in rows.values()] for name in spec["columns"]}
    separators = {key: spec.get(key) for key in ("decimal", "thousands")}
    numbers: list[str] = []
    written: dict[str, dict[str, str]] = {}
    dates: dict[str, dict[str, str]] = {}
    for name, values in columns.items():
        try:
            if asked.get(name) != "categories" and _is_numeric(name, values, asked, separators, written, dates):
                numbers.append(name)
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}.") from None
    found = {key: one for key, one in (("written", written), ("dates", dates)) if one}
    means, stds = [], []
    for name in numbers:
        present = []
        what = "date" if name in dates else "number"
        for row, value in zip(rows, columns[name], strict=True):
            try:
                number = number_in_column(value, name, found, name="")
            except ValueError:
                report(
                    row,
                    name,
                    f"expected a {what}, as in other rows, got {value!r}. If this column is categorical, name it "
                    "under categories.",
                )
            else:
                present += [] if number is None else [number]
        how = written.get(name) or dates.get(name) or {}
        log.info(
            "column %r: read as %ss%s, %d of %d cells are missing.",
            *(name, what, f" ({', '.join(f'{key}: {one}' for key, one in how.items() if one)})" if how else ""),
            *(len(rows) - len(present), len(rows)),
        )
        x = torch.tensor(present or [0.0], dtype=torch.float64)
        means.append(float(x.mean()))
        stds.append(spread(float(x.std(correction=0)), float(x.abs().max())))
    known = {
        name: sorted({value_text(value) for value in values if value is not None}, key=natural)
        for name, values in columns.items()
        if name not in numbers
    }
    for name, categories in known.items():
        filled = sum(value is not None for value in columns[name])
        many = len(categories) > 0.9 * filled and filled > _FEW
        log.log(
            logging.WARNING if many else logging.INFO,
            "column %r: read as a category with %d values in %d cells%s",
            *(name, len(categories), filled, f", such as {categories[0]}: almost one per row." if many else "."),
        )
    settings = ("asked_numbers", "asked_categories", "decimal", "thousands")
    return {
        **{key: value for key, value in spec.items() if key not in settings},
        **found,
        "numbers": numbers,
        "mean": means,
        "std": stds,
        "categories": known,
        "category_sizes": [len(values) + 1 for values in known.values()],
    }


def _is_numeric(
    name: str,
    values: Sequence[Any],
    asked: Mapping[str, str],
    separators: Mapping[str, Any],
    written: dict[str, dict[str, str]],
    dates: dict[str, dict[str, str]],
) -> bool:
    """Return whether a column holds numbers or dates, and record the format of dates.

    A column holds dates if they are nine in ten of its non-empty cells, and numbers if they are half of them: the other
    cells are more likely errors than categories.
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
    """Sort key that puts numbers first, by value, and words after them, "nan" and "inf" included."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return (False, number, text) if math.isfinite(number) else (True, 0.0, text)


def warn_of_unknown_values(table: ManifestTable, rows: Sequence[int], *, spec: ModalitySpec) -> None:
    """Log the columns of a table modality that are empty in all rows, and categories unseen in training.

    Args:
        table: the manifest.
        rows: rows for validation, test or prediction.
        spec: stored spec of the modality.
    """
    categories = spec.get("categories") or {}
    for column in (spec.get("columns") or ()) if process_rank() == 0 and rows else ():
        values = [value for row in rows if (value := table.cell(row, column)) is not None]
        if not values:
            log.warning("%s, column %r: is empty in all %d rows.", table.path, column, len(rows))
        if column not in categories:
            continue
        unknown = UnknownCategories(categories[column])
        for value in values:
            unknown.add(value)
        unknown.warn(f"{table.path}, column {column!r}")
