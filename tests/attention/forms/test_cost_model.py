"""The cost model: known preferences, what it depends on, and that it counts what the forms really do."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from perceiver import Fourier, Tokens
from perceiver.attention.forms.absorbed import absorbed_attention
from perceiver.attention.forms.cost_model import (
    CPU,
    CUDA,
    Shapes,
    absorbed_counts,
    cheapest_form,
    dense_counts,
    expected_nanoseconds,
    factored_counts,
    precision_of_products,
)
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.projection import TokenProjection
from perceiver.tokens.positions import grid_coordinates


def image(batch: int, size: int, bands: int) -> Tokens:
    position = Fourier(num_bands=bands, resolution=(size, size))
    return Tokens((torch.zeros(batch, size, size, 3), *position(grid_coordinates((size, size)))))


def shapes(block: Tokens, *, queries: int, heads: int = 1, training: bool = False) -> Shapes:
    width = -(-block.channels // heads) * heads
    return Shapes(
        blocks=[block], num_queries=queries, num_heads=heads, qk_channels=width, v_channels=width, training=training
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("implementation", ["native", "eager"])
def test_large_images_factor(implementation: str, training: bool) -> None:
    large = shapes(image(1, 224, 64), queries=64, training=training)
    assert cheapest_form(large, implementation=implementation) == "factored"


def test_costs_of_a_gpu_depend_on_the_precision_of_products() -> None:
    """Without a GPU: the tokens are on no device that computes, and the costs are those of the table."""
    large = shapes(image(32, 224, 64), queries=512)
    for kind, device in CUDA.items():
        costs, counts = device.factored["triton"].forward, factored_counts(large, rows_at_a_time=32)
        factored = sum(costs.get(name, 0.0) * count for name, count in counts.items())
        dense = sum(device.dense.forward.get(name, 0.0) * count for name, count in dense_counts(large).items())
        assert factored < dense, kind
    assert set(CUDA["half"].factored) == {"triton", "eager"}
    assert (
        CUDA["half"].dense.forward["products"]
        < CUDA["tf32"].dense.forward["products"]
        < CUDA["float32"].dense.forward["products"]
    )


def test_precision_of_products() -> None:
    cuda = torch.device("cuda")
    assert precision_of_products(torch.device("cpu"), torch.bfloat16) == "float32", "costs of CPUs are for float32"
    assert precision_of_products(cuda, torch.float32) == "float32"
    assert precision_of_products(cuda, torch.bfloat16) == "half"
    with torch.autocast("cuda", dtype=torch.bfloat16) if torch.cuda.is_available() else nullcontext():
        assert precision_of_products(cuda, torch.float32) == ("half" if torch.cuda.is_available() else "float32")


@pytest.mark.parametrize("implementation", sorted(CPU.factored))
def test_wide_tokens_with_many_heads_are_dense(implementation: str) -> None:
    text = Tokens((torch.zeros(1, 2048, 256), torch.zeros(1, 2048, 256)))
    assert cheapest_form(shapes(text, queries=256, heads=8), implementation=implementation) == "dense"


def test_one_head_over_wide_points_absorbs_where_there_is_no_native_code() -> None:
    points = Tokens((torch.zeros(4, 2048, 3), torch.zeros(4, 2048, 387)))
    assert cheapest_form(shapes(points, queries=256), implementation="eager") == "absorbed"


def test_tiny_inputs_are_dense() -> None:
    tiny = Tokens((torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 1, 5)))
    assert cheapest_form(shapes(tiny, queries=4), implementation="native") == "dense"


@given(st.integers(1, 40), st.integers(1, 64), st.integers(1, 8), st.booleans(), st.sampled_from(sorted(CPU.factored)))
def test_more_work_never_takes_less_time(size: int, queries: int, heads: int, training: bool, implementation: str) -> None:
    small, more = image(1, size, 4), image(2, size, 4)
    for form in ("dense", "absorbed", "factored"):
        expected = expected_nanoseconds(
            shapes(small, queries=queries, heads=heads, training=training), form, implementation=implementation
        )
        assert 0 < expected < float("inf")
        larger = (
            shapes(more, queries=queries, heads=heads, training=training),
            shapes(small, queries=2 * queries, heads=heads, training=training),
        )
        for own in larger:
            assert expected_nanoseconds(own, form, implementation=implementation) >= expected


@pytest.mark.parametrize("heads", [1, 4])
def test_multiply_adds_are_those_that_torch_counts(heads: int) -> None:
    block = Tokens((torch.randn(2, 6, 5, 8), torch.randn(1, 6, 1, 8)))
    weights = TokenProjection(token_channels=16, qk_channels=32, v_channels=32)
    query = torch.randn(1, heads, 7, 32 // heads)
    own = Shapes(blocks=[block], num_queries=7, num_heads=heads, qk_channels=32, v_channels=32, training=False)
    for form, counts in ((dense_attention, dense_counts(own)), (absorbed_attention, absorbed_counts(own))):
        with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            form(query, [block], weights)
        # Where all samples share the queries, some products may be done once for all of them.
        assert counter.get_total_flops() == pytest.approx(2 * (counts["products"] + counts["attended"]), rel=0.05)


def test_rows_are_counted_in_whole_blocks() -> None:
    few, many = (factored_counts(shapes(image(1, 8, 4), queries=n), rows_at_a_time=32)["scores"] for n in (3, 32))
    assert few == many == 64 * 32
