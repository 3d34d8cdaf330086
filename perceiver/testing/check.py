"""A named check, and many of them run together: what every conformance kit consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Check:
    """One thing that a plug-in must keep. `str(check)` is its name, for `pytest.mark.parametrize(…, ids=str)`.

    Args:
        name: of the check.
        run: raises AssertionError if the plug-in does not keep it.
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run it, from the same random state every time; torch's global random state is left as it was.

        Raises:
            AssertionError: what was expected, what came, and where to look. Whatever else the plug-in raises becomes one.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.run()
            except AssertionError as error:
                raise AssertionError(f"{self.name}: {error}") from error
            except Exception as error:
                raise AssertionError(
                    f"{self.name}: expected no error, got {type(error).__name__}: {error}; see the traceback above this one."
                ) from error

    def __str__(self) -> str:
        return self.name


def run_checks(checks: Sequence[Check], *, subject: str) -> None:
    """Runs all checks, also after one failed.

    Args:
        checks: to run.
        subject: what the report calls that which is checked.

    Raises:
        AssertionError: one line for each check that failed.
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
    """AssertionError with the sentence `otherwise` unless the condition holds; `python -O` does not take it away."""
    if not condition:
        raise AssertionError(otherwise)
