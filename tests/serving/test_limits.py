"""Limits of requests."""

import importlib
import sys
import time
from pathlib import Path

import pytest

from perceiver.serving.limits import Limits, RefusedError, time_limit


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_positive(value: float) -> None:
    with pytest.raises(ValueError, match="sound_seconds: expected a positive number"):
        Limits(sound_seconds=value)


def test_time_limit() -> None:
    with time_limit(5):
        pass
    with pytest.raises(RefusedError, match=r"at most 0\.05 seconds") as caught, time_limit(0.05):
        time.sleep(5)
    assert caught.value.status == 504
    with pytest.raises(KeyError), time_limit(5):
        raise KeyError


def test_an_import_is_not_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the module would be broken for all later requests."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_inner.py").write_text("import time\ntime.sleep(0.15)\nVALUE = 1\n")
    (tmp_path / "slow_outer.py").write_text("import slow_inner\nVALUE = slow_inner.VALUE + 1\n")

    def imports() -> None:
        with time_limit(0.03):
            importlib.import_module("slow_outer")
            time.sleep(5)

    with pytest.raises(RefusedError):
        imports()
    assert sys.modules.pop("slow_outer").VALUE == 2
    assert sys.modules.pop("slow_inner").VALUE == 1
