"""Text files of cells: delimiters by their fit, quotes, line ends, columns without a name of their own."""

from pathlib import Path

import numpy as np
import pytest

from perceiver.data.readers.delimited import decoded, numbers_of, read_delimited
from perceiver.data.readers.numbers import read_numbers


@pytest.mark.parametrize(
    ("text", "header", "first"),
    [
        ("age, in years;label\n1,5;x\n", ["age, in years", "label"], ["1,5", "x"]),
        ('"age, in years\nor less";label\n1,5;x\n', ["age, in years\nor less", "label"], ["1,5", "x"]),
        ("id\tsaid, once\tlabel\n1\ta, b\tx\n", ["id", "said, once", "label"], ["1", "a, b", "x"]),
        ("id,labels\n1,red;round\n", ["id", "labels"], ["1", "red;round"]),
        ("a|b\n1|2,5\n", ["a", "b"], ["1", "2,5"]),
        ("a,b\r1,2\r", ["a", "b"], ["1", "2"]),
        ('a\tb\n"1\n2"\t3\n', ["a", "b"], ["1\n2", "3"]),
        ('a\tb\n"so ""it"" is"\t3\n', ["a", "b"], ['so "it" is', "3"]),
        ('a\tb\n"Well," he said\t3\n', ["a", "b"], ['"Well," he said', "3"]),
        ('a\tb\n"open\t3\nclosed"\t4\n', ["a", "b"], ['"open', "3"]),
        ("label\nx\n", ["label"], ["x"]),
    ],
)
def test_cells(text: str, header: list[str], first: list[str]) -> None:
    file = read_delimited(text, path="m.csv")
    assert file.header == header
    assert file.rows[0] == first


def test_settings_and_places() -> None:
    file = read_delimited("1;2,5\n\n3;4,5\n", path="m.csv", delimiter=",", header=["a", "b"])
    assert (file.rows, file.lines) == ([["1;2", "5"], ["3;4", "5"]], [1, 3])
    with pytest.raises(ValueError, match=r"m\.csv, line 2: is not CSV: .*quotes"):
        read_delimited('a,b\n1,"2\n', path="m.csv")
    assert decoded("ü".encode("latin-1"), path="m.csv", encoding="latin-1") == "ü"
    with pytest.raises(ValueError, match=r"m\.csv, line 2: is not UTF-8"):
        decoded(b"a\n\xff", path="m.csv")
    with pytest.raises(ValueError, match=r"data\.encoding: expected an encoding"):
        decoded(b"a", path="m.csv", encoding="utf-9")


def test_numbers_of_a_column() -> None:
    np.testing.assert_equal(numbers_of(["0,5", "NA", "-2"], str), [0.5, np.nan, -2])
    np.testing.assert_equal(numbers_of(["0.5", "?", "1e3"], str), [0.5, np.nan, 1000])
    for column in (["1", "0.5x"], ["0,5", "0.5"]):
        with pytest.raises(ValueError, match=r"\d: expected a number, got '0[.,]5x?'"):
            numbers_of(column, str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x;y;z\n0,1;0,2;0,3\n", [[0.1, 0.2, 0.3]]),
        ("0,1 0,2 0,3\n1 2 3\n", [[0.1, 0.2, 0.3], [1, 2, 3]]),
        (",x,y,z\n0,1,2,3\n1,4,5,6\n", [[1, 2, 3], [4, 5, 6]]),
        ("intensity,z,y,x\n9,3,2,1\n", [[1, 2, 3, 9]]),
        ("# made by hand\n1, 2, 3\n", [[1, 2, 3]]),
        ("1,2,3,\n4,5,6,\n", [[1, 2, 3], [4, 5, 6]]),
        ("5648349.895 32.5 7\n", [[5648349.895, 32.5, 7]]),
        ("1,234 0,125 3\n2,345 1,500 4\n", [[1.234, 0.125, 3], [2.345, 1.5, 4]]),
    ],
)
def test_rows_of_numbers(text: str, expected: list[list[float]]) -> None:
    assert read_numbers(text, path=Path("p.csv")).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z\n1,,3\n", r"p\.csv, row 2, 'y': expected a number, got ''"),
        ("1\t\t3\n2\t\t4\n", r"p\.csv, row 1, 'column 2': expected a number"),
        ("1 2 3\n4 5\n", r"p\.csv: expected numbers in rows of equal length: row 2 has 2 cells, earlier rows have 3"),
        ("x y\n1 two\n", r"p\.csv, row 2, 'y': expected a number, got 'two'"),
        (
            "1,234 2 3\n4 5 6\n",
            r"p\.csv, row 1, 'column 1': '1,234' may be written with a decimal comma or with a comma for",
        ),
        ("\n", r"p\.csv: contains no numbers"),
    ],
)
def test_rows_that_are_not_numbers(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_numbers(text, path=Path("p.csv"))
