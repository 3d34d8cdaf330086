"""A limit on the memory that a block of code may allocate in tensors.

A config that asks for 10**12 latents fails with a clear error before the memory is touched, instead of taking the
machine down. The meta device would say the same, but some constructors (mel filter banks) look at the
values that they compute, which meta tensors do not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationError(MemoryError):
    """More memory was asked for than the surrounding AllocationLimit allows."""


class AllocationLimit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: all tensors made inside, temporary ones included, may take `max_bytes` together.

    `reason` says in the error where the limit comes from. Raises AllocationError.
    """

    def __init__(self, max_bytes: int, *, reason: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_bytes = max_bytes
        self.reason = reason
        self.used = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(value.alias_info is not None for value in func._schema.returns):  # views and in-place operations
            return func(*args, **kwargs)
        shape = _requested_shape(func, args, kwargs)
        if shape is not None:
            self._admit(shape, kwargs.get("dtype") or torch.get_default_dtype())
        result = func(*args, **kwargs)
        if shape is None:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._admit(leaf.shape, leaf.dtype)
        elif isinstance(result, torch.Tensor):  # what was really made, where the request understated it
            self.used += max(0, result.numel() - math.prod(shape)) * result.dtype.itemsize
        return result

    def _admit(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        size = math.prod(shape) * dtype.itemsize
        if self.used + size > self.max_bytes:
            raise AllocationError(
                f"a tensor of shape {tuple(shape)} needs {show_bytes(size)}, "
                f"but at most {show_bytes(self.max_bytes)} may be used in all ({self.reason})"
            )
        self.used += size


def show_bytes(size: float) -> str:
    """1536 -> '1.5 kB', in steps of 1000."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB" if size < 1000 else f"{size:.2g} PB"


def _requested_shape(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[int] | None:
    """The shape that a factory operator is about to make; None where only the result tells."""
    given = {
        argument.name: args[index] if index < len(args) else kwargs.get(argument.name, argument.default_value)
        for index, argument in enumerate(func._schema.arguments)
    }
    rule = _RULES.get(func._schema.name)
    if rule is not None:
        return rule(given)
    size = given.get("size")
    return [int(n) for n in size] if isinstance(size, (list, tuple)) else None


def _arange(given: dict[str, Any]) -> list[int]:
    start, end, step = given.get("start") or 0, given["end"], given.get("step") or 1
    return [max(0, math.ceil((end - start) / step))]


_RULES: dict[str, Callable[[dict[str, Any]], list[int]]] = {
    "aten::arange": _arange,
    "aten::linspace": lambda given: [int(given["steps"])],
    "aten::logspace": lambda given: [int(given["steps"])],
    "aten::eye": lambda given: [int(given["n"]), int(given.get("m") or given["n"])],
    "aten::hann_window": lambda given: [int(given["window_length"])],
    "aten::hamming_window": lambda given: [int(given["window_length"])],
    "aten::repeat": lambda given: [given["self"].numel(), *(int(n) for n in given["repeats"])],
}
