"""A small cost model that picks the cheapest form of cross-attention from shapes alone.

The time of a form is a sum of counts that follow from shapes, each with a cost in nanoseconds. The costs were fitted to
timings of a few hundred random shapes on one x86 core with AVX-512 in float32 (`benchmarks/sweep.py` checks the choices).
Other processors differ by a factor that is similar for all forms, and the choice depends on ratios only. The costs of
compiled code are rougher, because each shape takes seconds to compile: on the cases of `benchmarks/attention.py` they gave
0.67 to 1.34 times the measured time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from torch import Tensor

from perceiver.attention.kernels.native.task import MOST_CONTENT
from perceiver.tokens import Tokens

Form: TypeAlias = Literal["dense", "absorbed", "factored"]
Counts: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Costs:
    """Nanoseconds per count, for a forward pass alone and for forward and backward together."""

    forward: Counts
    training: Counts


DENSE = Costs(
    forward={"calls": 190e3, "products": 0.021, "elements": 0.71, "attended": 0.026, "scores": 0.93, "heads": 1600},
    training={"calls": 330e3, "products": 0.069, "elements": 2.0, "attended": 0.087, "scores": 2.9, "heads": 4100},
)
ABSORBED = Costs(
    forward={"calls": 270e3, "products": 0.031, "elements": 2.5, "attended": 0.022, "scores": 0.96, "heads": 5800},
    training={"calls": 590e3, "products": 0.095, "elements": 3.5, "attended": 0.084, "scores": 1.8, "heads": 12e3},
)
FACTORED = {
    "native": Costs(
        forward={
            "calls": 500e3,
            "products": 0.029,
            "scores": 0.05,
            "narrow": 0.07,
            "wide": 0.046,
            "lines": 8.6,
            "elements": 1.9,
            "marginals": 0.11,
        },
        training={
            "calls": 1000e3,
            "products": 0.087,
            "scores": 0.14,
            "narrow": 0.22,
            "wide": 0.11,
            "learned": 0.09,
            "lines": 11,
            "elements": 2.5,
            "marginals": 0.29,
        },
    ),
    "compiled": Costs(
        forward={
            "calls": 900e3,
            "products": 0.029,
            "scores": 0.4,
            "narrow": 0.15,
            "wide": 0.06,
            "lines": 20,
            "elements": 2.0,
            "marginals": 0.18,
        },
        training={
            "calls": 2000e3,
            "products": 0.087,
            "scores": 1.0,
            "narrow": 0.4,
            "wide": 0.16,
            "learned": 0.05,
            "lines": 60,
            "elements": 3.4,
            "marginals": 0.55,
        },
    ),
    "eager": Costs(
        forward={
            "calls": 680e3,
            "products": 0.027,
            "scores": 1.6,
            "narrow": 0.6,
            "wide": 0.061,
            "lines": 21,
            "elements": 2.0,
            "marginals": 0.18,
        },
        training={
            "calls": 1500e3,
            "products": 0.086,
            "scores": 4.3,
            "narrow": 1.4,
            "wide": 0.16,
            "learned": 0.05,
            "lines": 88,
            "elements": 3.4,
            "marginals": 0.55,
        },
    ),
}
"""Costs of the factored form by implementation of its inner function."""

ROWS_AT_A_TIME = {"native": 32, "compiled": 1, "eager": 1}
"""Rows per block: native code takes as long for a partial block as for a full one."""


@dataclass(frozen=True)
class Shapes:
    """The shapes that determine the cost of a cross-attention.

    Args:
        blocks: tokens of all modalities.
        num_queries: N.
        num_heads: h.
        qk_channels: width of queries and keys, all heads together.
        v_channels: width of the values, all heads together.
        training: whether a backward pass will follow.
    """

    blocks: Sequence[Tokens]
    num_queries: int
    num_heads: int
    qk_channels: int
    v_channels: int
    training: bool


def cheapest_form(shapes: Shapes, *, implementation: str, forms: Sequence[Form] = ("dense", "absorbed", "factored")) -> Form:
    """Return the form in `forms` with the least expected time.

    Args:
        implementation: the implementation of the factored form's inner function that would run, a key of `FACTORED`.
    """
    return min(forms, key=lambda form: expected_nanoseconds(shapes, form, implementation=implementation))


def expected_nanoseconds(shapes: Shapes, form: Form, *, implementation: str) -> float:
    """Return the expected time of a form on one core; on other machines only the ratios between forms are meaningful."""
    if form == "factored":
        counts, costs = factored_counts(shapes, rows_at_a_time=ROWS_AT_A_TIME[implementation]), FACTORED[implementation]
    elif form == "absorbed":
        counts, costs = absorbed_counts(shapes), ABSORBED
    else:
        counts, costs = dense_counts(shapes), DENSE
    cost = costs.training if shapes.training else costs.forward
    return sum(cost.get(name, 0.0) * count for name, count in counts.items())


def dense_counts(shapes: Shapes) -> Counts:
    """Return the counts of the dense form: keys and values of every token, then SDPA."""
    batch, tokens, channels = _extent(shapes)
    width = _up(max(shapes.qk_channels, shapes.v_channels) // shapes.num_heads, 8) * shapes.num_heads
    return {
        "calls": 1,
        "products": batch * tokens * channels * 2 * width,
        "elements": batch * tokens * (channels + 2 * width),
        "attended": batch * tokens * shapes.num_queries * 2 * width,
        "scores": batch * tokens * shapes.num_queries * shapes.num_heads,
        "heads": batch * shapes.num_heads,
    }


def absorbed_counts(shapes: Shapes) -> Counts:
    """Return the counts of the absorbed form: only queries and read-outs are projected; heads attend to whole tokens."""
    batch, tokens, channels = _extent(shapes)
    scores = batch * tokens * shapes.num_queries * shapes.num_heads
    return {
        "calls": 1,
        "products": _around(shapes, batch, channels),
        "elements": batch * tokens * channels,
        "attended": scores * 2 * _up(channels, 8),
        "scores": scores,
        "heads": batch,
    }


def factored_counts(shapes: Shapes, *, rows_at_a_time: int) -> Counts:
    """Return counts of the factored form: scores, channels of parts at their shape; rows are queries of all heads."""
    batch, _, channels = _extent(shapes)
    rows = _up(shapes.num_heads * shapes.num_queries, rows_at_a_time)
    counts: Counts = {"calls": len(shapes.blocks), "products": _around(shapes, batch, channels)}

    def add(name: str, count: float) -> None:
        counts[name] = counts.get(name, 0.0) + count

    for block in shapes.blocks:
        tokens, inner = block.num_tokens, block.grid[-1]
        scores = batch * tokens * rows
        full = sorted((part for part in block.parts if prod(part.shape[1:-1]) == tokens), key=lambda part: part.shape[-1])
        others = [part for part in block.parts if prod(part.shape[1:-1]) != tokens]
        narrow = wide = learned = 0
        for part in full:
            width = part.shape[-1]
            if narrow + width <= MOST_CONTENT:
                narrow += width
            else:
                wide += width
            learned += width * part.requires_grad
        add("scores", scores)
        add("narrow", scores * narrow)
        add("wide", scores * wide)
        add("learned", scores * learned)
        add("lines", batch * rows * tokens / inner)
        add("elements", batch * tokens * (1 + narrow + wide))
        add("marginals", batch * rows * sum(_collapsed(part, block) * part.shape[-1] for part in others))
    return counts


def _extent(shapes: Shapes) -> tuple[int, int, int]:
    """Return B, the number of tokens of all blocks together, and C."""
    blocks = shapes.blocks
    return max(block.batch for block in blocks), sum(block.num_tokens for block in blocks), blocks[0].channels


def _around(shapes: Shapes, batch: int, channels: int) -> float:
    """Multiply-adds of the products that absorb the projections into queries and read-outs."""
    return shapes.num_queries * channels * (shapes.qk_channels + batch * shapes.v_channels)


def _collapsed(part: Tensor, block: Tokens) -> int:
    """Return the number of elements of a part on the outer x inner grid to which the factored form collapses it."""
    outer = prod(block.grid[:-1]) if any(size != 1 for size in part.shape[1:-2]) else 1
    return outer * int(part.shape[-2])


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
