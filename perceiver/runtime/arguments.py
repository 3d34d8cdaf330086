"""Errors about a single argument, whose name they carry: the command line shows the setting that the user typed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ArgumentError(ValueError):
    """An argument has an invalid value.

    Args:
        argument: name of the argument, with which the message begins.
        problem: what was expected, what came, and the fix.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


@contextmanager
def errors_about(argument: str) -> Iterator[None]:
    """Context whose ValueErrors are about an argument."""
    try:
        yield
    except ValueError as error:
        raise ArgumentError(argument, str(error)) from error
