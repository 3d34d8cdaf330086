"""Casting of batches for training in half or double precision: inputs only, not targets, ids or times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from perceiver.samples.batch import Batch

TIMES = "times"
"""Part of an input that is not cast: seconds since an origin need all their digits."""


def cast_inputs_alone(precision: Precision) -> None:
    """Let a precision plugin cast only the inputs of a `Batch`; by default it casts all numbers, before any hook.

    A target of 1001 in bfloat16 is 1000, and an epoch in seconds is off by minutes.

    Args:
        precision: precision plugin of a trainer; changed in place, once.
    """
    if not isinstance(precision.convert_input, _InputsAlone):
        precision.convert_input = _InputsAlone(precision.convert_input)  # type: ignore[method-assign]


class _InputsAlone:
    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self._convert = convert

    def __call__(self, data: Any) -> Any:
        if not isinstance(data, Batch):
            return self._convert(data)
        return replace(data, inputs={name: self._input(x) for name, x in data.inputs.items()})

    def _input(self, x: Tensor | dict[str, Tensor]) -> Any:
        if isinstance(x, Tensor):
            return self._convert(x)
        return {name: part if name == TIMES else self._convert(part) for name, part in x.items()}
