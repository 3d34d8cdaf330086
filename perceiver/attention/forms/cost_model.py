"""A small cost model that picks the cheapest form of cross-attention from shapes alone.

The time of a form is a sum of counts that follow from shapes, each with a cost in nanoseconds on the tokens' kind of device.
The choice depends on ratios of costs only.

- CPU: fitted to timings of a few hundred random shapes on one x86 core with AVX-512 in float32 (`benchmarks/sweep.py` checks
  the choices). Other processors differ by a factor that is similar for all forms.
- CUDA: not measured. Derived from the peak rates of one GPU (`GPU`), until `benchmarks/gpu.py` has been run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from perceiver.attention.kernels.native.task import MOST_CONTENT
from perceiver.tokens.tokens import Tokens

Form: TypeAlias = Literal["dense", "absorbed", "factored"]
Counts: TypeAlias = dict[str, float]
Products: TypeAlias = Literal["float32", "tf32", "half"]


@dataclass(frozen=True)
class Costs:
    """Nanoseconds per count, for a forward pass alone and for forward and backward together."""

    forward: Counts
    training: Counts


CPU_DENSE = Costs(
    forward={"calls": 190e3, "products": 0.021, "elements": 0.71, "attended": 0.026, "scores": 0.93, "heads": 1600},
    training={"calls": 330e3, "products": 0.069, "elements": 2.0, "attended": 0.087, "scores": 2.9, "heads": 4100},
)
CPU_ABSORBED = Costs(
    forward={"calls": 270e3, "products": 0.031, "elements": 2.5, "attended": 0.022, "scores": 0.96, "heads": 5800},
    training={"calls": 590e3, "products": 0.095, "elements": 3.5, "attended": 0.084, "scores": 1.8, "heads": 12e3},
)
CPU_FACTORED = {
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


@dataclass(frozen=True)
class Peak:
    """Peak rates of a GPU, in nanoseconds for all multiprocessors together, and the fraction of them to expect.

    Args:
        instruction: one float32 instruction of one lane.
        exponential: one exponential.
        byte: one byte to or from memory.
        multiply_add: one multiply-add of a matrix product, by precision.
        launch: one kernel.
        used: fraction of the peak rates.
    """

    instruction: float
    exponential: float
    byte: float
    multiply_add: dict[Products, float]
    launch: float
    used: float


GPU = Peak(
    instruction=1 / (132 * 128 * 1.98),
    exponential=1 / (132 * 16 * 1.98),
    byte=1 / 3350,
    multiply_add={"float32": 1 / (132 * 128 * 1.98), "tf32": 1 / 247e3, "half": 1 / 495e3},
    launch=5e3,
    used=0.5,
)
"""Vendor's rates of an H100 SXM: 132 multiprocessors of 128 lanes and 16 exponentials per cycle at 1.98 GHz, 3.35 TB/s, 495
and 989 TFLOPS of dense TF32 and 16-bit products. `launch` and `used` are guesses."""


def _gpu_costs(
    kind: Products, *, launches: float, instructions: Counts, products: Counts, exponentials: float, numbers: float
) -> Costs:
    """Return costs from counts of hardware operations.

    A backward pass recomputes the scores and has two products for each of the forward pass, so training costs three times as
    much.

    Args:
        kind: precision of the products.
        launches: kernels per call.
        instructions: instructions per count.
        products: multiply-adds of matrix products per count.
        exponentials: per score.
        numbers: numbers read or written per element.
    """
    forward = {name: count * GPU.instruction / GPU.used for name, count in instructions.items()}
    for name, count in products.items():
        forward[name] = count * GPU.multiply_add[kind] / GPU.used
    forward["scores"] += exponentials * GPU.exponential / GPU.used
    forward["elements"] = numbers * (2 if kind == "half" else 4) * GPU.byte / GPU.used
    forward["calls"] = launches * GPU.launch
    training = {name: 3 * cost for name, cost in forward.items()}
    # Gradients of content: two more multiply-adds per score and channel, summed over rows.
    training["learned"] = 4 * GPU.instruction / GPU.used
    return Costs(forward=forward, training=training)


def _on_gpu(kind: Products) -> Device:
    plain: Counts = {"products": 1, "attended": 1}
    # Nine instructions per score, two multiply-adds per score and channel of content; a line ends in sums across threads.
    triton = _gpu_costs(
        "float32",
        launches=25,
        instructions={"scores": 9, "narrow": 2, "lines": 60},
        products={"products": 1, "wide": 3, "marginals": 2},
        exponentials=1,
        numbers=2,
    )
    # Some twelve passes over all scores in memory, in launches of 2**18 scores each.
    pass_over_a_score = (8 * GPU.byte + GPU.launch / 2**18) / GPU.instruction
    eager = _gpu_costs(
        "float32",
        launches=30,
        instructions={"scores": 12 * pass_over_a_score},
        products={"products": 1, "narrow": 2, "wide": 2, "marginals": 2},
        exponentials=1,
        numbers=3,
    )
    return Device(
        dense=_gpu_costs(kind, launches=10, instructions={"scores": 5}, products=plain, exponentials=1, numbers=3),
        absorbed=_gpu_costs(kind, launches=14, instructions={"scores": 5}, products=plain, exponentials=1, numbers=3),
        factored={"triton": triton, "eager": eager},
    )


@dataclass(frozen=True)
class Device:
    """Costs of all forms on a kind of device; those of the factored form by implementation of its inner function."""

    dense: Costs
    absorbed: Costs
    factored: dict[str, Costs]


CPU = Device(dense=CPU_DENSE, absorbed=CPU_ABSORBED, factored=CPU_FACTORED)
CUDA: dict[Products, Device] = {kind: _on_gpu(kind) for kind in GPU.multiply_add}
"""By the precision of matrix products. The factored form computes in float32 in any case."""

ROWS_AT_A_TIME = {"native": 32, "triton": 32, "eager": 1}
"""Rows per block: a partial block takes as long as a full one."""


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
        products: precision of the dense form's matrix products; only GPUs differ in it.
    """

    blocks: Sequence[Tokens]
    num_queries: int
    num_heads: int
    qk_channels: int
    v_channels: int
    training: bool
    products: Products = "float32"

    @property
    def device(self) -> Device:
        """Costs on the tokens' kind of device; accelerators other than NVIDIA's are taken for one of those."""
        return CPU if self.blocks[0].device.type in ("cpu", "meta") else CUDA[self.products]


