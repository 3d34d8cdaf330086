"""Choice of the implementation of factored attention's inner function, with a reason for tables and cost models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from perceiver.attention.kernels import compiled, eager, native, plain
from perceiver.attention.kernels.contract import Read

WORTH_COMPILING = 2**22
"""Scores of a call (samples * heads * queries * tokens of a block) from which the compiled form is taken.

It follows from shapes alone, so that the same call is computed in the same way every time. Against the eager form the
compiled one saves about 3 ns per score forward, and 8 with the backward, on an AVX-512 core; compiling both takes about
20 s at first, 4 s once Inductor has them in its cache. At this size that is paid back after some 550 training steps (100
from the cache); smaller calls are not worth the wait.
"""


Check = TypeVar("Check", bound=Callable[[str, torch.dtype], tuple[bool, str]])


def _constant(check: Check) -> Check:
    """Make results constants for `torch.compile`, like `torch.compiler.assume_constant_result`.

    That function imports torch._dynamo, which doubles the time of `import perceiver.model`.
    """
    check._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return check


@dataclass(frozen=True)
class Implementation:
    """An implementation of the inner function.

    Args:
        name: `native`, `compiled`, `eager` or `plain`.
        reason: the reason for the choice, in a few words.
    """

    name: str
    reason: str

    @property
    def read(self) -> Read:
        """The implementation's function."""
        reads: dict[str, Read] = {
            "native": native.read_tokens,
            "compiled": compiled.read_tokens,
            "eager": eager.read_tokens,
            "plain": plain.read_tokens,
        }
        return reads[self.name]


_plain = False  # not a context variable, which torch.compile cannot guard


@contextmanager
def plain_operators() -> Iterator[None]:
    """Compute factored attention in plain operators, for exported programs, in which custom operators are unknown."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def implementation(device: torch.device, dtype: torch.dtype, *, scores: int | None = None) -> Implementation:
    """Return the fastest implementation for tensors of this device and type. The first call may build native code (seconds).

    Args:
        device: device of the tensors.
        dtype: type of the tensors.
        scores: samples * heads * queries * tokens of the call's block; None where it is not known, and then nothing is
            compiled.
    """
    if _plain:
        return Implementation("plain", "in plain operators")
    there, reason = _native(device.type, dtype)
    if there:
        return Implementation("native", reason)
    if scores is None:
        return Implementation("eager", reason)
    if scores < WORTH_COMPILING:
        return Implementation("eager", f"{reason}; too few scores to compile for")
    usable, other = _compiled(device.type, dtype)
    return Implementation("compiled" if usable else "eager", f"{reason}; {other}")


@_constant
def _native(device_type: str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether native code is available, and its instructions or the reason; a constant for `torch.compile`."""
    if device_type != "cpu":
        return False, f"no native code for {device_type}"
    if dtype != torch.float32:
        return False, f"no native code for {_name(dtype)}"
    found = native.availability()
    return found.library is not None, found.reason


@_constant
def _compiled(device_type: str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether kernels can be compiled, and why (not); a constant to `torch.compile`."""
    if dtype not in compiled.DTYPES:
        return False, f"no compiled code for {_name(dtype)}"
    found = compiled.availability(device_type)
    return found.usable, found.reason


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
