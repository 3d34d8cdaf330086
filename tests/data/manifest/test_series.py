"""Time series in files and in cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver.data.manifest.series import read_series, series_names
from perceiver.modalities.preprocess import preprocess

FACTS: dict[str, Any] = {"kind": "timeseries", "names": ["pulse", "pressure"], "num_values": 2}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_files(tmp_path: Path) -> None:
    path = written(tmp_path, "Time;pulse;other;pressure\n0;60;x;120\n1.5;61;y;\n3;NA;z;121\n".replace("x", "1"))
    series = read_series(path, spec=FACTS)
    np.testing.assert_array_equal(series["values"], [[60, 120], [61, np.nan], [np.nan, 121]])
    np.testing.assert_array_equal(series["times"], [0, 1.5, 3])
    assert series_names(path, spec={"kind": "timeseries"}) == ["pulse", "other", "pressure"]


def test_values_that_a_file_lacks_are_missing(tmp_path: Path) -> None:
    series = read_series(written(tmp_path, "t,pressure\n0,120\n1,121\n"), spec=FACTS)
    np.testing.assert_array_equal(series["values"], [[np.nan, 120], [np.nan, 121]])


def test_instants(tmp_path: Path) -> None:
    text = "date,pulse\n2026-01-01T00:00:00Z,60\n2026-01-01T01:00:00+01:00,61\n2026-01-01 00:00:01.5,62\n"
    times = read_series(written(tmp_path, text), spec=FACTS)["times"]
    np.testing.assert_array_equal(times - times[0], [0, 0, 1.5])
    assert times.dtype == np.float64


def test_steps_out_of_order_are_sorted_by_time(tmp_path: Path) -> None:
    series = read_series(written(tmp_path, "time,pulse,pressure\n5,60,1\n3,61,2\n4,62,3\n"), spec=FACTS)
    x = preprocess(series, spec=FACTS, name="x")
    assert isinstance(x, dict)
    assert x["times"].tolist() == [3, 4, 5]
    assert x["values"].tolist() == [[61, 2], [62, 3], [60, 1]]


@pytest.mark.parametrize(
    ("value", "values", "times"),
    [
        ({"times": [0, 2], "values": [[1, None], [3, 4]]}, [[1, np.nan], [3, 4]], [0, 2]),
        ({"time": [0, 2], "pressure": [5, 6], "pulse": [7, 8]}, [[7, 5], [8, 6]], [0, 2]),
        ({"time": ["2026-01-01", "2026-01-02"], "pulse": [7, 8]}, [[7, np.nan], [8, np.nan]], None),
        (np.array([[1.0, 2.0]]), [[1, 2]], None),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], None),
    ],
)
def test_series_in_cells(value: Any, values: Any, times: Any) -> None:
    series = read_series(value, spec={**FACTS, "step_seconds": 0.5})
    np.testing.assert_array_equal(series["values"], values)
    if times is not None:
        np.testing.assert_array_equal(series["times"], times)


def test_one_value_needs_no_lists_of_one() -> None:
    spec = {"kind": "timeseries", "step_seconds": 0.5}
    assert series_names([1, 2, 3], spec=spec) == ["value"]
    assert series_names([[1, 2], [3, 4]], spec=spec) == ["value_0", "value_1"]
    series = read_series([1, 2, 3], spec={**spec, "names": ["value"]})
    assert series["values"].tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,pulse,pressure\n0,60,120\n1,abc,121\n", r"a\.csv, column 'pulse', row 3: expected a number, got 'abc'"),
        ("time,pulse,pressure\n0,60,120\nnoon,60,121\n", r"a\.csv, row 3, column 'time': expected seconds, got 'noon'"),
        ("time,pulse,pressure\n0,60,120\n,60,121\n", r"a\.csv, row 3, column 'time': expected"),
        ("time,pulse,pressure\n0,60,120\n1,60\n", r"a\.csv, row 3: expected 3 cells"),
        ("time,pulse,pressure\n", r"a\.csv: has no steps"),
        ("time,puls\n0,1\n", r"a\.csv: expected some of the values pulse, pressure, got puls"),
        ("pulse,pressure\n0,1\n", r"a\.csv: has no times; give the interval of its steps"),
        ("time,date,pulse\n0,1,2\n", r"a\.csv: any of the columns time, date may be times; name one"),
        ("time,pulse\n0,inf\n", r"a\.csv: contains infinite values"),
        (b"time,pulse\n0,1\n1,\xff\n", r"a\.csv, line 3: is not UTF-8"),
    ],
)
def test_errors_name_row_and_column(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_series(written(tmp_path, text), spec=FACTS)


@pytest.mark.parametrize(
    ("value", "spec", "message"),
    [
        ([[1, 2, 3]], {}, "expected 2 values per step, pulse, pressure, got 3"),
        ([[1, 2], [3]], {}, "values: expected numbers, in lists of equal length"),
        ({"time": [0], "pulse": [1, 2]}, {}, "expected one time per step, got 1 times and 2 steps"),
        ({"time": [0], "pulse": [1], "pressure": [1, 2]}, {}, "expected lists of equal length for all values"),
        ({"when": [0], "pulse": [1]}, {"time": "clock"}, "expected the time column 'clock', got when, pulse"),
        ([[1, 2]], {"step_seconds": None}, "has no times"),
    ],
)
def test_errors_of_cells(value: Any, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_series(value, spec={**FACTS, "step_seconds": 1.0, **spec})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("0;1,5;120\n1;1,234;121", [[1.5, 120], [1.234, 121]]),
        ("0;0,125;120\n1;1,234;121", [[0.125, 120], [1.234, 121]]),
        ("0;1,234;-0,5\n1;2,345;", [[1.234, -0.5], [2.345, np.nan]]),
        ("0;\u22121,5;1\n1;-2,345;2", [[-1.5, 1], [-2.345, 2]]),
    ],
)
def test_decimal_commas(tmp_path: Path, rows: str, expected: Any) -> None:
    """A comma that cannot separate thousands decides for all columns of the file."""
    series = read_series(written(tmp_path, f"t;pulse;pressure\n{rows}\n"), spec=FACTS)
    np.testing.assert_array_equal(series["values"], expected)


@pytest.mark.parametrize("column", ["pulse", "t"])
def test_a_comma_before_three_digits_may_be_either_separator(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, f"{'t;pulse' if column == 'pulse' else 'pulse;t'}\n0;1,234\n1;987\n2;12,500\n")
    with pytest.raises(
        ValueError, match=rf"a\.csv, .*'{column}'.*'1,234' may be written with a decimal comma or with a comma"
    ):
        read_series(path, spec=FACTS)
    part = "values" if column == "pulse" else "times"
    for given, expected in (({"decimal": ","}, [1.234, 987, 12.5]), ({"thousands": ","}, [1234, 987, 12500])):
        found = read_series(path, spec={**FACTS, **given})[part]
        np.testing.assert_array_equal(found[:, 0] if part == "values" else found, expected)


def test_given_separators_replace_those_of_python(tmp_path: Path) -> None:
    path = written(tmp_path, "t;pulse\n0;1.234\n1;1.234,5\n")
    series = read_series(path, spec={**FACTS, "decimal": ",", "thousands": "."})
    np.testing.assert_array_equal(series["values"][:, 0], [1234, 1234.5])
    with pytest.raises(ValueError, match=r"row 2: expected a number, got '1\.234'"):
        read_series(path, spec={**FACTS, "decimal": ","})
