"""The arithmetic of the compiled form: a few functions of tiles, each compiled by Inductor once for all sizes.

A kernel is one callable for one signature: what it computes, the number of content channels, type and device. All sizes are
dynamic and, by the caller's arrangement, at least 2, since torch compiles anew for size 1. Query rows lie along the last
axis, so that Inductor broadcasts a token's few numbers and needs no shuffles to sum over tokens. Letters of the shapes:
g samples, o and i the outer and inner axis, n = o * i tokens, r rows of queries, C content channels.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import shutil
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {}


@dataclass(frozen=True)
class Availability:
    """Whether kernels can be compiled for a device, and why (not), in a few words for tables."""

    usable: bool
    reason: str


class CompilationError(Exception):
    """A kernel could not be compiled; from now on `availability` says so."""


_failures: dict[str, str] = {}
"""Device types for which a compilation failed, and a few words."""


def availability(device_type: str) -> Availability:
    """Whether kernels can be compiled for this type of device, as far as can be told without trying. Never raises."""
    if os.environ.get("PERCEIVER_COMPILE", "1") == "0":
        return Availability(False, "switched off by PERCEIVER_COMPILE=0")
    if device_type in _failures:
        return Availability(False, _failures[device_type])
    return _prerequisites(device_type, os.environ.get("CXX"), os.environ.get("PATH"))


@functools.cache
def _prerequisites(device_type: str, compiler: str | None, path: str | None) -> Availability:
    """What Inductor asks for; the variables of the environment on which that depends are arguments for the cache."""
    if device_type not in ("cpu", "cuda"):
        return Availability(False, f"no compiled code for {device_type}")
    # Imported here: it takes a second and more, and most models never compile.
    from torch._dynamo import eval_frame

    if not eval_frame.is_dynamo_supported() or not eval_frame.is_inductor_supported():
        return Availability(False, "torch.compile does not support this platform")
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        return Availability(False, "no Triton")
    if device_type == "cpu" and not any(shutil.which(name) for name in (compiler, "g++", "clang++", "cl") if name):
        return Availability(False, "no C++ compiler (g++, clang++ or $CXX)")
    return Availability(True, "torch.compile")


# ------------------------------------------------------------------------------------------------ what is compiled
#
# These call no other function of this package: whatever checks the types of calls in tests could not be compiled.


def _grid_forward(planes: Tensor, outer: Tensor, inner: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of weights over one axis of a tile of the grid each.

    Args:
        planes: `(g, o, i, 2 + C)`: rstd, 0 or minus infinity where masked, content.
        outer, inner: `(g, o, r)`, `(g, i, r)`: score terms that vary along one axis.
        rows: `(g, C + 1, r)`: queries at the content's channels, and the reference that the exponents subtract.

    Returns:
        `(2 + C, g, o, r)`: sums over i of the exponentials p, of w = p * rstd and of w * content; `(g, i, r)`: over o of w.
    """
    rstd = planes[..., 0, None]
    scores = outer[:, :, None] + inner[:, None]
    for c in range(planes.shape[-1] - 2):
        scores = scores + rows[:, c, None, None] * planes[..., 2 + c, None]
    p = torch.exp(scores * rstd + planes[..., 1, None] - rows[:, -1, None, None])
    w = p * rstd
    content = [(w * planes[..., 2 + c, None]).sum(2) for c in range(planes.shape[-1] - 2)]
    return torch.stack([p.sum(2), w.sum(2), *content]), w.sum(1)


