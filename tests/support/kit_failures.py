"""What a list of checks says of a plug-in."""

from collections.abc import Sequence

from perceiver.testing import Check


def failures(checks: Sequence[Check]) -> dict[str, str]:
    """The message of each check that fails, by its name."""
    failed = {}
    for check in checks:
        try:
            check()
        except AssertionError as error:
            failed[check.name] = str(error)
    return failed