def precision_of_products(device: torch.device, dtype: torch.dtype) -> Products:
    """Return the precision of matrix products with weights of this type, by autocast and torch's settings."""
    if device.type == "cpu":
        return "float32"
    if torch.is_autocast_enabled(device.type) or dtype in (torch.bfloat16, torch.float16):
        return "half"
    return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def cheapest_form(shapes: Shapes, *, implementation: str, forms: Sequence[Form] = ("dense", "absorbed", "factored")) -> Form:
    """Return the form in `forms` with the least expected time.

    Args:
        implementation: the implementation of the factored form's inner function that would run, a key of the device's costs.
    """
    return min(forms, key=lambda form: expected_nanoseconds(shapes, form, implementation=implementation))


def expected_nanoseconds(shapes: Shapes, form: Form, *, implementation: str) -> float:
    """Return the expected time of a form, on one core of a CPU or on a GPU. Only the ratios between forms are meaningful."""
    device = shapes.device
    if form == "factored":
        counts = factored_counts(shapes, rows_at_a_time=ROWS_AT_A_TIME[implementation])
        costs = device.factored[implementation]
    elif form == "absorbed":
        counts, costs = absorbed_counts(shapes), device.absorbed
    else:
        counts, costs = dense_counts(shapes), device.dense
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
