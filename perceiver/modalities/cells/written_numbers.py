"""Numbers and dates as text: detect the format of a column, and parse its cells.

The format of a column is detected once, in the training rows, and stored in the spec as a plain dict, so that prediction
parses cells the same way.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

MISSING_NUMBERS = {
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan", "<na>", "n/a", "na", "null", "nan"),
    *("none", "nat", "?", "-", "--", ".", "..", "n.a.", "unknown", "missing", "not available"),
}
"""Words for a missing number or date: those of pandas and common marks; case is ignored."""

SEPARATORS = ("decimal", "thousands")
"""Settings of the kinds that read numbers from text."""

_WRITTEN = re.compile(
    r"(?P<sign>[+\-\u2212]?)\s*(?P<prefix>[$€£¥]?)\s*(?P<second>[+\-\u2212]?)"
    r"(?P<number>\d[\d.,'\u00a0\u202f ]*\d|\d|[.,]\d+)(?P<exponent>[eE][+-]?\d+)?"
    r"\s*(?P<suffix>[%‰$€£¥°a-zA-Zµ²³/]*)"
)
# Decimal and thousands separators; if several pairs fit, the first is used.
_STYLES = ((".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"))

_DATES = ("iso", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")


def is_missing_number(value: Any) -> bool:
    """Return whether the number in a cell is missing: None, NaN, or a word for it."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING_NUMBERS
    return value is None or (isinstance(value, float) and math.isnan(value))


def number_of(value: Any, written: Mapping[str, Any] | None = None) -> float:
    """Parse the number in a cell.

    Args:
        value: a number, or text.
        written: format of text, see `how_numbers_are_written`. None: Python's format.

    Raises:
        ValueError, TypeError: if the value is not a finite number in this format.
    """
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    try:
        number = _parsed(value, **written) if isinstance(value, str) and written else float(value)
    except OverflowError:  # a whole number of more than 308 digits
        raise ValueError("not finite") from None
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def how_numbers_are_written(
    values: Sequence[Any], *, decimal: str | None = None, thousands: str | None = None
) -> tuple[dict[str, str], float]:
    """Detect the number format of a column; also return the share of the cells, missing ones excluded, that fit it.

    Args:
        values: cells.
        decimal: decimal separator. None: detect it.
        thousands: thousands separator. None: detect it.

    Returns:
        An empty dict for Python's format, otherwise the `decimal` and `thousands` separators and the `unit`: a percent or
        currency sign, or a unit, the same in all cells that have a unit.

    Raises:
        ValueError: if a comma before three digits could be either separator, in all cells with a comma.
    """
    known = [value for value in values if not is_missing_number(value)]
    texts = [value for value in known if isinstance(value, str)]
    others = sum(_is_number(value, {}) for value in known if not isinstance(value, str))
    given = decimal is not None or thousands is not None
    plain = sum(_is_number(text, {}) for text in texts)
    # A cell that Python cannot parse decides for the column: besides 1.234,5, the cell 1.234 has no fraction.
    if not texts or (not given and plain == len(texts)):
        return {}, (others + plain) / max(len(known), 1)
    units = Counter(unit for text in texts if (match := _WRITTEN.fullmatch(text.strip())) and (unit := _unit(match)))
    unit = units.most_common(1)[0][0] if units else ""
    styles = [
        {"decimal": point, "thousands": group, "unit": unit}
        for point, group in ([(decimal or ".", thousands or "")] if given else _STYLES)
    ]
    counts = [sum(_is_number(text, style) for text in texts) for style in styles]
    best = max(counts)
    if not given and counts[1] == counts[2] == best > counts[0]:
        example = next(text for text in texts if "," in text)
        raise ValueError(
            f"{example!r} may be written with a decimal comma or with a comma for thousands. Set decimal or thousands "
            "of the table to ','"
        )
    style = styles[counts.index(best)]
    # Scientific notation, infinity and the like keep Python's format.
    if plain >= best and not given:
        return {}, (others + plain) / len(known)
    return style, (others + best) / len(known)


def given_separators(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the separators of numbers among the settings of a kind: `decimal` and `thousands`, if they are not None.

    Raises:
        ValueError: a separator is not a single character that can stand between digits, or both are the same.
    """
    given = {key: str(settings[key]) for key in SEPARATORS if settings.get(key) is not None}
    for key, separator in given.items():
        if len(separator) != 1 or separator.isalnum() or given.get("decimal") == given.get("thousands"):
            raise ValueError(f"{key}: expected one character between digits, such as ',', got {given}.")
    return given


def date_of(value: Any, written: Mapping[str, Any]) -> float:
    """Parse the date or time in a cell, in days or seconds since 1970; UTC unless it has a time zone.

    Args:
        value: text, a `date` or a `datetime`.
        written: its `unit`, "days" or "seconds", and the format `written`, see `how_dates_are_written`.

    Raises:
        ValueError: if the value does not fit the format.
    """
    instant = _instant(value, written["written"])
    seconds = (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    return seconds / 86400 if written["unit"] == "days" else seconds


def how_dates_are_written(values: Sequence[Any]) -> dict[str, str] | None:
    """Detect the date format and unit that fit nine in ten of a column's cells; None: the cells are not dates.

    Raises:
        ValueError: if day and month are ambiguous.
    """
    known = [value for value in values if not is_missing_number(value)]
    counts = [sum(_is_date(value, form) for value in known) for form in _DATES]
    best = max(counts)
    if best == 0 or best < 0.9 * len(known):
        return None
    if counts[3] == counts[4] == best > counts[0]:
        raise ValueError(
            f"{known[0]!r} may start with the day or the month; write dates like 2026-01-31, or name the column under "
            "categories"
        )
    form = _DATES[counts.index(best)]
    instants = [_instant(value, form) for value in known if _is_date(value, form)]
    whole = all(instant.time() == datetime.min.time() and instant.tzinfo is None for instant in instants)
    return {"written": form, "unit": "days" if whole else "seconds"}


def _unit(match: re.Match[str]) -> str:
    return match["prefix"] + match["suffix"]


def _parsed(text: str, *, decimal: str, thousands: str, unit: str) -> float:
    match = _WRITTEN.fullmatch(text.strip())
    if match is None or _unit(match) not in ("", unit) or (match["sign"] and match["second"]):
        raise ValueError("not a number")
    digits = re.sub("[\u00a0\u202f]", " ", match["number"])
    whole, _, fraction = digits.partition(decimal)
    if thousands and thousands in whole:
        first, *groups = whole.split(thousands)
        if not 1 <= len(first) <= 3 or any(len(group) != 3 for group in groups):
            raise ValueError("not groups of thousands")
        whole = first + "".join(groups)
    sign = "-" if (match["sign"] or match["second"]) in ("-", "\u2212") else ""
    return float(f"{sign}{whole or 0}.{fraction or 0}{match['exponent'] or ''}")


def _is_number(value: Any, written: Mapping[str, Any]) -> bool:
    try:
        number_of(value, written)
    except (TypeError, ValueError):
        return False
    return True


def _instant(value: Any, form: str) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if not isinstance(value, str):
        raise ValueError("not a date")
    text = value.strip()
    if form != "iso":
        return datetime.strptime(text, form)
    if not re.match(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("not a date")
    return datetime.fromisoformat(text)


def _is_date(value: Any, form: str) -> bool:
    try:
        _instant(value, form)
    except ValueError:
        return False
    return True
