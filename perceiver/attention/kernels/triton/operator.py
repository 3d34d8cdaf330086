"""`read_tokens` in Triton: prepares tensors, launches kernels and combines partial sums. Falls back to the eager form.

Parts that are constant along an axis take part through matrix products of their own shape before and after the kernels:
their score terms, and the sums of weights along the other axis. Several full-size parts of a kind are concatenated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from math import e, log, log2

import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver.attention.kernels import eager
from perceiver.attention.kernels.contract import READ, READ_BACKWARD, batch_size, connect, lse_dtype
from perceiver.attention.kernels.triton.availability import DTYPES, availability
from perceiver.attention.kernels.triton.plan import (
    ROWS,
    Plan,
    Tile,
    backward_tile,
    chunks_of_lines,
    forward_tile,
    groups_of_rows,
    plan,
)

WORKSPACE = 2**26
"""Most numbers of partial sums held at a time; larger batches are processed in several waves of samples."""

PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "tf32"}
"""Precision of float32 matrix products by `torch.get_float32_matmul_precision()`; three products of TF32 would spill."""


NO_WEIGHT = 1e30
"""Log-sum-exp (log2 units) of rows all of whose weights are zero."""


def supports(queries: Tensor, parts: Sequence[Tensor], rstd: Tensor) -> bool:
    """Whether the kernels support this call: a type and device they are made for, without empty tensors."""
    typed = all(x.dtype in DTYPES for x in (queries, *parts, rstd))
    return typed and queries.numel() > 0 and rstd.numel() > 0 and availability(queries.device).usable


@torch.library.custom_op("perceiver::read_tokens_triton", mutates_args=(), schema=READ)
def read_tokens(queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the function of `eager.read_tokens`; see there."""
    if not supports(queries, parts, rstd):
        found: tuple[Tensor, Tensor] = eager.read_tokens(queries, parts, rstd, mask)
        return found
    with _on(queries.device):
        call = _Call(queries, parts, rstd, mask)
        waves = [call.samples(b).forward() for b in _waves(call.batch, call.forward_floats())]
    sums, lse = (torch.cat(pieces) if len(pieces) > 1 else pieces[0] for pieces in zip(*waves, strict=True))
    return sums.to(queries.dtype), lse


@torch.library.custom_op("perceiver::read_tokens_triton_backward", mutates_args=(), schema=READ_BACKWARD)
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
    if not supports(queries, parts, rstd):
        grads: list[Tensor] = eager.read_tokens_backward(grad_sums, grad_lse, queries, parts, rstd, mask, sums, lse, needs)
        return grads
    grad_sums, grad_lse, sums = grad_sums.float(), grad_lse.float(), sums.float()
    delta = (sums * grad_sums).sum(dim=-1) - grad_lse
    dead = lse.isneginf()
    # Scores are in units of log2. In rows without a valid token all weights are zero.
    lse = torch.where(dead, NO_WEIGHT, lse.double() * log2(e)).float()
    delta = torch.where(dead, 0.0, delta)
    inputs = [queries, *parts, rstd]
    totals: list[Tensor | None] = [None] * len(inputs)
    with _on(queries.device):
        call = _Call(queries, parts, rstd, mask)
        level = call.level(needs)
        for b in _waves(call.batch, call.backward_floats(level)):
            own = call.samples(b).backward(grad_sums[b], lse[b], delta[b], needs, level)
            for index, (grad, x) in enumerate(zip(own, inputs, strict=True)):
                if grad is not None:
                    totals[index] = _joined(totals[index], grad, x)
    return [
        total.to(x.dtype).reshape(x.shape)
        for total, x, need in zip(totals, inputs, needs, strict=True)
        if need and total is not None
    ]


