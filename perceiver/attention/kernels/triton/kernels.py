"""The arithmetic of the inner function on a GPU: forward and backward of a tile of rows and tokens, and a merge.

A program handles BR query rows and a chunk of lines of BI tokens. Scores are a term of the line, a term of the position on
the line, and content: either NARROW channels, unrolled, or WIDE channels in matrix products of BC channels. Sums over the
tokens of a program stay two-dimensional in registers and are reduced once at its end; only sums over a line cross threads
in the loop. No program adds to another's results, so that every result is the same in every run. Letters of the shapes:
b samples, o lines, i positions on a line, r rows; an array's last axis is contiguous. See read_tokens in eager.py for the
mathematics.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(-1e30)
# A row's reference is updated only if a score exceeds it by this much (log2 units); float32 has room for larger weights.
GROWTH = tl.constexpr(14.0)


VARYING = (
    *("O", "I", "N", "S", "pieces", "lines", "chunks", "groups", "group_blocks"),
    *("row_blocks", "channel_blocks", "inner_blocks", "tokens_stride", "narrow_stride", "rstd_stride", "mask_stride"),
)
"""Arguments for whose values, such as 1 or multiples of 16, no kernel of its own is compiled."""


def jit(function: Callable[..., Any]) -> Any:
    """Make a function a kernel, without the checks of types that import hooks wrap around it."""
    function = inspect.unwrap(function)
    varying = [name for name in inspect.signature(function).parameters if name in VARYING]
    return triton.jit(function, do_not_specialize=varying)


@jit
def _zeros(COUNT: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.zeros([BR, BI], tl.float32),)
    return tiles


@jit
def _scaled(tiles, factor, COUNT: tl.constexpr):
    scaled = ()
    for c in tl.static_range(COUNT):
        scaled = scaled + (tiles[c] * factor,)
    return scaled


@jit
def _row_values(pointer, r, R, COUNT: tl.constexpr):
    """COUNT vectors of rows from an array (COUNT, r)."""
    values = ()
    for c in tl.static_range(COUNT):
        values = values + (tl.load(pointer + c * R + r, mask=r < R, other=0.0),)
    return values


@jit
def _token_values(pointer, tokens, valid, COUNT: tl.constexpr):
    """COUNT vectors of tokens from an array (token, COUNT); zero if masked."""
    values = ()
    for c in tl.static_range(COUNT):
        values = values + (tl.load(pointer + tokens * COUNT + c, mask=valid, other=0.0).to(tl.float32),)
    return values


@jit
def _add_narrow(scores, rows, values, COUNT: tl.constexpr):
    for c in tl.static_range(COUNT):
        scores += rows[c][:, None] * values[c][None, :]
    return scores


@jit
def _wide_values(pointer, tokens, valid, c, WIDE: tl.constexpr):
    """Channels c of tokens from an array (token, WIDE), tokens down; zero if masked."""
    place = tokens.to(tl.int64)[:, None] * WIDE + c[None, :]
    return tl.load(pointer + place, mask=valid[:, None] & (c < WIDE)[None, :], other=0.0).to(tl.float32)


@jit
def _wide_rows(pointer, r, R, c, WIDE: tl.constexpr):
    """Channels c of rows from an array (r, WIDE), rows down."""
    return tl.load(pointer + r[:, None] * WIDE + c[None, :], mask=(r < R)[:, None] & (c < WIDE)[None, :], other=0.0)


@jit
def _add_wide(scores, rows, wide, r, R, tokens, valid, WIDE: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr):
    """Add the products of rows (r, WIDE) and tokens (token, WIDE)."""
    for start in range(0, WIDE, BC):
        c = start + tl.arange(0, BC)
        own = tl.trans(_wide_values(wide, tokens, valid, c, WIDE))
        scores = tl.dot(_wide_rows(rows, r, R, c, WIDE), own, acc=scores, input_precision=PRECISION)
    return scores


@jit
def _valid(mask, tokens, i, I, N, HAS_MASK: tl.constexpr):
    """Whether a position lies on the line and the grid, and its token is valid."""
    valid = (i < I) & (tokens < N)
    if HAS_MASK:
        valid = valid & (tl.load(mask + tokens, mask=valid, other=0) != 0)
    return valid


@jit
def forward(
    # Inputs, float32 unless noted: (b, o or 1, r), (b, i, r), (b, NARROW, r), (b, r, WIDE), (b, token, NARROW) and
    # (b, token, WIDE) of any floating type, (b, token), (b, token) of bytes.
    outer_terms, inner_terms, narrow_rows, wide_rows, narrow, wide, rstd, mask,
    # Strides between samples, 0 for shared arrays; stride between lines of outer_terms.
    outer_terms_stride, inner_terms_stride, narrow_rows_stride, wide_rows_stride, narrow_stride, wide_stride, rstd_stride,
    mask_stride, line_stride,
    # Outputs; a piece is a chunk and a block of positions. (b, piece, r) twice, (b, block of positions, o, r) twice,
    # (b, chunk, i, r), (b, piece, NARROW, r), (b, piece, r, WIDE).
    totals, references, outer_sums, outer_references, inner_sums, narrow_sums, wide_sums,
    R, O, I, N, row_blocks, channel_blocks, inner_blocks, chunks, lines,
    NARROW: tl.constexpr, WIDE: tl.constexpr, HAS_OUTER: tl.constexpr, HAS_INNER: tl.constexpr, HAS_MASK: tl.constexpr,
    NEED_OUTER: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr, BC: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights of a tile relative to its rows' references, and their sums; lines is the number of lines per chunk."""
    program = tl.program_id(0)
    row_block, program = program % row_blocks, program // row_blocks
    channel_block, program = program % channel_blocks, program // channel_blocks
    inner_block, program = program % inner_blocks, program // inner_blocks
    chunk, sample = program % chunks, (program // chunks).to(tl.int64)
    r = row_block * BR + tl.arange(0, BR)
    i = inner_block * BI + tl.arange(0, BI)
    outer_terms += sample * outer_terms_stride
    narrow_rows += sample * narrow_rows_stride
    wide_rows += sample * wide_rows_stride
    narrow += sample * narrow_stride
    wide += sample * wide_stride
    rstd += sample * rstd_stride
    mask += sample * mask_stride
    in_tile = (r < R)[:, None] & (i < I)[None, :]
    if HAS_INNER:
        inner_terms += sample * inner_terms_stride
        inner_term = tl.load(inner_terms + i[None, :] * R + r[:, None], mask=in_tile, other=0.0)
        weights = tl.zeros([BR, BI], tl.float32)
    rows = _row_values(narrow_rows, r, R, NARROW)
    reference = tl.full([BR], NEVER, tl.float32)
    total = tl.zeros([BR, BI], tl.float32)
    narrow_total = _zeros(NARROW, BR, BI)
    if WIDE > 0:
        v = channel_block * BV + tl.arange(0, BV)
        wide_total = tl.zeros([BR, BV], tl.float32)
    line_place = (sample * inner_blocks + inner_block) * O
    for o in range(chunk * lines, tl.minimum((chunk + 1) * lines, O)):
        tokens = o * I + i
        valid = _valid(mask, tokens, i, I, N, HAS_MASK)
        scale = tl.load(rstd + tokens, mask=valid, other=0.0)
        values = _token_values(narrow, tokens, valid, NARROW)
        if HAS_INNER:
            scores = inner_term
        else:
            scores = tl.zeros([BR, BI], tl.float32)
        if HAS_OUTER:
            scores += tl.load(outer_terms + o * line_stride + r, mask=r < R, other=0.0)[:, None]
        scores = _add_narrow(scores, rows, values, NARROW)
        if WIDE > 0:
            scores = _add_wide(scores, wide_rows, wide, r, R, tokens, valid, WIDE, BC, PRECISION)
        scores = tl.where(valid[None, :], scores * scale[None, :], float("-inf"))
        top = tl.max(scores, axis=1)
        grown = top > reference + GROWTH
        if tl.max(grown.to(tl.int32), axis=0) > 0:
            new = tl.where(grown, top, reference)
            factor = tl.exp2(reference - new)[:, None]
            reference = new
            total *= factor
            if HAS_INNER:
                weights *= factor
            narrow_total = _scaled(narrow_total, factor, NARROW)
            if WIDE > 0:
                wide_total *= factor
        p = tl.exp2(scores - reference[:, None])
        w = p * scale[None, :]
        total += p
        if HAS_INNER:
            weights += w
        added = ()
        for c in tl.static_range(NARROW):
            added = added + (narrow_total[c] + w * values[c][None, :],)
        narrow_total = added
        if WIDE > 0:
            own = _wide_values(wide, tokens, valid, v, WIDE)
            wide_total = tl.dot(w, own, acc=wide_total, input_precision=PRECISION)
        if NEED_OUTER:
            if channel_block == 0:
                place = (line_place + o) * R + r
                tl.store(outer_sums + place, tl.sum(w, axis=1), mask=r < R)
                tl.store(outer_references + place, reference, mask=r < R)
    piece = (sample * chunks + chunk) * inner_blocks + inner_block
    if channel_block == 0:
        tl.store(totals + piece * R + r, tl.sum(total, axis=1), mask=r < R)
        tl.store(references + piece * R + r, reference, mask=r < R)
        if HAS_INNER:
            place = ((sample * chunks + chunk) * I + i[None, :]) * R + r[:, None]
            tl.store(inner_sums + place, weights, mask=in_tile)
        for c in tl.static_range(NARROW):
            tl.store(narrow_sums + (piece * NARROW + c) * R + r, tl.sum(narrow_total[c], axis=1), mask=r < R)
    if WIDE > 0:
        place = (piece * R + r[:, None]) * WIDE + v[None, :]
        tl.store(wide_sums + place, wide_total, mask=(r < R)[:, None] & (v < WIDE)[None, :])


@jit
def merge(
    # (b, s, n, r); references (b, s, n, r) or, with BLOCK positions per piece, (b, s, piece, r); (b, r); (b, n, r).
    parts, references, lse, merged,
    R, S, N, pieces, row_blocks,
    BLOCK: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Add the S partial sums of each of N positions, each relative to a reference of its own, relative to lse."""
    program = tl.program_id(0)
    row_block, program = program % row_blocks, program // row_blocks
    blocks = tl.cdiv(N, BN)
    block, sample = program % blocks, (program // blocks).to(tl.int64)
    r = row_block * BR + tl.arange(0, BR)
    n = block * BN + tl.arange(0, BN)
    inside = (n < N)[:, None] & (r < R)[None, :]
    end = tl.load(lse + sample * R + r, mask=r < R, other=0.0)
    total = tl.zeros([BN, BR], tl.float32)
    for s in range(S):
        part = tl.load(parts + ((sample * S + s) * N + n[:, None]) * R + r[None, :], mask=inside, other=0.0)
        place = ((sample * S + s) * pieces + n[:, None] // BLOCK) * R + r[None, :]
        reference = tl.load(references + place, mask=inside, other=NEVER)
        total += part * tl.exp2(reference - end[None, :])
    tl.store(merged + (sample * N + n[:, None]) * R + r[None, :], total, mask=inside)


@jit
def backward(
    # As in forward; terms, rows of the queries (log2 units) and of the gradients.
    outer_terms, inner_terms, narrow_rows, wide_rows,
    outer_grad_terms, inner_grad_terms, narrow_grad_rows, wide_grad_rows,
    narrow, wide, rstd, mask, lse, delta,
    outer_terms_stride, inner_terms_stride, narrow_rows_stride, wide_rows_stride,
    outer_grad_terms_stride, inner_grad_terms_stride, narrow_grad_rows_stride, wide_grad_rows_stride,
    narrow_stride, wide_stride, rstd_stride, mask_stride, line_stride,
    # Sums of dt: (b, block of positions, o, r), (b, chunk, i, r), (b, piece, NARROW, r), (b, piece, r, WIDE).
    outer_dt, inner_dt, narrow_dt, wide_dt,
    # Sums of w, like outer_dt and inner_dt. Gradients by groups of rows: (b, group, token) and, of content, (…, channels).
    outer_weights, inner_weights, rstd_grad, narrow_grad, wide_grad,
    R, O, I, N, groups, group_blocks, channel_blocks, inner_blocks, chunks, lines, tokens_stride,
    NARROW: tl.constexpr, WIDE: tl.constexpr, HAS_OUTER: tl.constexpr, HAS_INNER: tl.constexpr, HAS_MASK: tl.constexpr,
    NEED_OUTER: tl.constexpr, LEVEL: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr, BC: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile for a group of blocks of rows.

    LEVEL 0: sums for the queries' gradients; 1: also for parts that are constant along an axis, and rstd; 2: also content.
    """
    program = tl.program_id(0)
    group, program = program % groups, program // groups
    channel_block, program = program % channel_blocks, program // channel_blocks
    inner_block, program = program % inner_blocks, program // inner_blocks
    chunk, sample = program % chunks, (program // chunks).to(tl.int64)
    i = inner_block * BI + tl.arange(0, BI)
    outer_terms += sample * outer_terms_stride
    inner_terms += sample * inner_terms_stride
    narrow_rows += sample * narrow_rows_stride
    wide_rows += sample * wide_rows_stride
    outer_grad_terms += sample * outer_grad_terms_stride
    inner_grad_terms += sample * inner_grad_terms_stride
    narrow_grad_rows += sample * narrow_grad_rows_stride
    wide_grad_rows += sample * wide_grad_rows_stride
    narrow += sample * narrow_stride
    wide += sample * wide_stride
    rstd += sample * rstd_stride
    mask += sample * mask_stride
    piece = (sample * chunks + chunk) * inner_blocks + inner_block
    line_place = (sample * inner_blocks + inner_block) * O
    own_tokens = (sample * groups + group) * tokens_stride
    if WIDE > 0:
        v = channel_block * BV + tl.arange(0, BV)
        in_channels = v < WIDE
    for number in range(group_blocks):
        r = (group * group_blocks + number) * BR + tl.arange(0, BR)
        in_tile = (r < R)[:, None] & (i < I)[None, :]
        if HAS_INNER:
            inner_term = tl.load(inner_terms + i[None, :] * R + r[:, None], mask=in_tile, other=0.0)
            inner_grad_term = tl.load(inner_grad_terms + i[None, :] * R + r[:, None], mask=in_tile, other=0.0)
            inner_dt_total = tl.zeros([BR, BI], tl.float32)
            if LEVEL >= 1:
                inner_weights_total = tl.zeros([BR, BI], tl.float32)
        rows = _row_values(narrow_rows, r, R, NARROW)
        grad_rows = _row_values(narrow_grad_rows, r, R, NARROW)
        # Missing rows have weight zero, as have rows without a valid token.
        own_lse = tl.load(lse + sample * R + r, mask=r < R, other=-NEVER)
        own_delta = tl.load(delta + sample * R + r, mask=r < R, other=0.0)
        narrow_total = _zeros(NARROW, BR, BI)
        if WIDE > 0:
            wide_total = tl.zeros([BR, BV], tl.float32)
        for o in range(chunk * lines, tl.minimum((chunk + 1) * lines, O)):
            tokens = o * I + i
            valid = _valid(mask, tokens, i, I, N, HAS_MASK)
            scale = tl.load(rstd + tokens, mask=valid, other=0.0)
            values = _token_values(narrow, tokens, valid, NARROW)
            if HAS_INNER:
                t, dw = inner_term, inner_grad_term
            else:
                t, dw = tl.zeros([BR, BI], tl.float32), tl.zeros([BR, BI], tl.float32)
            if HAS_OUTER:
                t += tl.load(outer_terms + o * line_stride + r, mask=r < R, other=0.0)[:, None]
                dw += tl.load(outer_grad_terms + o * line_stride + r, mask=r < R, other=0.0)[:, None]
            t = _add_narrow(t, rows, values, NARROW)
            dw = _add_narrow(dw, grad_rows, values, NARROW)
            if WIDE > 0:
                t = _add_wide(t, wide_rows, wide, r, R, tokens, valid, WIDE, BC, PRECISION)
                dw = _add_wide(dw, wide_grad_rows, wide, r, R, tokens, valid, WIDE, BC, PRECISION)
            p = tl.exp2(tl.where(valid[None, :], t * scale[None, :] - own_lse[:, None], float("-inf")))
            ds = p * (dw * scale[None, :] - own_delta[:, None])
            dt = ds * scale[None, :]
            if HAS_INNER:
                inner_dt_total += dt
            added = ()
            for c in tl.static_range(NARROW):
                added = added + (narrow_total[c] + dt * values[c][None, :],)
            narrow_total = added
            place = (line_place + o) * R + r
            if NEED_OUTER:
                if channel_block == 0:
                    tl.store(outer_dt + place, tl.sum(dt, axis=1), mask=r < R)
            if WIDE > 0:
                own = _wide_values(wide, tokens, valid, v, WIDE)
                wide_total = tl.dot(dt, own, acc=wide_total, input_precision=PRECISION)
            if LEVEL >= 1:
                w = p * scale[None, :]
                if HAS_INNER:
                    inner_weights_total += w
                if channel_block == 0:
                    if NEED_OUTER:
                        tl.store(outer_weights + place, tl.sum(w, axis=1), mask=r < R)
                    own_rstd = rstd_grad + own_tokens + tokens
                    earlier = tl.load(own_rstd, mask=valid & (number > 0), other=0.0)
                    tl.store(own_rstd, earlier + tl.sum(ds * (t * LN2) + p * dw, axis=0), mask=valid)
            if LEVEL >= 2:
                if channel_block == 0:
                    for c in tl.static_range(NARROW):
                        own_narrow = narrow_grad + (own_tokens + tokens) * NARROW + c
                        grad = tl.sum(dt * (rows[c] * LN2)[:, None] + w * grad_rows[c][:, None], axis=0)
                        earlier = tl.load(own_narrow, mask=valid & (number > 0), other=0.0)
                        tl.store(own_narrow, earlier + grad, mask=valid)
                if WIDE > 0:
                    own_wide = wide_grad + (own_tokens + tokens[:, None]) * WIDE + v[None, :]
                    in_tokens = valid[:, None] & in_channels[None, :]
                    grad = tl.load(own_wide, mask=in_tokens & (number > 0), other=0.0)
                    a = _wide_rows(wide_rows, r, R, v, WIDE) * LN2
                    g = _wide_rows(wide_grad_rows, r, R, v, WIDE)
                    grad = tl.dot(tl.trans(dt), a, acc=grad, input_precision=PRECISION)
                    grad = tl.dot(tl.trans(w), g, acc=grad, input_precision=PRECISION)
                    tl.store(own_wide, grad, mask=in_tokens)
        if channel_block == 0:
            if HAS_INNER:
                place = ((sample * chunks + chunk) * I + i[None, :]) * R + r[:, None]
                tl.store(inner_dt + place, inner_dt_total, mask=in_tile)
                if LEVEL >= 1:
                    tl.store(inner_weights + place, inner_weights_total, mask=in_tile)
            for c in tl.static_range(NARROW):
                tl.store(narrow_dt + (piece * NARROW + c) * R + r, tl.sum(narrow_total[c], axis=1), mask=r < R)
        if WIDE > 0:
            place = (piece * R + r[:, None]) * WIDE + v[None, :]
            tl.store(wide_dt + place, wide_total, mask=(r < R)[:, None] & in_channels[None, :])
        if LEVEL >= 1:
            # The next block of rows adds to what other threads of this program have stored.
            tl.debug_barrier()
