"""Named checks, the elements of every conformance kit, and a function that runs several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Check:
    """A requirement on a plug-in. `str(check)` is its name, for `pytest.mark.parametrize(…, ids=str)`.

    Args:
        name: name of the check.
        run: function that raises AssertionError if the plug-in violates the requirement.
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run the check, always from the same random state; torch's global random state is restored afterwards.

        Raises:
            AssertionError: with the expected and actual results and a hint. Other exceptions of the plug-in are converted.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.run()
            except AssertionError as error:
                raise AssertionError(f"{self.name}: {error}") from error
            except Exception as error:
                raise AssertionError(
                    f"{self.name}: expected no error, got {type(error).__name__}: {error}; see the traceback above."
                ) from error

    def __str__(self) -> str:
        return self.name


def run_checks(checks: Sequence[Check], *, subject: str) -> None:
    """Run all checks, even after failures.

    Args:
        checks: the checks to run.
        subject: name of the checked object in the report.

    Raises:
        AssertionError: with a line for each check that failed.
    """
    failed = []
    for check in checks:
        try:
            check()
        except AssertionError as error:
            failed.append(str(error))
    if failed:
        report = "\n".join(f"- {line}" for line in failed)
        raise AssertionError(f"{subject} fails {len(failed)} of {len(checks)} checks:\n{report}")


def require(condition: bool, otherwise: str) -> None:
    """Raise AssertionError with the message `otherwise` unless the condition holds, also under `python -O`."""
    if not condition:
        raise AssertionError(otherwise)
