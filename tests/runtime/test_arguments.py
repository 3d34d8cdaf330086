"""Errors carry the name of the argument that they are about."""

import pickle

import pytest

from perceiver.runtime.arguments import ArgumentError, errors_about


def test_an_error_carries_its_argument() -> None:
    error = pickle.loads(pickle.dumps(ArgumentError("steps", "expected at least 1, got 0.")))
    assert (error.argument, error.problem, str(error)) == (
        "steps", "expected at least 1, got 0.", "steps: expected at least 1, got 0."
    )  # fmt: skip


def test_errors_within_are_about_the_argument() -> None:
    with pytest.raises(ArgumentError, match="init: no image") as found, errors_about("init"):
        raise ValueError("no image")
    assert found.value.argument == "init"
