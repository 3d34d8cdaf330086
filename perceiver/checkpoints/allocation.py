"""Limits on code that builds modules: size of a single tensor, total size of parameters, and number of modules.

A config with 10**12 latents fails with a clear error before any memory is allocated, instead of exhausting the machine. The
meta device would detect this too, but some constructors (mel filter banks) inspect the values that they compute, which meta
tensors do not have.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode


class AllocationError(MemoryError):
    """An allocation exceeds a limit of the surrounding `limit_allocation`."""


@contextmanager
def limit_allocation(*, max_bytes: int, max_modules: int, reason: str) -> Iterator[None]:
    """Limit each tensor, and all registered parameters and buffers together, to `max_bytes` within the context.

    At most `max_modules` modules may be registered. Only the calling thread is limited. `reason` explains the limits in the
    error. Raises AllocationError.
    """
    count = _Count(max_bytes, max_modules, reason)
    with ExitStack() as stack:
        for register, hook in (
            (registration.register_module_parameter_registration_hook, count.tensor),
            (registration.register_module_buffer_registration_hook, count.tensor),
            (registration.register_module_module_registration_hook, count.module),
        ):
            stack.callback(register(hook).remove)
        stack.enter_context(_SizeCheck(count))
        token = _ACTIVE.set((*_ACTIVE.get(), count))
        stack.callback(_ACTIVE.reset, token)
        yield


def show_bytes(size: float) -> str:
    """Format a number of bytes with decimal units: 1536 -> '1.5 kB'."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB" if size < 1000 else f"{size:.2g} PB"


@contextmanager
def cutting() -> Iterator[Callable[[nn.Module], None]]:
    """Within the context, a network may be built as a whole of which only a part is kept, passed to the yielded function.

    Surrounding limits then count the part. All that is dropped under a limit may take `CUT_BYTES` and `CUT_MODULES`.
    """
    counts = list(_ACTIVE.get())
    before = [(count.bytes, count.modules) for count in counts]
    for count in counts:
        count.max_bytes, count.max_modules = count.max_bytes + count.spare_bytes, count.max_modules + count.spare_modules
    kept: list[nn.Module] = []
    try:
        yield kept.append
    finally:
        for count in counts:
            count.max_bytes, count.max_modules = count.max_bytes - count.spare_bytes, count.max_modules - count.spare_modules
    tensors = [tensor for module in kept for tensor in (*module.parameters(), *module.buffers())]
    held = sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)
    modules = sum(1 for module in kept for _ in module.modules())
    for count, (old_bytes, old_modules) in zip(counts, before, strict=True):
        count.spare_bytes -= max(0, count.bytes - old_bytes - held)
        count.spare_modules -= max(0, count.modules - old_modules - modules)
        count.bytes, count.modules = min(count.bytes, old_bytes + held), min(count.modules, old_modules + modules)
        count.check_total()


CUT_BYTES = 2**29
CUT_MODULES = 20_000


class _Count:
    """Totals of all registrations so far by the thread that created this object."""

    def __init__(self, max_bytes: int, max_modules: int, reason: str) -> None:
        self.max_bytes, self.max_modules, self.reason = max_bytes, max_modules, reason
        self.bytes = self.modules = 0
        self.spare_bytes, self.spare_modules = CUT_BYTES, CUT_MODULES
        self.thread = threading.get_ident()

    def admit(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Return the size in bytes of a tensor, before or after its creation; raise AllocationError if it is too large."""
        size = math.prod(shape) * dtype.itemsize
        if size > self.max_bytes:
            raise AllocationError(
                f"a tensor of shape {tuple(shape)} needs {show_bytes(size)}, "
                f"but at most {show_bytes(self.max_bytes)} are allowed ({self.reason})"
            )
        return size

    def tensor(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != self.thread or value.is_meta:
            return
        if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
            return
        self.bytes += self.admit(value.shape, value.dtype)
        self.check_total()

    def check_total(self) -> None:
        """Raise AllocationError if the totals exceed the limits."""
        if self.modules > self.max_modules:
            raise AllocationError(f"more than {self.max_modules:,} modules ({self.reason})")
        if self.bytes > self.max_bytes:
            raise AllocationError(
                f"parameters and buffers need more than {show_bytes(self.max_bytes)} in all ({self.reason})"
            )

    def module(self, module: nn.Module, name: str, value: nn.Module | None) -> None:
        if threading.get_ident() == self.thread:
            self.modules += 1
            self.check_total()


class _SizeCheck(TorchFunctionMode):
    """Check the sizes of tensors that torch functions are about to create, and of those that they return."""

    def __init__(self, count: _Count) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(getattr(func, "__name__", ""))
        if rule is not None:
            try:
                shape = rule(args, kwargs)
            except (TypeError, ValueError, LookupError, AttributeError):
                shape = []  # torch raises its own error for such arguments
            self.count.admit(shape, kwargs.get("dtype") or torch.get_default_dtype())
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result._base is None and not result.is_meta:
            self.count.admit(result.shape, result.dtype)
        return result


_ACTIVE: ContextVar[tuple[_Count, ...]] = ContextVar("_ACTIVE", default=())

Rule = Callable[[Sequence[Any], dict[str, Any]], list[int]]


def _ints(values: Iterable[Any]) -> list[int]:
    return [int(value) for value in values]


def _size(args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    """Return the shape in torch.zeros(2, 3), torch.zeros((2, 3)) or torch.zeros(size=(2, 3))."""
    if "size" in kwargs:
        return _ints(kwargs["size"])
    sizes = [arg for arg in args if not isinstance(arg, Tensor)]
    if sizes and isinstance(sizes[0], list | tuple):
        return _ints(sizes[0])
    return _ints(size for size in sizes if isinstance(size, int))


def _repeat(args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    return [args[0].numel(), *_size(args[1:], {"size": kwargs["repeats"]} if "repeats" in kwargs else {})]


def _arange(args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    given = dict(zip(("end",) if len(args) == 1 else ("start", "end", "step"), args, strict=False)) | kwargs
    step = given.get("step", 1)
    return [max(0, math.ceil((given["end"] - given.get("start", 0)) / step))] if step else [0]


def _steps(args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    return [int(args[2] if len(args) > 2 else kwargs["steps"])]


def _eye(args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    sizes = [*args, *(kwargs[key] for key in ("n", "m") if key in kwargs)]
    return _ints(sizes if len(sizes) == 2 else [sizes[0], sizes[0]])


_RULES: dict[str, Rule] = dict.fromkeys(
    ("empty", "zeros", "ones", "rand", "randn", "full", "new_empty", "new_zeros", "new_ones", "new_full", "empty_strided"),
    _size,
) | {
    "randint": lambda args, kwargs: _size([arg for arg in args if isinstance(arg, list | tuple)], kwargs),
    "randperm": lambda args, kwargs: [int(args[0] if args else kwargs["n"])],
    "hann_window": lambda args, kwargs: [int(args[0] if args else kwargs["window_length"])],
    "hamming_window": lambda args, kwargs: [int(args[0] if args else kwargs["window_length"])],
    "arange": _arange,
    "linspace": _steps,
    "logspace": _steps,
    "eye": _eye,
    "repeat": _repeat,
    "tile": _repeat,
}