def _grid_backward(planes: Tensor, outer: Tensor, inner: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the scores' gradients dt over one axis of a tile of the grid each: all that queries need.

    Args:
        planes: as in the forward.
        outer, inner: `(2, g, o, r)`, `(2, g, i, r)`: terms of the scores and of the weights' gradients.
        rows: `(g, 2 C + 2, r)`: queries and gradients at the content's channels, log-sum-exp, delta.

    Returns:
        `(1 + C, g, o, r)`: sums over i of dt and of dt * content; `(g, i, r)`: over o of dt.
    """
    count = planes.shape[-1] - 2
    rstd = planes[..., 0, None]
    scores, dw = outer[0, :, :, None] + inner[0, :, None], outer[1, :, :, None] + inner[1, :, None]
    for c in range(count):
        scores = scores + rows[:, c, None, None] * planes[..., 2 + c, None]
        dw = dw + rows[:, count + c, None, None] * planes[..., 2 + c, None]
    p = torch.exp(scores * rstd + planes[..., 1, None] - rows[:, -2, None, None])
    dt = p * (rstd * dw - rows[:, -1, None, None]) * rstd
    content = [(dt * planes[..., 2 + c, None]).sum(2) for c in range(count)]
    return torch.stack([dt.sum(2), *content]), dt.sum(1)


def _grid_backward_parts(
    planes: Tensor, outer: Tensor, inner: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same, and what parts along one axis and rstd need.

    Returns:
        The results of `_grid_backward`; `(g, o, r)`, `(g, i, r)`: sums of w over i, over o; `(g, o, i)`: rstd's gradient.
    """
    count = planes.shape[-1] - 2
    rstd = planes[..., 0, None]
    scores, dw = outer[0, :, :, None] + inner[0, :, None], outer[1, :, :, None] + inner[1, :, None]
    for c in range(count):
        scores = scores + rows[:, c, None, None] * planes[..., 2 + c, None]
        dw = dw + rows[:, count + c, None, None] * planes[..., 2 + c, None]
    p = torch.exp(scores * rstd + planes[..., 1, None] - rows[:, -2, None, None])
    w, ds = p * rstd, p * (rstd * dw - rows[:, -1, None, None])
    dt = ds * rstd
    content = [(dt * planes[..., 2 + c, None]).sum(2) for c in range(count)]
    along = torch.stack([dt.sum(2), *content])
    return along, dt.sum(1), w.sum(2), w.sum(1), (ds * scores + p * dw).sum(3)


def _grid_backward_content(
    planes: Tensor, outer: Tensor, inner: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same, and `(g, o, i, C)`: the content's gradient."""
    count = planes.shape[-1] - 2
    rstd = planes[..., 0, None]
    scores, dw = outer[0, :, :, None] + inner[0, :, None], outer[1, :, :, None] + inner[1, :, None]
    for c in range(count):
        scores = scores + rows[:, c, None, None] * planes[..., 2 + c, None]
        dw = dw + rows[:, count + c, None, None] * planes[..., 2 + c, None]
    p = torch.exp(scores * rstd + planes[..., 1, None] - rows[:, -2, None, None])
    w, ds = p * rstd, p * (rstd * dw - rows[:, -1, None, None])
    dt = ds * rstd
    content = [(dt * planes[..., 2 + c, None]).sum(2) for c in range(count)]
    along = torch.stack([dt.sum(2), *content])
    own = [(dt * rows[:, c, None, None] + w * rows[:, count + c, None, None]).sum(3) for c in range(count)]
    return along, dt.sum(1), w.sum(2), w.sum(1), (ds * scores + p * dw).sum(3), torch.stack(own, -1)


def _line_forward(scores: Tensor, planes: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a tile of tokens, relative to the largest score up to now.

    Args:
        scores: `(g, n, r)`, before rstd.
        planes: `(g, n, 2)`: rstd, 0 or minus infinity where masked.
        top: `(g, r)`: the largest score of earlier tiles.

    Returns:
        `(g, n, r)`: w; `(g, r)`: sums over n of p; `(g, r)`: the largest score now.
    """
    rstd = planes[..., 0, None]
    scores = scores * rstd + planes[..., 1, None]
    top = torch.maximum(top, scores.amax(1))
    p = torch.exp(scores - top[:, None])
    return p * rstd, p.sum(1), top


def _line_backward(scores: Tensor, dw: Tensor, planes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a tile of tokens.

    Args:
        scores, dw: `(g, n, r)`: scores before rstd, the weights' gradients.
        planes: as in the forward.
        rows: `(g, 2, r)`: log-sum-exp, delta.

    Returns:
        `(g, n, r)`: dt; `(g, n, r)`: w; `(g, n)`: rstd's gradient.
    """
    rstd = planes[..., 0, None]
    p = torch.exp(scores * rstd + planes[..., 1, None] - rows[:, 0, None])
    ds = p * (rstd * dw - rows[:, 1, None])
    return ds * rstd, p * rstd, (ds * scores + p * dw).sum(2)


@dataclass(frozen=True)
class Source:
    """A function to compile, and which axes of its arguments differ from call to call."""

    function: Callable[..., tuple[Tensor, ...]]
    dynamic: tuple[tuple[int, ...], ...]


_GRID = ((0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 2))
_GRID_BACKWARD = ((0, 1, 2), (1, 2, 3), (1, 2, 3), (0, 2))

GRID_FORWARD = Source(_grid_forward, _GRID)
GRID_BACKWARD = (
    Source(_grid_backward, _GRID_BACKWARD),
    Source(_grid_backward_parts, _GRID_BACKWARD),
    Source(_grid_backward_content, _GRID_BACKWARD),
)
"""By what is asked for: gradients to queries; also to parts along one axis and rstd; also to content."""
LINE_FORWARD = Source(_line_forward, ((0, 1, 2), (0, 1), (0, 1)))
LINE_BACKWARD = Source(_line_backward, ((0, 1, 2), (0, 1, 2), (0, 1), (0, 2)))


class Kernel:
    """A compiled callable for one signature."""

    def __init__(self, source: Source, signature: str) -> None:
        self.source = source
        # Torch keeps what it compiled, and counts recompilations, by code object, and what it learned of sizes by file, line
        # and name: each signature gets a code object and a name of its own.
        function = inspect.unwrap(source.function)
        name = f"{function.__name__}_{signature}"
        own = types.FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)
        self._threads: int | None = None
        self._compiled = torch.compile(own, fullgraph=True, options=OPTIONS)

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        """The results for contiguous tensors.

        Raises:
            CompilationError: if it cannot be compiled; a warning says so once per type of device.
        """
        if self._threads != torch.get_num_threads():  # another number is one reason for torch to compile again
            for tensor, axes in zip(tensors, self.source.dynamic, strict=True):
                for axis in axes:
                    torch._dynamo.mark_dynamic(tensor, axis)
        try:
            results: Sequence[Tensor] = self._compiled(*tensors)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # What ran before fails for reasons of its own, unless torch says that it compiled anew.
            if self._threads is not None and not isinstance(error, torch._dynamo.exc.TorchDynamoException):
                raise
            _report(tensors[0].device.type, error)
            raise CompilationError from error
        self._threads = torch.get_num_threads()
        return results


def _report(device_type: str, error: Exception) -> None:
    """Remember and say, once per type of device, that compiling failed."""
    if device_type not in _failures:
        _failures[device_type] = "compilation failed"
        warnings.warn(
            f"torch.compile failed for the compiled attention kernels; the slower eager form serves. "
            f"{type(error).__name__}: {str(error).strip()[:500]} Set PERCEIVER_COMPILE=0 to silence this.",
            RuntimeWarning,
        )


@functools.cache
def kernel(source: Source, content: int, dtype: torch.dtype, device_type: str) -> Kernel:
    """The kernel of a signature; the same object every time."""
    return Kernel(source, f"{content}_{str(dtype).removeprefix('torch.')}_{device_type}")
