"""Table rows: numbers, categories, and presence of cells."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from perceiver.modalities.cells.values import is_missing, number_of_name, plain_text, values_of_row
from perceiver.modalities.cells.written_numbers import given_separators
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec

log = logging.getLogger(__name__)


@final
class TableModality(Modality):
    """Rows of a table -> `numbers` (n,) float32, `categories` (k,) int64 and `present` (n + k,).

    Numbers are normalised by the spec's `mean` and `std`; missing numbers are 0. Categories are numbered from 1 in the
    order of the spec; unknown or missing categories are 0.
    """

    channel_axis: ClassVar = {"numbers": -1, "categories": -1, "present": -1}
    settings: ClassVar = {"columns": None, "numbers": None, "categories": None, "decimal": None, "thousands": None}
    several_columns = True

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return all columns, and the columns forced to be numbers or categories."""
        lists = {key: [str(column) for column in settings.get(key) or ()] for key in ("columns", "numbers", "categories")}
        columns = list(dict.fromkeys([*lists["columns"], *lists["numbers"], *lists["categories"]]))
        if not columns or set(lists["numbers"]) & set(lists["categories"]):
            own = {key: value for key, value in settings.items() if value is not None}
            raise ValueError(
                "expected columns, or numbers and categories, each a list of distinct columns, e.g. {kind: table, "
                f"columns: [age, sex]}}; got {own}."
            )
        return {
            "columns": columns,
            "asked_numbers": lists["numbers"],
            "asked_categories": lists["categories"],
            **given_separators(settings),
        }

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> dict[str, Tensor]:
        """Convert one row.

        Args:
            raw: values by column. Missing values are None, NaN, an empty text or no entry; in number columns also the words
                of `MISSING_NUMBERS`.
            spec: `numbers`, a list of column names, dates included; `categories`, known values by column; optionally `mean`
                and `std`; `written` and `dates`, text formats by column, see `written_numbers`.
            name: name of the row in error messages.

        Raises:
            ValueError: for a column that is not in the spec, or an invalid number.
            TypeError: if the row is not a mapping.
        """
        numbers, categories, present = values_of_row(raw, spec, name=name)
        x = torch.tensor(numbers, dtype=torch.float64)
        x = self.normalise(x, spec) if numbers else x
        return {
            "numbers": torch.where(x.isnan(), x.new_zeros(()), x).to(torch.float32),
            "categories": torch.tensor(categories, dtype=torch.int64),
            "present": torch.tensor(present, dtype=torch.bool),
        }


class UnknownCategories:
    """Counts the cells of a column whose categories are unseen in training.

    Args:
        known: categories of the training rows.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known
        self._cells = 0
        self._unknown: Counter[str] = Counter()

    def add(self, value: Any) -> None:
        """Count a cell."""
        if is_missing(value):
            return
        self._cells += 1
        if number_of_name(text := plain_text(value), self.known) is None:
            self._unknown[text] += 1

    def warn(self, place: str) -> None:
        """Log the unknown categories, if any; the message begins with `place`."""
        if self._unknown:
            log.warning(
                "%s: %d of %d cells have %d values unseen in training, such as %s; the model treats them "
                "as missing. Known values: %s.",
                *(place, self._unknown.total(), self._cells, len(self._unknown), repr(next(iter(self._unknown)))),
                ", ".join(self.known[:20]),
            )