connect(read_tokens, read_tokens_backward)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _waves(batch: int, floats: int) -> Iterator[slice]:
    """Yield slices of samples whose workspace, of this many numbers per sample, is bounded."""
    count = max(1, WORKSPACE // max(floats, 1))
    for start in range(0, batch, count):
        yield slice(start, min(start + count, batch))


def _joined(total: Tensor | None, grad: Tensor, x: Tensor) -> Tensor:
    """Add the gradient of a wave of samples to that of x: side by side, or summed if the batch shares x."""
    if x.shape[0] == 1:
        grad = grad.sum(dim=0, keepdim=True)
        return grad if total is None else total + grad
    return grad if total is None else torch.cat([total, grad])


class _Call:
    """The tensors of a call as the kernels take them: float32 rows, and content in its own type."""

    def __init__(self, queries: Tensor, parts: Sequence[Tensor], rstd: Tensor, mask: Tensor | None) -> None:
        self.parts, self.rstd, self.mask = parts, rstd, mask
        self.num_rows, self.rows = queries.shape[1], -(-queries.shape[1] // ROWS) * ROWS
        self.queries = self.padded(queries.float())
        (self.batch,) = batch_size(queries, *parts, rstd, mask)
        self.outer, self.inner = rstd.shape[1:]
        self.plan: Plan = plan([part.shape for part in parts], self.outer, self.inner)
        self.columns = [0]
        for part in parts:
            self.columns.append(self.columns[-1] + part.shape[-1])
        self.num_narrow, self.num_wide = (
            sum(parts[index].shape[-1] for index in indices) for indices in (self.plan.narrow, self.plan.wide)
        )

    def samples(self, b: slice) -> _Call:
        """The same call for some samples."""
        if b.stop - b.start == self.batch:
            return self

        def some(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 else x[b]

        queries, parts = some(self.queries)[:, : self.num_rows], [some(part) for part in self.parts]
        own = _Call(queries, parts, some(self.rstd), None if self.mask is None else some(self.mask))
        own.batch = b.stop - b.start  # even if no tensor of this wave has more than one sample
        return own

    def padded(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Add rows, which nothing depends on, to `(b, R, C)` or `(b, R)`."""
        extra = self.rows - self.num_rows
        if not extra:
            return x
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, extra), value=value)

    # -------------------------------------------------------------------------------------------- arguments

    @cached_property
    def content(self) -> tuple[Tensor, Tensor]:
        """Narrow and wide full-size parts, `(b, N, c)`; anything where there are none."""
        found = []
        for indices in (self.plan.narrow, self.plan.wide):
            own = [self.parts[index].flatten(1, 2) for index in indices]
            size = max((part.shape[0] for part in own), default=1)
            if len(own) > 1:
                own = [torch.cat([part.expand(size, -1, -1) for part in own], dim=-1)]
            found.append(own[0].contiguous() if own else self.flat_rstd)
        return found[0], found[1]

    @cached_property
    def flat_rstd(self) -> Tensor:
        return self.rstd.flatten(1).float().contiguous()

    @cached_property
    def flat_mask(self) -> Tensor:
        """Bytes; anything if there is no mask."""
        if self.mask is None:
            return self.flat_rstd.view(torch.uint8)[:1]
        return self.mask.flatten(1).contiguous().view(torch.uint8)

    def row_arguments(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Terms of the lines and of the positions, `(b, o or 1, r)` and `(b, i, r)`, and the rows of the content.

        Args:
            rows: `(b, r, C)`, queries or gradients, float32.
        """
        outer, inner = (self._terms(indices, rows) for indices in (self.plan.on_outer, self.plan.on_inner))
        narrow, wide = (
            torch.cat([self._columns(rows, index) for index in indices], dim=-1) if indices else rows
            for indices in (self.plan.narrow, self.plan.wide)
        )
        return outer, inner, narrow.transpose(1, 2).contiguous(), wide.contiguous()

    def _terms(self, indices: Sequence[int], rows: Tensor) -> Tensor:
        total: Tensor | None = None
        for index in indices:
            term = self.parts[index].flatten(1, 2).float() @ self._columns(rows, index).transpose(1, 2)
            total = term if total is None else total + term
        return rows if total is None else total.contiguous()

    def _columns(self, x: Tensor, index: int) -> Tensor:
        """The channels of a part."""
        return x[..., self.columns[index] : self.columns[index + 1]]

    def flags(self, tile: Tile) -> dict[str, object]:
        """The constants of a kernel."""
        precision = PRECISIONS[torch.get_float32_matmul_precision()]
        if self.content[1].dtype != torch.float32:
            precision = "tf32"  # which represents values of half precision exactly
        return {
            "NARROW": self.num_narrow,
            "WIDE": self.num_wide,
            "HAS_OUTER": bool(self.plan.on_outer),
            "HAS_INNER": bool(self.plan.on_inner),
            "HAS_MASK": self.mask is not None,
            "NEED_OUTER": bool(self.plan.on_outer),
            "BR": tile.rows,
            "BI": tile.inner,
            "BC": tile.channels,
            "BV": tile.sums,
            "PRECISION": precision,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }

    def token_arguments(self) -> tuple[Tensor, ...]:
        return (*self.content, self.flat_rstd, self.flat_mask)

    def token_strides(self) -> list[int]:
        return _strides((*self.content, self.flat_rstd, self.flat_mask))

    # -------------------------------------------------------------------------------------------- forward

    def _forward_division(self) -> _Division:
        return _Division(self, forward_tile(self.num_narrow, self.num_wide))

    def forward_floats(self) -> int:
        """Numbers of partial sums per sample."""
        return self._forward_division().floats(self)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return sums `(B, R, C)` and log-sum-exps `(B, R)`."""
        from perceiver.attention.kernels.triton import kernels

        d = self._forward_division()
        tile = d.tile
        arguments = self.row_arguments(self.queries * log2(e))
        pieces = d.chunks * d.inner_blocks
        totals, references = self._empty(pieces, self.rows), self._empty(pieces, self.rows)
        outer = self._empty(d.inner_blocks, d.lines, self.rows, exists=self.plan.on_outer)
        outer_references = torch.empty_like(outer)
        inner = self._empty(d.chunks, d.length, self.rows, exists=self.plan.on_inner)
        narrow = self._empty(pieces, self.num_narrow, self.rows, exists=self.plan.narrow)
        wide = self._empty(pieces, self.rows, self.num_wide, exists=self.plan.wide)
        programs = self.batch * d.chunks * d.inner_blocks * d.channel_blocks * d.row_blocks
        kernels.forward[(programs,)](
            *arguments, *self.token_arguments(),
            *_strides(arguments), *self.token_strides(), self._line_stride(arguments[0]),
            totals, references, outer, outer_references, inner, narrow, wide,
            self.rows, d.lines, d.length, self.plan.tokens,
            d.row_blocks, d.channel_blocks, d.inner_blocks, d.chunks, d.lines_per_chunk,
            **self.flags(tile),
        )  # fmt: skip
        # Everything relative to the largest reference of a row, so that the sums' common factor cancels exactly.
        top = references.amax(dim=1)
        factors = torch.exp2(references - top[:, None])
        total = (totals * factors).sum(dim=1)
        dead = total == 0
        lse = ((top.double() + total.double().log2()) * log(2)).to(lse_dtype(self.queries.dtype))
        found = _Sums(
            outer=self._merged(outer, outer_references, top) if self.plan.on_outer else None,
            inner=self._merged(inner, references, top, block=tile.inner) if self.plan.on_inner else None,
            narrow=self._merged(narrow, references, top, block=max(self.num_narrow, 1)) if self.plan.narrow else None,
            wide=(wide * factors[..., None]).sum(dim=1) if self.plan.wide else None,
        )
        sums = self._gathered(found) / torch.where(dead, 1.0, total)[..., None]
        return sums[:, : self.num_rows].contiguous(), lse[:, : self.num_rows].contiguous()

    def _merged(self, parts: Tensor, references: Tensor, top: Tensor, *, block: int = 1) -> Tensor:
        """Merge `(B, s, n, r)`, relative to references of `block` consecutive positions each, to `(B, n, r)`."""
        from perceiver.attention.kernels.triton import kernels

        size, positions = parts.shape[1:3]
        pieces = -(-positions // block)
        merged = self._empty(positions, self.rows)
        row_blocks, blocks = -(-self.rows // 64), -(-positions // 16)
        kernels.merge[(self.batch * blocks * row_blocks,)](
            parts, references, top, merged, self.rows, size, positions, pieces, row_blocks,
            BLOCK=block, BR=64, BN=16, num_warps=4,
        )  # fmt: skip
        return merged

    def _gathered(self, sums: _Sums) -> Tensor:
        """Multiply sums of weights with the parts they belong to: `(B, R, C)`."""
        columns: dict[int, Tensor] = {}
        for index in (*self.plan.on_outer, *self.plan.on_inner):
            part = self.parts[index].flatten(1, 2).float()
            columns[index] = sums.along(index, self).transpose(1, 2) @ part
        for indices, own in ((self.plan.narrow, sums.narrow), (self.plan.wide, sums.wide)):
            if own is not None:
                flat = own.transpose(1, 2) if own is sums.narrow else own
                widths = [self.parts[index].shape[-1] for index in indices]
                columns.update(zip(indices, flat.split(widths, dim=-1), strict=True))
        return torch.cat([columns[index] for index in range(len(self.parts))], dim=-1)

    def _empty(self, *shape: int, exists: object = True) -> Tensor:
        """Uninitialised float32 of `(B, *shape)`; one number if it is not needed."""
        return self.rstd.new_empty((self.batch, *shape) if exists else 1, dtype=torch.float32)

    def _line_stride(self, outer_terms: Tensor) -> int:
        return self.rows if self.plan.on_outer and outer_terms.shape[1] > 1 else 0

    # -------------------------------------------------------------------------------------------- backward

    def level(self, needs: Sequence[bool]) -> int:
        """Gradients to compute: 0 those of the queries; 1 also of parts along an axis and of rstd; 2 also of content."""
        if any(needs[1 + index] for index in (*self.plan.narrow, *self.plan.wide)):
            return 2
        return 1 if any(needs[1:]) else 0

    def _backward_division(self, level: int) -> _Division:
        tile = backward_tile(self.num_narrow, self.num_wide, level)
        gradients = 0
        if level:
            gradients = self.plan.tokens * (1 + (self.num_narrow + self.num_wide if level > 1 else 0))
        return _Division(self, tile, gradients=gradients, grouped=level > 0)

    def backward_floats(self, level: int) -> int:
        """Numbers of partial sums per sample."""
        d = self._backward_division(level)
        return 2 * d.floats(self) + d.groups * d.gradients

    def backward(
        self, grad_sums: Tensor, lse: Tensor, delta: Tensor, needs: Sequence[bool], level: int
    ) -> list[Tensor | None]:
        """Return gradients of each sample for (queries, *parts, rstd), None for those that need none."""
        from perceiver.attention.kernels.triton import kernels

        d = self._backward_division(level)
        tokens = self.plan.tokens
        grad_sums, lse, delta = self.padded(grad_sums), self.padded(lse, NO_WEIGHT), self.padded(delta)
        arguments, grad_arguments = self.row_arguments(self.queries * log2(e)), self.row_arguments(grad_sums)
        pieces = d.chunks * d.inner_blocks
        outer = self._empty(d.inner_blocks, d.lines, self.rows, exists=self.plan.on_outer)
        inner = self._empty(d.chunks, d.length, self.rows, exists=self.plan.on_inner)
        narrow = self._empty(pieces, self.num_narrow, self.rows, exists=self.plan.narrow)
        wide = self._empty(pieces, self.rows, self.num_wide, exists=self.plan.wide)
        outer_weights, inner_weights = torch.empty_like(outer), torch.empty_like(inner)
        # Gradients of masked tokens stay zero.
        rstd_grad, narrow_grad, wide_grad = (
            self.rstd.new_zeros((self.batch, d.groups, tokens, *channels) if exists else 1, dtype=torch.float32)
            for exists, channels in (
                (level >= 1, ()),
                (level >= 2 and self.num_narrow, (self.num_narrow,)),
                (level >= 2 and self.num_wide, (self.num_wide,)),
            )
        )
        programs = self.batch * d.chunks * d.inner_blocks * d.channel_blocks * d.groups
        kernels.backward[(programs,)](
            *arguments, *grad_arguments, *self.token_arguments(), lse.contiguous(), delta.contiguous(),
            *_strides(arguments), *_strides(grad_arguments), *self.token_strides(),
            self._line_stride(arguments[0]),
            outer, inner, narrow, wide, outer_weights, inner_weights, rstd_grad, narrow_grad, wide_grad,
            self.rows, d.lines, d.length, tokens,
            d.groups, d.group_blocks, d.channel_blocks, d.inner_blocks, d.chunks, d.lines_per_chunk, tokens,
            LEVEL=level, **self.flags(d.tile),
        )  # fmt: skip
        dt = _Sums.of(self, outer, inner, narrow, wide)
        grads: list[Tensor | None] = [None] * (len(self.parts) + 2)
        if needs[0]:
            grads[0] = self._gathered(dt)[:, : self.num_rows].contiguous()
        if level >= 1:
            weights = _Sums.of(self, outer_weights, inner_weights, None, None)
            for index in (*self.plan.on_outer, *self.plan.on_inner):
                if needs[1 + index]:
                    own_queries, own_grads = self._columns(self.queries, index), self._columns(grad_sums, index)
                    grads[1 + index] = dt.along(index, self) @ own_queries + weights.along(index, self) @ own_grads
            if needs[-1]:
                grads[-1] = rstd_grad.sum(dim=1)
        if level >= 2:
            for indices, own in ((self.plan.narrow, narrow_grad), (self.plan.wide, wide_grad)):
                widths = [self.parts[index].shape[-1] for index in indices]
                for index, grad in zip(indices, own.sum(dim=1).split(widths, dim=-1) if indices else (), strict=True):
                    if needs[1 + index]:
                        grads[1 + index] = grad.contiguous()  # results of an operator must not share memory
        return grads


class _Division:
    """Tiles, chunks and groups of a kernel's programs."""

    def __init__(self, call: _Call, tile: Tile, *, gradients: int = 0, grouped: bool = False) -> None:
        self.tile, self.gradients = tile, gradients
        self.lines, self.length = call.plan.lines(tile)
        self.row_blocks = -(-call.rows // tile.rows)
        self.inner_blocks = -(-self.length // tile.inner)
        self.channel_blocks = max(1, -(-call.num_wide // tile.sums))
        self.groups, self.group_blocks = groups_of_rows(self.row_blocks, gradients) if grouped else (self.row_blocks, 1)
        self.chunks, self.lines_per_chunk = chunks_of_lines(
            self.lines, self.groups * self.inner_blocks * self.channel_blocks
        )

    def floats(self, call: _Call) -> int:
        """Numbers of partial sums per sample."""
        pieces = self.chunks * self.inner_blocks
        outer = 2 * self.inner_blocks * self.lines * bool(call.plan.on_outer)
        inner = self.chunks * self.length * bool(call.plan.on_inner)
        return call.rows * (outer + inner + pieces * (2 + call.num_narrow + call.num_wide))


class _Sums:
    """Sums of weights (or of dt) over all tokens of a line, over all lines, and times the content.

    Args:
        outer: `(B, o, r)`.
        inner: `(B, i, r)`.
        narrow: `(B, NARROW, r)`.
        wide: `(B, r, WIDE)`.
    """

    def __init__(self, *, outer: Tensor | None, inner: Tensor | None, narrow: Tensor | None, wide: Tensor | None) -> None:
        self.outer, self.inner, self.narrow, self.wide = outer, inner, narrow, wide

    @classmethod
    def of(cls, call: _Call, outer: Tensor, inner: Tensor, narrow: Tensor | None, wide: Tensor | None) -> _Sums:
        """Sum pieces that need no scaling."""
        return cls(
            outer=outer.sum(dim=1) if call.plan.on_outer else None,
            inner=inner.sum(dim=1) if call.plan.on_inner else None,
            narrow=narrow.sum(dim=1) if narrow is not None and call.plan.narrow else None,
            wide=wide.sum(dim=1) if wide is not None and call.plan.wide else None,
        )

    def along(self, index: int, call: _Call) -> Tensor:
        """The sums for a part that is constant along an axis, `(B, n, r)`."""
        if index in call.plan.on_inner:
            assert self.inner is not None
            return self.inner
        assert self.outer is not None
        constant = call.parts[index].shape[1] == 1
        return self.outer.sum(dim=1, keepdim=True) if constant else self.outer


def _strides(arrays: Sequence[Tensor]) -> list[int]:
    """Strides between samples in elements; 0 if all samples share the same data."""
    return [0 if x.shape[0] == 1 else x.stride(0) for x in arrays]
