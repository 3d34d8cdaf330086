"""How the numbers and dates of a column are written, and what they are."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from perceiver.modalities.cells.written_numbers import (
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


@pytest.mark.parametrize(
    ("cells", "settings", "expected"),
    [
        ([5], {}, ({}, 1.0)),
        ([5, 6], {"decimal": ","}, ({}, 1.0)),
        ([], {"decimal": ","}, ({}, 0.0)),
        (["1", "2"], {"decimal": ","}, ({"decimal": ",", "thousands": "", "unit": ""}, 1.0)),
        (["1", "2"], {"thousands": ","}, ({"decimal": ".", "thousands": ",", "unit": ""}, 1.0)),
        (["5", "abc", 3], {}, ({}, 2 / 3)),
        (["1_000", "abc"], {}, ({}, 0.5)),
        (["5", "abc"], {"decimal": ","}, ({"decimal": ",", "thousands": "", "unit": ""}, 0.5)),
        (["5 kg", "6 kg", "7 m", "8"], {}, ({"decimal": ".", "thousands": "", "unit": "kg"}, 0.75)),
        (["1,5", "2,50"], {}, ({"decimal": ",", "thousands": "", "unit": ""}, 1.0)),
        (["1,500", "2,5"], {}, ({"decimal": ",", "thousands": "", "unit": ""}, 1.0)),
    ],
)
def test_formats_and_their_share(cells: list[Any], settings: dict[str, str], expected: tuple[dict[str, str], float]) -> None:
    assert how_numbers_are_written(cells, **settings) == expected


COMMA = {"decimal": ",", "thousands": ".", "unit": "kg"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1.234.567,8", 1234567.8), ("12.345", 12345), ("123.456", 123456), ("0,5", 0.5), (",5", 0.5), ("5e3", 5000)),
        *(("-5 kg", -5), ("+5", 5), ("- 5", -5), ("\u22125,25kg", -5.25), ("1,5e-3", 0.0015), ("7", 7)),
    ],
)
def test_texts_in_a_format(text: str, number: float) -> None:
    assert number_of(text, COMMA) == number


@pytest.mark.parametrize(
    "text",
    [
        "1234.567",
        "1.23",
        "1.2345",
        ".123",
        "1..234",
        "5,",
        "1,2,3",
        "5 m",
        "+-5",
        "--5",
        "kg",
        "",
        "1.234.56",
        "1 000",
        "1e999",
    ],
)
def test_texts_that_do_not_fit_the_format(text: str) -> None:
    with pytest.raises(ValueError, match=r"not"):
        number_of(text, COMMA)


def test_numbers_without_a_format_are_those_of_python() -> None:
    assert [number_of(value) for value in (3, 2.5, "1e3", " 7 ", "1_000")] == [3, 2.5, 1000, 7, 1000]
    for wrong in (True, False, "inf", float("nan"), "1,5", "a", 10**400, "1" + "0" * 400):
        with pytest.raises(ValueError, match="not|could"):
            number_of(wrong)


def test_dates_fit_nine_in_ten_cells() -> None:
    nine = [f"2020-01-{day:02}" for day in range(1, 10)]
    assert how_dates_are_written([*nine, "x", None]) == {"written": "iso", "unit": "days"}
    assert how_dates_are_written([*nine[1:], "x", "y"]) is None
    assert how_dates_are_written(["2020-01-01", "x"]) is None
    assert how_dates_are_written([]) is None
    assert how_dates_are_written(["2020/01/30"]) == {"written": "%Y/%m/%d", "unit": "days"}
    assert how_dates_are_written(["20200130", "20200131"]) is None, "may be numbers"
    for value in ("2020-01-30T00:00:00+00:00", datetime(2020, 1, 30, tzinfo=UTC), "2020-01-30 00:00:01"):
        written = how_dates_are_written([value])
        assert written == {"written": "iso", "unit": "seconds"}
        assert date_of(value, written) // 10 == 18291 * 8640
    assert date_of(date(1970, 1, 2), {"written": "iso", "unit": "days"}) == 1
    with pytest.raises(ValueError, match="not a date"):
        date_of(5, {"written": "iso", "unit": "days"})


def test_a_few_other_forms_among_dates() -> None:
    """As many ISO dates as others: the others do not decide."""
    cells = [datetime(2020, 1, 30)] * 18
    assert how_dates_are_written([*cells, "2020-01-30", "01/02/2020"]) == {"written": "iso", "unit": "days"}
