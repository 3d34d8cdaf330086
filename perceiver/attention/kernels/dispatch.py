"""Choice of the implementation of factored attention's inner function, with a reason for tables and cost models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from perceiver.attention.kernels import eager, native, plain, triton
from perceiver.attention.kernels.contract import Kernel

Check = TypeVar("Check", bound=Callable[[str, int | None, torch.dtype], tuple[bool, str]])


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
        name: `native`, `triton`, `eager` or `plain`.
        reason: the reason for the choice, in a few words.
    """

    name: str
    reason: str

    @property
    def kernel(self) -> Kernel:
        """The implementation's functions."""
        kernels = {"native": native.KERNEL, "triton": triton.KERNEL, "eager": eager.KERNEL, "plain": plain.KERNEL}
        return kernels[self.name]


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


def implementation(device: torch.device, dtype: torch.dtype) -> Implementation:
    """Return the fastest implementation for tensors of this device and type. The first call may build native code (seconds).

    Native code is for CPUs, Triton for NVIDIA GPUs; the eager form serves everywhere else.
    """
    if _plain:
        return Implementation("plain", "in plain operators")
    name, check = ("native", _native) if device.type == "cpu" else ("triton", _triton)
    usable, reason = check(device.type, device.index, dtype)
    return Implementation(name if usable else "eager", reason)


@_constant
def _native(device_type: str, index: int | None, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether native code is available, and its instructions or the reason; a constant for `torch.compile`."""
    if dtype not in native.DTYPES:
        return False, f"no native code for {_name(dtype)}"
    found = native.availability()
    return found.library is not None, found.reason


@_constant
def _triton(device_type: str, index: int | None, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether Triton's kernels can run, and why (not); a constant for `torch.compile`."""
    if dtype not in triton.DTYPES:
        return False, f"no Triton code for {_name(dtype)}"
    found = triton.availability(torch.device(device_type) if index is None else torch.device(device_type, index))
    return found.usable, found.reason


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
