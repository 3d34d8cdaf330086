"""Named checks: names, random state, what an error becomes, and the report of many."""

import subprocess
import sys
from functools import partial

import pytest
import torch

from perceiver.testing import Check, adapter_checks
from perceiver.testing.check import require, run_checks


def fail(message: str) -> None:
    require(False, message)


def test_a_check_is_called_by_its_name() -> None:
    check = Check("left_is_right", partial(fail, "expected left, got right; look there"))
    assert str(check) == "left_is_right"
    with pytest.raises(AssertionError, match=r"^left_is_right: expected left, got right; look there$"):
        check()


def test_other_errors_become_failures() -> None:
    with pytest.raises(AssertionError, match=r"^number: expected no error, got ValueError: .*'many'") as raised:
        Check("number", partial(float, "many"))()
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_check_draws_the_same_numbers_every_time_and_leaves_the_random_state() -> None:
    drawn: list[float] = []
    check = Check("draws", lambda: drawn.append(torch.rand(()).item()))
    before = torch.get_rng_state()
    check()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    check()
    assert drawn[0] == drawn[1]


def test_all_checks_run_and_the_report_names_those_that_failed() -> None:
    ran: list[str] = []
    checks = [
        Check("first", partial(fail, "expected a, got b")),
        Check("second", lambda: ran.append("second")),
        Check("third", partial(fail, "expected c, got d")),
    ]
    with pytest.raises(AssertionError) as raised:
        run_checks(checks, subject="adapter Mine")
    assert ran == ["second"]
    assert str(raised.value).splitlines() == [
        "adapter Mine fails 2 of 3 checks:",
        "- first: expected a, got b",
        "- third: expected c, got d",
    ]
    run_checks(checks[1:2], subject="adapter Mine")


def test_kits_are_for_pytest_and_do_without_it() -> None:
    checks = adapter_checks(torch.nn.Identity, lambda: torch.rand(2, 3, 1), grid_axes=(1,))
    assert [str(check) for check in checks][:2] == ["declared_channels", "tokens_of_the_batch"]
    code = "import perceiver.testing, sys; assert not {'pytest', 'lightning', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
