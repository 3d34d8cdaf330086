"""`read_tokens` in native code: prepares tensors and calls the kernel. Falls back to the eager form."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceiver.attention.kernels import eager
from perceiver.attention.kernels.contract import READ, READ_BACKWARD, batch_size, connect
from perceiver.attention.kernels.native.call import compact, kind_of, pointer, stride
from perceiver.attention.kernels.native.loader import availability
from perceiver.attention.kernels.native.task import MOST_CONTENT, Kind, Part, Task

LONGEST_PANEL = 2**14
"""Most tokens of a one-axis grid for which wide parts are projected at once; longer grids are projected tile by tile."""


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of inputs. The kernel computes in float32; 16-bit inputs and results are converted. Float64 is left to eager."""


def supports(queries: Tensor, rstd: Tensor) -> bool:
    """Whether the kernel supports this call: a type it converts, on the CPU, without empty tensors."""
    return queries.device.type == "cpu" and queries.dtype in DTYPES and queries.numel() > 0 and rstd.numel() > 0


@torch.library.custom_op("perceiver::read_tokens_native", mutates_args=(), schema=READ)
def read_tokens(queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the function of `eager.read_tokens`; see there."""
    library = availability().library
    if library is None or not supports(queries, rstd):
        found: tuple[Tensor, Tensor] = eager.read_tokens(queries, parts, rstd, mask)
        return found
    if queries.dtype != torch.float32:
        sums, lse = read_tokens(queries.float(), [part.float() for part in parts], rstd.float(), mask)
        return sums.to(queries.dtype), lse
    (batch,) = batch_size(queries, *parts, rstd, mask)
    sums = queries.new_empty(batch, *queries.shape[1:])
    lse = queries.new_empty(batch, queries.shape[1])
    call = _Call(batch, queries, parts, rstd, mask)
    call.task.sums, call.task.lse = sums.data_ptr(), lse.data_ptr()
    _run(library.perceiver_forward, call.task)
    return sums, lse


@torch.library.custom_op("perceiver::read_tokens_native_backward", mutates_args=(), schema=READ_BACKWARD)
def read_tokens_backward(
    grad_sums: Tensor,
    grad_lse: Tensor,
    queries: Tensor,
    parts: list[Tensor],
    rstd: Tensor,
    mask: Tensor | None,
    sums: Tensor,
    lse: Tensor,
    needs: list[bool],
) -> list[Tensor]:
    """Compute the function of `eager.read_tokens_backward`; see there."""
    library = availability().library
    if library is None or not supports(queries, rstd):
        grads: list[Tensor] = eager.read_tokens_backward(grad_sums, grad_lse, queries, parts, rstd, mask, sums, lse, needs)
        return grads
    if queries.dtype != torch.float32:
        single = [x.float() for x in (queries, *parts, rstd)]
        grads = read_tokens_backward(
            grad_sums.float(), grad_lse, single[0], single[1:-1], single[-1], mask, sums.float(), lse, needs
        )
        needed = (x for x, need in zip((queries, *parts, rstd), needs, strict=True) if need)
        return [grad.to(x.dtype) for grad, x in zip(grads, needed, strict=True)]
    need_queries, need_parts, need_rstd = needs[0], needs[1:-1], needs[-1]
    call = _Call(sums.shape[0], queries, parts, rstd, mask)
    task, layout = call.task, call.layout
    kept = [x.contiguous() for x in (sums, lse, grad_sums, grad_lse)]
    task.sums, task.lse, task.grad_sums, task.grad_lse = (x.data_ptr() for x in kept)
    queries_grad = torch.empty_like(sums) if need_queries else None
    task.queries_grad = pointer(queries_grad)
    rstd_grad = rstd.new_zeros(rstd.shape) if need_rstd else None
    task.rstd_grad, task.rstd_grad_stride = pointer(rstd_grad), stride(rstd)
    content_grad = None
    if any(need_parts[index] for index in layout.content):
        content_grad = queries.new_zeros(call.content_shape)
        task.content_grad, task.content_grad_stride = content_grad.data_ptr(), stride(content_grad)
    parts_grad = [
        queries.new_zeros(part.shape) if need and index not in layout.content else None
        for index, (part, need) in enumerate(zip(parts, need_parts, strict=True))
    ]
    for argument, index in zip(call.parts, layout.others, strict=True):
        grad = parts_grad[index]
        argument.grad, argument.grad_stride = pointer(grad), stride(parts[index])
    task.level = 2 if content_grad is not None else 1 if any(need_parts) or need_rstd else 0
    _run(library.perceiver_backward, task)
    if content_grad is not None:
        widths = [parts[index].shape[-1] for index in layout.content]
        for index, grad in zip(layout.content, content_grad.split(widths, dim=-1), strict=True):
            if need_parts[index]:
                parts_grad[index] = _like(grad, parts[index])
    if queries_grad is not None:
        queries_grad = _like(queries_grad, queries)
    return [grad for grad in (queries_grad, *parts_grad, rstd_grad) if grad is not None]


connect(read_tokens, read_tokens_backward)


@dataclass(frozen=True)
class _Layout:
    """The parts that the kernel's loops over tokens handle as content, and the kinds of the others."""

    content: tuple[int, ...]
    others: tuple[int, ...]
    kinds: tuple[Kind, ...]


def _layout(shapes: Sequence[torch.Size], outer: int, inner: int) -> _Layout:
    """Choose narrow full-size parts as content; the others are constant along an axis, or wide."""
    room, content = MOST_CONTENT, []
    full = [index for index, shape in enumerate(shapes) if shape[1] * shape[2] == outer * inner > 1]
    for index in sorted(full, key=lambda index: shapes[index][-1]):
        if shapes[index][-1] <= room:
            room -= shapes[index][-1]
            content.append(index)
    others = tuple(index for index in range(len(shapes)) if index not in content)
    return _Layout(tuple(sorted(content)), others, tuple(_kind(shapes[index], outer, inner) for index in others))


def _kind(shape: torch.Size, outer: int, inner: int) -> Kind:
    # Wide parts of long one-axis grids are projected tile by tile.
    long = min(outer, inner) == 1 and outer * inner > LONGEST_PANEL and shape[1] * shape[2] > 1
    return Kind.FULL if long else kind_of(shape, outer, inner)


class _Call:
    """A kernel task for these tensors, without result pointers; keeps the memory alive that the task points to."""

    def __init__(self, batch: int, queries: Tensor, parts: Sequence[Tensor], rstd: Tensor, mask: Tensor | None) -> None:
        outer, inner = rstd.shape[1:]
        self.layout = _layout([part.shape for part in parts], outer, inner)
        columns = [0]
        for part in parts:
            columns.append(columns[-1] + part.shape[-1])
        content = [parts[index] for index in self.layout.content]
        joined = content[0] if content else None
        if len(content) > 1:
            size = max(part.shape[0] for part in content)
            joined = torch.cat([part.expand(size, outer, inner, -1) for part in content], dim=-1)
        self.content_shape = torch.Size((0,)) if joined is None else joined.shape
        tensors = [compact(x) for x in (queries, rstd, mask, joined)]
        compact_queries, compact_rstd, compact_mask, compact_content = tensors
        compact_parts = [compact(parts[index]) for index in self.layout.others]
        self.kept = (*tensors, *compact_parts)
        self.parts = (Part * len(compact_parts))()
        arguments = zip(self.parts, compact_parts, self.layout.others, self.layout.kinds, strict=True)
        for argument, tensor, index, kind in arguments:
            argument.data, argument.stride = pointer(tensor), stride(tensor)
            argument.kind, argument.channels, argument.column = kind, parts[index].shape[-1], columns[index]
        self.task = Task(
            batch=batch,
            rows=queries.shape[1],
            outer=outer,
            inner=inner,
            channels=queries.shape[2],
            num_parts=len(compact_parts),
            num_content=0 if joined is None else joined.shape[-1],
            threads=torch.get_num_threads(),
            queries_stride=stride(compact_queries),
            rstd_stride=stride(compact_rstd),
            content_stride=stride(compact_content),
            mask_stride=stride(compact_mask),
            queries=pointer(compact_queries),
            rstd=pointer(compact_rstd),
            content=pointer(compact_content),
            mask=pointer(compact_mask),
            parts=ctypes.cast(self.parts, ctypes.POINTER(Part)),
        )
        taken = [column for index in self.layout.content for column in range(columns[index], columns[index + 1])]
        self.task.content_column[: len(taken)] = taken


def _like(grad: Tensor, x: Tensor) -> Tensor:
    """Reduce the gradient of x expanded over the batch to that of x; a new contiguous tensor."""
    return grad.sum(dim=0, keepdim=True) if x.shape[0] < grad.shape[0] else grad.contiguous()


def _run(function: ctypes._NamedFuncPointer, task: Task) -> None:
    if function(ctypes.byref(task)) != 0:
        raise MemoryError("The native attention kernel could not allocate its workspace.")
