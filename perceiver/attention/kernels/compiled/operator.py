"""`read_tokens` through compiled kernels: cuts a call into tiles that fit the caches, of sizes torch never specialises on.

Two ways through the tokens. On a grid whose full-size parts are narrow, scores are never stored: kernels add terms of the
outer and the inner axis and the unrolled content, and return sums along either axis. Everything else (grids of one axis,
wide parts, attention too sharp for a reference known beforehand) goes line by line: matrix products make the scores of a
tile of tokens, a kernel their weights, with the largest score followed online as in flash attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver.attention.kernels import eager
from perceiver.attention.kernels.compiled.kernels import (
    DTYPES,
    GRID_BACKWARD,
    GRID_FORWARD,
    LINE_BACKWARD,
    LINE_FORWARD,
    CompilationError,
    Kernel,
    Source,
    availability,
    kernel,
)
from perceiver.attention.kernels.contract import READ, READ_BACKWARD, batch_size, connect

MOST_CONTENT = 8
"""Channels of full-size parts, all together, that the grid's kernels unroll."""
SHORTEST = 8
"""Axes of a grid shorter than this are no grid."""
ROWS = 128
"""Query rows at a time."""
TILE = 2**19
"""Scores of one call of a kernel."""
HEADROOM = 4 * log(2)
TRUSTED = 2.0**-28
"""The reference of a grid's exponents lies HEADROOM below an upper bound of the scores. Where a row's sum stays below
TRUSTED the bound was too loose, which costs digits of the exponents first, and the sample goes line by line."""


def supports(queries: Tensor, rstd: Tensor) -> bool:
    """Whether the kernels compute such a call: of these types, nothing empty, on a device for which they can be compiled."""
    if queries.dtype not in DTYPES or queries.numel() == 0 or rstd.numel() == 0:
        return False
    return availability(queries.device.type).usable


