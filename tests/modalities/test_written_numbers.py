"""How the numbers and dates of a column are written, and what they are."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from perceiver.modalities.written_numbers import (
    date_of,
    how_dates_are_written,
    how_numbers_are_written,
    is_missing_number,
    number_of,
)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1", "2.5", 3, "1e3"], [1, 2.5, 3, 1000]),
        (["40,0", "41,5", "7"], [40, 41.5, 7]),
        (["1,234.5", "7"], [1234.5, 7]),
        (["1.234,5", "1.234"], [1234.5, 1234]),
        (["1,234", "12,345,678"], [1234, 12345678]),
        (["1 234,5", "1\u00a0234"], [1234.5, 1234]),
        (["1'234.5", "2"], [1234.5, 2]),
        (["50%", "7 %"], [50, 7]),
        (["$5", "-$1,200.50"], [5, -1200.5]),
        (["5 €", "1.200,50 €", "\u22123 €"], [5, 1200.5, -3]),
        (["12 kg", "13kg", "?", "unknown", None, "<NA>"], [12, 13]),
    ],
)
def test_numbers(cells: list[Any], numbers: list[float]) -> None:
    written, share = how_numbers_are_written(cells)
    assert share == 1
    assert [number_of(cell, written) for cell in cells if not is_missing_number(cell)] == numbers


@pytest.mark.parametrize("cells", [["A1", "B2"], ["Q1", "Q2"], ["yes", "no"], [True, False], ["1st", "2nd", "3rd"], []])
def test_words_are_not_numbers(cells: list[Any]) -> None:
    assert how_numbers_are_written(cells)[1] < 0.5


def test_one_comma_may_be_either_separator() -> None:
    with pytest.raises(ValueError, match="'1,234' may be written with a decimal comma or .*Set decimal or thousands"):
        how_numbers_are_written(["1,234", "12"])
    for setting, number in ({"decimal": ","}, 1.234), ({"thousands": ","}, 1234):
        written, share = how_numbers_are_written(["1,234", "12"], **setting)
        assert (share, number_of("1,234", written)) == (1, number)


@pytest.mark.parametrize(
    ("cells", "unit", "first"),
    [
        (["2020-01-30", "2020-01-31", "NA"], "days", 18291),
        (["30.01.2020", "1.2.2020"], "days", 18291),
        (["30/01/2020", "01/02/2020"], "days", 18291),
        (["01/30/2020", "01/02/2020"], "days", 18291),
        ([date(2020, 1, 30)], "days", 18291),
        (["2020-01-30T12:00:00+01:00", "2020-01-31"], "seconds", 18291 * 86400 + 11 * 3600),
        ([datetime(2020, 1, 30, 5, tzinfo=UTC)], "seconds", 18291 * 86400 + 5 * 3600),
    ],
)
def test_dates(cells: list[Any], unit: str, first: float) -> None:
    written = how_dates_are_written(cells)
    assert written is not None
    assert written["unit"] == unit
    assert date_of(cells[0], written) == first


def test_days_and_months_that_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="'01/02/2020' may start with the day or the month"):
        how_dates_are_written(["01/02/2020"])
    assert how_dates_are_written(["yes", "no"]) is None
    assert how_dates_are_written([20200130]) is None
