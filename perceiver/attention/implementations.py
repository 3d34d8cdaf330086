"""Which implementation of factored attention's inner function computes a call, and why, for tables and cost models."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perceiver.attention import eager, native
from perceiver.attention.reading import Read


@dataclass(frozen=True)
class Implementation:
    """An implementation of the inner function.

    Args:
        name: `native` or `eager`.
        reason: why this one, in a few words.
    """

    name: str
    reason: str

    @property
    def read(self) -> Read:
        """The function itself."""
        return native.read_tokens if self.name == "native" else eager.read_tokens


def implementation(device: torch.device, dtype: torch.dtype) -> Implementation:
    """The fastest implementation for tensors of this device and type. The first call may build native code (seconds)."""
    if device.type != "cpu":
        return Implementation("eager", f"no native code for {device.type}")
    if dtype != torch.float32:
        return Implementation("eager", f"no native code for {str(dtype).removeprefix('torch.')}")
    there, reason = _native()
    return Implementation("native" if there else "eager", reason)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _native() -> tuple[bool, str]:
    """Whether there is native code, and its instructions or what is missing; a constant to `torch.compile`."""
    found = native.availability()
    return found.library is not None, found.reason