@torch.library.custom_op("perceiver::read_tokens_compiled", mutates_args=(), schema=READ)
def read_tokens(queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same function as the eager `read_tokens`, see there."""
    if supports(queries, rstd):
        try:
            with _settled(queries.device.type):
                call = _Call(queries, parts, rstd, mask)
                return _read(call, on_grid=call.on_grid)
        except CompilationError:
            pass
    found: tuple[Tensor, Tensor] = eager.read_tokens(queries, parts, rstd, mask)
    return found


@torch.library.custom_op("perceiver::read_tokens_compiled_backward", mutates_args=(), schema=READ_BACKWARD)
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
    """The same function as the eager `read_tokens_backward`, see there."""
    if supports(queries, rstd):
        try:
            with _settled(queries.device.type):
                delta = (sums * grad_sums).sum(dim=-1) - grad_lse
                # Rows without a valid token: their scores are all minus infinity, and so must their weights be zero.
                lse_or_zero = torch.where(lse.isneginf(), lse.new_zeros(()), lse)
                call = _Call(queries, parts, rstd, mask)
                grads = _read_backward(call, _Upstream(grad_sums, lse_or_zero, delta), needs)
                return [grad for grad, need in zip(grads, needs, strict=True) if need and grad is not None]
        except CompilationError:
            pass
    found: list[Tensor] = eager.read_tokens_backward(grad_sums, grad_lse, queries, parts, rstd, mask, sums, lse, needs)
    return found


connect(read_tokens, read_tokens_backward)


@contextmanager
def _settled(device_type: str) -> Iterator[None]:
    """Modes as they always are around kernels: torch compiles anew where inference, gradients or autocast differ."""
    off = torch.autocast(device_type, dtype=torch.bfloat16, enabled=False, cache_enabled=False)
    with torch.inference_mode(False), torch.no_grad(), off:
        yield


# ------------------------------------------------------------------------------------------------ calls


@dataclass(frozen=True, eq=False)
class _Call:
    """Arguments of the inner function."""

    queries: Tensor
    parts: Sequence[Tensor]
    rstd: Tensor
    mask: Tensor | None

    @property
    def batch(self) -> int:
        return batch_size(self.queries, *self.parts, self.rstd, self.mask)[0]

    @property
    def on_grid(self) -> bool:
        """Whether the grid's kernels serve."""
        outer, inner = self.rstd.shape[1:]
        full = sum(part.shape[-1] for part in self.parts if part.shape[1] * part.shape[2] == outer * inner)
        return min(outer, inner) >= SHORTEST and full <= MOST_CONTENT

    @property
    def widths(self) -> list[int]:
        return [part.shape[-1] for part in self.parts]

    def sample(self, index: int) -> _Call:
        """One sample of the batch."""
        b = slice(index, index + 1)
        mask = None if self.mask is None else _samples(self.mask, b)
        return _Call(_samples(self.queries, b), [_samples(part, b) for part in self.parts], _samples(self.rstd, b), mask)

    def kernel(self, source: Source, content: int = 0) -> Kernel:
        """The kernel of this source for the call's type and device."""
        return kernel(source, content, self.queries.dtype, self.queries.device.type)


@dataclass(frozen=True, eq=False)
class _Upstream:
    """What the backward knows beyond the call: `(B, R, C)`, `(B, R)` and `(B, R)`; see the eager form for delta."""

    grad_sums: Tensor
    lse: Tensor
    delta: Tensor


@dataclass(frozen=True)
class _Cut:
    """Makes a lone sample a batch of two, its tokens cut in two, and a lone token two tokens; other calls stay as they are.

    Pieces of an axis are of equal length; tokens that are missing for that are masked.
    """

    axis: int
    size: int
    pieces: int
    length: int

    @staticmethod
    def of(call: _Call) -> _Cut:
        """The cut that a call needs."""
        axis = 1 if call.rstd.shape[1] > 1 else 2
        size, pieces = call.rstd.shape[axis], 2 if call.batch == 1 else 1
        length = -(-size // pieces)
        return _Cut(axis, size, pieces, 2 if length * call.rstd.shape[3 - axis] == 1 else length)

    def cut(self, x: Tensor) -> Tensor:
        """`(b, o, i, …)` -> `(b * pieces, …)`."""
        x = F.pad(x, [0, 0] * (x.ndim - 1 - self.axis) + [0, self.pieces * self.length - self.size])
        return x.reshape(-1, *x.shape[1 : self.axis], self.length, *x.shape[self.axis + 1 :])

    def cut_part(self, part: Tensor) -> Tensor:
        """The same for what may be constant along the axis, and then stays."""
        return part if part.shape[self.axis] == 1 else self.cut(part)

    def join(self, x: Tensor) -> Tensor:
        """`(b * pieces, …)` -> `(b, o, i, …)`."""
        x = x.reshape(-1, *x.shape[1 : self.axis], self.pieces * self.length, *x.shape[self.axis + 1 :])
        return x.narrow(self.axis, 0, self.size)

    def join_part(self, grad: Tensor, part: Tensor) -> Tensor:
        """The same for the gradient of a part."""
        return grad if part.shape[self.axis] == 1 else self.join(grad)

    def call(self, call: _Call) -> _Call:
        """The call in pieces."""
        mask = call.mask
        if mask is None and self.pieces * self.length > self.size:
            mask = call.rstd.new_ones(1, *call.rstd.shape[1:], dtype=torch.bool)
        mask = None if mask is None else self.cut(mask)
        return _Call(call.queries, [self.cut_part(part) for part in call.parts], self.cut(call.rstd), mask)


def _read(call: _Call, *, on_grid: bool) -> tuple[Tensor, Tensor]:
    """Sums and log-sum-exps of any call, from those of a call whose sizes torch does not specialise on."""
    rows = call.queries.shape[1]
    cut = _Cut.of(call)
    pieces = replace(cut.call(call), queries=_two_rows(call.queries))
    sums, lse = _read_grid(pieces) if on_grid else _read_line(pieces)
    sums, lse = sums[:, :rows], lse[:, :rows]
    if cut.pieces == 1:
        return sums.contiguous(), lse.contiguous()
    joint = lse.logsumexp(dim=0, keepdim=True)
    shares = torch.where(lse.isneginf(), lse.new_zeros(()), (lse - joint).exp())
    return (shares[..., None] * sums).sum(dim=0, keepdim=True), joint


def _read_backward(call: _Call, upstream: _Upstream, needs: Sequence[bool]) -> list[Tensor | None]:
    """Gradients to (queries, *parts, rstd) of any call, at least where they are needed."""
    rows = call.queries.shape[1]
    cut = _Cut.of(call)
    pieces = replace(cut.call(call), queries=_two_rows(call.queries))
    # A second row brings nothing if its gradients are zero.
    missing = [0, pieces.queries.shape[1] - rows]
    grad_sums = F.pad(upstream.grad_sums, [0, 0, *missing]).expand(pieces.batch, -1, -1)
    lse, delta = (F.pad(x, missing).expand(pieces.batch, -1) for x in (upstream.lse, upstream.delta))
    grads = _Gradients.zeros(pieces, needs)
    (_read_grid_backward if call.on_grid else _read_line_backward)(pieces, _Upstream(grad_sums, lse, delta), grads)
    return [
        None if grads.queries is None else grads.queries[:, :rows].contiguous(),
        *(
            None if grad is None else cut.join_part(grad, part).contiguous()
            for grad, part in zip(grads.parts, call.parts, strict=True)
        ),
        None if grads.rstd is None else cut.join(grads.rstd).contiguous(),
    ]


def _two_rows(queries: Tensor) -> Tensor:
    return queries if queries.shape[1] > 1 else queries.expand(-1, 2, -1)


@dataclass(frozen=True, eq=False)
class _Gradients:
    """Gradients that tiles add to, of the shapes of what they belong to; None where none is needed."""

    queries: Tensor | None
    parts: Sequence[Tensor | None]
    rstd: Tensor | None

    @staticmethod
    def zeros(call: _Call, needs: Sequence[bool]) -> _Gradients:
        """Nothing added yet."""
        tensors = [call.queries, *call.parts, call.rstd]
        grads = [x.new_zeros(x.shape) if need else None for x, need in zip(tensors, needs, strict=True)]
        return _Gradients(grads[0], grads[1:-1], grads[-1])


# ------------------------------------------------------------------------------------------------ grids


@dataclass(frozen=True, eq=False)
class _Grid:
    """Some samples of a call on a grid, ready for kernels: parts by their axes, planes of tokens by tile.

    Args:
        content: indices of the full-size parts.
        lines: indices of the others.
        tiles: slices of the outer and the inner axis, and `(g, o, i, 2 + C)`: rstd, 0 or minus infinity where masked,
            content.
    """

    call: _Call
    b: slice
    content: Sequence[int]
    lines: Sequence[int]
    tiles: Sequence[tuple[slice, slice, Tensor]]

    @staticmethod
    def of(call: _Call, b: slice) -> _Grid:
        """The samples b of a call."""
        outer, inner = call.rstd.shape[1:]
        content = [index for index, part in enumerate(call.parts) if part.shape[1] * part.shape[2] == outer * inner]
        lines = [index for index in range(len(call.parts)) if index not in content]
        count = b.stop - b.start
        per_line = count * min(call.queries.shape[1], ROWS)
        i_length = max(2, min(inner, TILE // (2 * per_line)))
        o_length = max(2, TILE // (per_line * i_length))
        planes = call.rstd.new_zeros(count, outer, inner, 2 + sum(call.parts[index].shape[-1] for index in content))
        planes[..., 0] = _samples(call.rstd, b)
        if call.mask is not None:
            # Masked tokens must not loosen the bound of the scores: padding has no variance, and so a large rstd.
            planes[..., 0].masked_fill_(~_samples(call.mask, b), 0.0)
            planes[..., 1].masked_fill_(~_samples(call.mask, b), -torch.inf)
        column = 2
        for index in content:
            part = _samples(call.parts[index], b)
            planes[..., column : column + part.shape[-1]] = part
            column += part.shape[-1]
        tiles = [(o, i, _own(planes, planes[:, o, i])) for o in _slices(outer, o_length) for i in _slices(inner, i_length)]
        return _Grid(call, b, content, lines, tiles)

    def columns(self, rows: Tensor) -> Tensor:
        """`(g, C, r)`: the channels of the content in rows `(b, r, channels)`."""
        split = rows.split(self.call.widths, dim=-1)
        taken = [split[index] for index in self.content]
        joined = torch.cat(taken, dim=-1) if taken else rows[..., :0]
        return joined.transpose(1, 2).expand(self.b.stop - self.b.start, -1, -1)

    def terms(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(g, outer, r)` and `(g, inner, r)`: what the parts along one axis or none add to products with rows."""
        outer, inner = self.call.rstd.shape[1:]
        count, split = self.b.stop - self.b.start, rows.split(self.call.widths, dim=-1)
        sums = [rows.new_zeros(count, size, rows.shape[1]) for size in (outer, inner)]
        for index in self.lines:
            part = _samples(self.call.parts[index], self.b)
            sums[int(part.shape[2] > 1)] += _products(part.flatten(1, 2), split[index])
        return sums[0], sums[1]

    def marginals(self, along: Tensor, over_outer: Tensor) -> Tensor:
        """Weighted sums of all parts `(g, r, channels)`.

        Args:
            along: `(1 + C, g, outer, r)`: sums over the inner axis of weights, and of weights times content.
            over_outer: `(g, inner, r)`: sums over the outer axis of weights.
        """
        found: list[Tensor] = [along] * len(self.call.parts)
        content = along[1:].sum(2).permute(1, 2, 0)
        widths = [self.call.widths[index] for index in self.content]
        for index, own in zip(self.content, content.split(widths, dim=-1), strict=True):
            found[index] = own
        for index in self.lines:
            part = _samples(self.call.parts[index], self.b)
            weights = over_outer if part.shape[2] > 1 else along[0]
            found[index] = _gathered(weights, part.flatten(1, 2))
        return torch.cat(found, dim=-1)

    def spread(self, grads: _Gradients, a: Tensor, g: Tensor, dt: tuple[Tensor, Tensor], w: tuple[Tensor, Tensor]) -> None:
        """Add what parts along one axis or none get from dt and w, each summed over the inner, the outer axis."""
        split_a, split_g = a.split(self.call.widths, dim=-1), g.split(self.call.widths, dim=-1)
        for index in self.lines:
            total = grads.parts[index]
            if total is not None:
                axis = int(total.shape[2] > 1)
                own_dt, own_w = dt[axis], w[axis]
                if total.shape[1] == total.shape[2] == 1:
                    own_dt, own_w = own_dt.sum(1, keepdim=True), own_w.sum(1, keepdim=True)
                own = _spread(own_dt, split_a[index]) + _spread(own_w, split_g[index])
                _add(total, self.b, own.unsqueeze(2 - axis))


def _read_grid(call: _Call) -> tuple[Tensor, Tensor]:
    batch, rows, channels = call.batch, *call.queries.shape[1:]
    sums, lse = call.queries.new_empty(batch, rows, channels), call.queries.new_empty(batch, rows)
    for b in _slices(batch, _samples_at_once(call)):
        grid = _Grid.of(call, b)
        run = call.kernel(GRID_FORWARD, grid.tiles[0][2].shape[-1] - 2)
        largest = _largest(grid)
        for r in _slices(rows, ROWS):
            queries = _samples(call.queries, b)[:, r]
            a, (outer, inner) = grid.columns(queries), grid.terms(queries)
            bound = outer.amax(1) + inner.amax(1) + a.abs().sum(1) * largest[1]
            reference = bound.clamp_(min=0) * largest[0] - HEADROOM
            own = torch.cat([a, reference[:, None]], dim=1)
            along = call.queries.new_zeros(2 + a.shape[1], *outer.shape)
            over_outer = torch.zeros_like(inner)
            for o, i, planes in grid.tiles:
                some_along, some_over = run(planes, _own(outer, outer[:, o]), _own(inner, inner[:, i]), own)
                along[:, :, o] += some_along
                over_outer[:, i] += some_over
            total = along[0].sum(1)
            lse[b, r] = reference + total.log()
            sums[b, r] = grid.marginals(along[1:], over_outer) / total[..., None]
            for sample in (~(total >= TRUSTED) & total.isfinite()).any(1).nonzero()[:, 0].tolist():
                alone = call.sample(b.start + sample)
                index = b.start + sample
                sums[index : index + 1, r], lse[index : index + 1, r] = _read(
                    replace(alone, queries=alone.queries[:, r]), on_grid=False
                )
    return sums, lse


def _largest(grid: _Grid) -> tuple[Tensor, Tensor]:
    """`(g, 1)` each: the largest rstd of the valid tokens of each sample, the largest absolute value of their content."""
    call, b, count = grid.call, grid.b, grid.b.stop - grid.b.start
    rstd = _samples(call.rstd, b)
    if call.mask is not None:
        rstd = rstd * _samples(call.mask, b)
    content = rstd.new_zeros(count)
    for index in grid.content:
        low, high = _samples(call.parts[index], b).flatten(1).aminmax(dim=1)
        content = torch.maximum(content, torch.maximum(-low, high))
    return rstd.flatten(1).amax(dim=1).expand(count)[:, None], content[:, None]


def _read_grid_backward(call: _Call, upstream: _Upstream, grads: _Gradients) -> None:
    need_content = False
    for b in _slices(call.batch, _samples_at_once(call)):
        grid = _Grid.of(call, b)
        need_content = any(grads.parts[index] is not None for index in grid.content)
        need_others = grads.rstd is not None or any(grads.parts[index] is not None for index in grid.lines)
        count = grid.tiles[0][2].shape[-1] - 2
        run = call.kernel(GRID_BACKWARD[2 if need_content else 1 if need_others else 0], count)
        for r in _slices(call.queries.shape[1], ROWS):
            queries, own_grads = _samples(call.queries, b)[:, r], upstream.grad_sums[b, r]
            terms, grad_terms = grid.terms(queries), grid.terms(own_grads)
            outer, inner = (torch.stack(pair) for pair in zip(terms, grad_terms, strict=True))
            scalars = torch.stack([upstream.lse[b, r], upstream.delta[b, r]], dim=1)
            own = torch.cat([grid.columns(queries), grid.columns(own_grads), scalars], dim=1)
            along, over_outer = call.queries.new_zeros(1 + count, *outer.shape[1:]), torch.zeros_like(inner[0])
            w_along, w_over_outer = torch.zeros_like(outer[0]), torch.zeros_like(inner[0])
            for o, i, planes in grid.tiles:
                found = run(planes, _own(outer, outer[:, :, o]), _own(inner, inner[:, :, i]), own)
                along[:, :, o] += found[0]
                over_outer[:, i] += found[1]
                if need_others or need_content:
                    w_along[:, o] += found[2]
                    w_over_outer[:, i] += found[3]
                    if grads.rstd is not None:
                        _add(grads.rstd, b, found[4], o, i)
                if need_content:
                    split = found[5].split([call.widths[index] for index in grid.content], dim=-1)
                    for index, grad in zip(grid.content, split, strict=True):
                        total = grads.parts[index]
                        if total is not None:
                            _add(total, b, grad, o, i)
            if grads.queries is not None:
                _add(grads.queries, b, grid.marginals(along, over_outer), r)
            if need_others or need_content:
                grid.spread(grads, queries, own_grads, (along[0], over_outer), (w_along, w_over_outer))


def _samples_at_once(call: _Call) -> int:
    outer, inner = call.rstd.shape[1:]
    return max(2, TILE // (min(call.queries.shape[1], ROWS) * outer * inner))


# ------------------------------------------------------------------------------------------------ lines


def _read_line(call: _Call) -> tuple[Tensor, Tensor]:
    batch, rows, channels = call.batch, *call.queries.shape[1:]
    sums, lse = call.queries.new_empty(batch, rows, channels), call.queries.new_empty(batch, rows)
    run = call.kernel(LINE_FORWARD)
    for b in _slices(batch, _samples_at_once(call)):
        tiles = list(_line_tiles(call, b))
        for r in _slices(rows, ROWS):
            line = _Line.of(call, b, _samples(call.queries, b)[:, r])
            count, own_rows = b.stop - b.start, r.stop - r.start
            top = call.queries.new_full((count, own_rows), torch.finfo(call.queries.dtype).min)
            total, gathered = torch.zeros_like(top), call.queries.new_zeros(count, own_rows, channels)
            for o, i, planes in tiles:
                w, some, new_top = run(line.products(o, i), planes, top)
                shrink = (top - new_top).exp_()
                total = total * shrink + some
                gathered = gathered * shrink[..., None] + line.gathered(w, o, i)
                top = new_top
            lse[b, r] = top + total.log()
            sums[b, r] = gathered / total.masked_fill(total == 0, 1.0)[..., None]
    return sums, lse


def _read_line_backward(call: _Call, upstream: _Upstream, grads: _Gradients) -> None:
    run = call.kernel(LINE_BACKWARD)
    for b in _slices(call.batch, _samples_at_once(call)):
        tiles = list(_line_tiles(call, b))
        for r in _slices(call.queries.shape[1], ROWS):
            queries, own_grads = _samples(call.queries, b)[:, r], upstream.grad_sums[b, r]
            line, grad_line = _Line.of(call, b, queries), _Line.of(call, b, own_grads)
            scalars = torch.stack([upstream.lse[b, r], upstream.delta[b, r]], dim=1)
            for o, i, planes in tiles:
                dt, w, rstd_grad = run(line.products(o, i), grad_line.products(o, i), planes, scalars)
                if grads.queries is not None:
                    _add(grads.queries, b, line.gathered(dt, o, i), r)
                if grads.rstd is not None:
                    size = (rstd_grad.shape[0], o.stop - o.start, i.stop - i.start)
                    _add(grads.rstd, b, rstd_grad.reshape(size), o, i)
                for index, total in enumerate(grads.parts):
                    if total is not None:
                        own = line.spread(index, dt, o, i) + grad_line.spread(index, w, o, i)
                        _add(total, b, own, *_within(total, o, i))


def _line_tiles(call: _Call, b: slice) -> Iterator[tuple[slice, slice, Tensor]]:
    """Slices of the outer and the inner axis, and `(g, n, 2)` of their tokens: rstd, 0 or minus infinity where masked."""
    outer, inner = call.rstd.shape[1:]
    count = b.stop - b.start
    tokens = max(2, TILE // (count * min(call.queries.shape[1], ROWS)))
    i_length = min(inner, tokens)
    rstd = _samples(call.rstd, b).expand(count, -1, -1)
    bias = torch.zeros_like(rstd)
    if call.mask is not None:
        bias = bias.masked_fill(~_samples(call.mask, b), -torch.inf)
    for o in _slices(outer, max(1, tokens // i_length)):
        for i in _slices(inner, i_length):
            yield o, i, torch.stack([rstd[:, o, i].flatten(1), bias[:, o, i].flatten(1)], dim=-1)


@dataclass(frozen=True, eq=False)
class _Line:
    """Products of some rows of some samples with tokens, tile by tile.

    Args:
        parts: parts of the samples `(b or 1, outer or 1, inner or 1, c)`.
        rows: the rows, part by part, `(b or 1, r, c)`.
        terms: products with parts that vary along one axis or none `(b or 1, outer or 1, inner or 1, r)`, None for others.
        samples: g.
    """

    parts: Sequence[Tensor]
    rows: Sequence[Tensor]
    terms: Sequence[Tensor | None]
    samples: int

    @staticmethod
    def of(call: _Call, b: slice, rows: Tensor) -> _Line:
        """Rows `(b or 1, r, channels)` and the samples b of a call."""
        parts = [_samples(part, b) for part in call.parts]
        split = rows.split(call.widths, dim=-1)
        size = call.rstd.shape[1] * call.rstd.shape[2]
        terms = []
        for part, own in zip(parts, split, strict=True):
            small = part.shape[1] * part.shape[2] < size
            terms.append(_products(part.flatten(1, 2), own).unflatten(1, part.shape[1:3]) if small else None)
        return _Line(parts, split, terms, b.stop - b.start)

    def products(self, o: slice, i: slice) -> Tensor:
        """All parts times rows `(g, n, r)`, a tensor of its own."""
        lengths = (o.stop - o.start, i.stop - i.start)
        flat = self.rows[0].new_zeros(self.samples, lengths[0] * lengths[1], self.rows[0].shape[1])
        total = flat.unflatten(1, lengths)
        for part, rows, term in zip(self.parts, self.rows, self.terms, strict=True):
            if term is None:
                own = part[:, o, i]
                total += _products(own.flatten(1, 2), rows).unflatten(1, lengths)
            else:
                total += _tile(term, o, i)
        return flat

    def gathered(self, weights: Tensor, o: slice, i: slice) -> Tensor:
        """Sums over the tile's tokens of weights `(g, n, r)` times parts: `(g, r, channels)`."""
        grid = weights.unflatten(1, (o.stop - o.start, i.stop - i.start))
        return torch.cat([_gathered(_summed(grid, part), _tile(part, o, i).flatten(1, 2)) for part in self.parts], dim=-1)

    def spread(self, index: int, weights: Tensor, o: slice, i: slice) -> Tensor:
        """Sums over rows of weights `(g, n, r)` times rows, at the shape of a part's tile: `(g, o or 1, i or 1, c)`."""
        part = self.parts[index]
        grid = weights.unflatten(1, (o.stop - o.start, i.stop - i.start))
        own: Tensor = _spread(_summed(grid, part), self.rows[index]).unflatten(1, _tile(part, o, i).shape[1:3])
        return own


def _summed(weights: Tensor, part: Tensor) -> Tensor:
    """Weights `(g, o, i, r)` summed over the axes along which a part is constant, flat: `(g, o or 1 * i or 1, r)`."""
    axes = [axis for axis in (1, 2) if part.shape[axis] == 1 and weights.shape[axis] > 1]
    if axes:
        weights = weights.sum(dim=axes, keepdim=True)
    return weights.flatten(1, 2)


# ------------------------------------------------------------------------------------------------ both


def _slices(total: int, most: int) -> list[slice]:
    """Slices of at most `most` (by one more where the last would be of size 1, unless there is no other)."""
    edges = [*range(0, total, most), total]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1 and most > 1:
        del edges[-2]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _own(x: Tensor, some: Tensor) -> Tensor:
    """Some of x as a contiguous tensor of its own; torch compiles anew for a view, since it looks at what it views."""
    return x if some.shape == x.shape else some.clone(memory_format=torch.contiguous_format)


def _samples(x: Tensor, b: slice) -> Tensor:
    return x if x.shape[0] == 1 else x[b]


def _within(x: Tensor, o: slice, i: slice) -> tuple[slice, slice]:
    """The slices for something that may be constant along these axes."""
    return (o if x.shape[1] > 1 else slice(None)), (i if x.shape[2] > 1 else slice(None))


def _tile(x: Tensor, o: slice, i: slice) -> Tensor:
    return x[(slice(None), *_within(x, o, i))]


def _products(x: Tensor, rows: Tensor) -> Tensor:
    """`(b or 1, n, c)` times `(b or 1, r, c)` -> `(b or 1, n, r)`."""
    product: Tensor = x @ (rows[0].T if rows.shape[0] == 1 else rows.transpose(1, 2))
    return product


def _gathered(weights: Tensor, x: Tensor) -> Tensor:
    """`(g, n, r)` and `(b or 1, n or 1, c)` -> `(g, r, c)`; weights are summed over tokens for a constant part."""
    if x.shape[1] == 1 < weights.shape[1]:
        weights = weights.sum(1, keepdim=True)
    product: Tensor = weights.transpose(1, 2) @ x
    return product


def _spread(weights: Tensor, rows: Tensor) -> Tensor:
    """`(g, n, r)` and `(b or 1, r, c)` -> `(g, n, c)`."""
    product: Tensor = weights @ (rows[0] if rows.shape[0] == 1 else rows)
    return product


def _add(total: Tensor, b: slice, some: Tensor, *places: slice) -> None:
    """Add what belongs to the samples b, at these places of the next axes."""
    if total.shape[0] == 1:
        total[(slice(None), *places)] += some.sum(dim=0, keepdim=True)
    else:
        total[(b, *places)] += some
