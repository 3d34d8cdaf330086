"""Point sets: what tokens hold, order, ragged sets, precision, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from perceiver.adapters.points import Points
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens

NUM_BANDS = 6
RESOLUTION = 64.0


def points(*, features: int = 2, num_coordinates: int = 3, scale: float = 1.0) -> Points:
    return Points(
        point_channels=num_coordinates + features,
        num_coordinates=num_coordinates,
        scale=scale,
        position=Fourier(num_bands=NUM_BANDS, resolution=[RESOLUTION] * num_coordinates),
    )


def valid(tokens: Tokens, row: int) -> Tensor:
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


def fourier_by_hand(coordinates: np.ndarray) -> np.ndarray:
    """(..., k) -> (..., k * (2 * bands + 1)): for each coordinate itself, sines, cosines; in float64."""
    frequencies = np.linspace(1, RESOLUTION / 2, NUM_BANDS)
    parts = []
    for k in range(coordinates.shape[-1]):
        one = coordinates[..., k : k + 1].astype(np.float64)
        parts += [one, np.sin(np.pi * frequencies * one), np.cos(np.pi * frequencies * one)]
    return np.concatenate(parts, axis=-1)


@pytest.mark.parametrize("features", [0, 1, 4])
@pytest.mark.parametrize("num_coordinates", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_tokens_are_features_and_fourier_features(features: int, num_coordinates: int, scale: float) -> None:
    adapter = points(features=features, num_coordinates=num_coordinates, scale=scale)
    x = torch.randn(2, 11, num_coordinates + features)
    tokens = adapter(x)
    encoded = fourier_by_hand(x.numpy()[..., :num_coordinates] / np.float32(scale))
    expected = np.concatenate([x.numpy()[..., num_coordinates:], encoded], axis=-1)
    assert tokens.grid == (11,)
    assert tokens.mask is None
    assert len(tokens.parts) == (2 if features else 1)
    assert tokens.channels == adapter.channels == features + num_coordinates * (2 * NUM_BANDS + 1)
    np.testing.assert_allclose(tokens.dense().numpy(), expected, rtol=1e-5, atol=5e-5)


def test_scale_is_a_unit_and_not_taken_from_the_set() -> None:
    x = torch.rand(1, 9, 3) * 2 - 1
    in_centimetres = points(features=0, scale=100.0)(100 * x)
    in_metres = points(features=0)(x)
    torch.testing.assert_close(in_centimetres.dense(), in_metres.dense(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(points(features=0)(0.5 * x).dense(), in_metres.dense(), atol=0.1)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    extra=st.integers(0, 9),
    features=st.integers(0, 2),
    training=st.booleans(),
    fill=st.sampled_from([float("nan"), float("inf"), 0.0, 1e30]),
)
def test_alone_equals_padded(sizes: list[int], extra: int, features: int, training: bool, fill: float) -> None:
    adapter = points(features=features).train(training)
    sets = [torch.randn(size, 3 + features) for size in sizes]
    x = torch.full((len(sets), max(sizes) + extra, 3 + features), fill)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    for row, one in enumerate(sets):
        # Ragged sets need not be filled from the front.
        place = torch.randperm(x.shape[1])[: len(one)].sort().values
        x[row, place] = one
        mask[row, place] = True
    tokens = adapter(x, mask)
    assert tokens.mask is not None
    assert torch.equal(tokens.mask, mask)
    assert all(part.isfinite().all() for part in tokens.parts)
    for row, one in enumerate(sets):
        torch.testing.assert_close(valid(tokens, row), valid(adapter(one[None]), 0), rtol=1e-6, atol=1e-6)


def test_presence_masks_whole_sets() -> None:
    x = torch.randn(3, 7, 5)
    x[2] = float("nan")
    tokens = points()(x, torch.tensor([True, True, False]))
    assert tokens.mask is not None
    assert tokens.mask.all(1).tolist() == [True, True, False]
    assert not tokens.mask[2].any()
    assert all(part.isfinite().all() for part in tokens.parts)


def test_order_of_points_is_order_of_tokens() -> None:
    x, mask = torch.randn(2, 20, 5), torch.rand(2, 20) > 0.3
    order = torch.randperm(20)
    tokens, shuffled = points()(x, mask), points()(x[:, order], mask[:, order])
    for part, other in zip(tokens.parts, shuffled.parts, strict=True):
        assert torch.equal(part[:, order], other)
    assert tokens.mask is not None
    assert shuffled.mask is not None
    assert torch.equal(tokens.mask[:, order], shuffled.mask)


def test_samples_do_not_see_one_another() -> None:
    x = torch.randn(3, 8, 5)
    before = points()(x).dense()[1]
    x[[0, 2]] = float("nan")
    assert torch.equal(points()(x).dense()[1], before)


def test_gradients_flow_to_valid_points_only() -> None:
    x = torch.randn(2, 6, 5)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    x[0, 4:] = float("nan")
    x.requires_grad_()
    points()(x, mask).dense().square().sum().backward()
    assert x.grad is not None
    assert not x.grad[~mask].any()
    assert (x.grad[mask] != 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("cast", [False, True])
def test_reduced_precision_leaves_coordinates_in_float32(cast: bool) -> None:
    x = torch.randn(2, 9, 5)
    adapter = points(scale=3.0)
    expected = adapter(x)
    if cast:
        adapter = adapter.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = adapter(x)
    assert torch.equal(tokens.parts[1], expected.parts[1])
    assert tokens.parts[1].dtype == torch.float32
    # What comes in bfloat16 has lost its digits already, but loses no more.
    coarse = adapter(x.to(torch.bfloat16)).parts[1]
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse, adapter(x.to(torch.bfloat16).float()).parts[1])


def test_float64_coordinates_are_scaled_before_they_are_rounded() -> None:
    x = torch.full((1, 1, 3), 1e8 + 1, dtype=torch.float64)
    coordinates = points(features=0, scale=1e8)(x).parts[0][0, 0, [0]]
    assert coordinates.dtype == torch.float32
    np.testing.assert_array_equal(coordinates.numpy(), np.float32(1 + 1e-8))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((7, 5), r"expected \(batch, points, 5\), 3 of them coordinates, got shape \(7, 5\)"),
        ((2, 5, 7), r"got shape \(2, 5, 7\).*along axis 1, their values along axis 2.*point_channels"),
        ((2, 0, 5), r"expected at least one point, got shape \(2, 0, 5\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        points()(torch.zeros(shape))


@pytest.mark.usefixtures("unchecked")
def test_integer_values_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected floating point, got torch.int64"):
        points()(torch.zeros(2, 7, 5, dtype=torch.long))


@pytest.mark.usefixtures("unchecked")
def test_wrong_masks_are_named() -> None:
    with pytest.raises(ValueError, match=r"Points mask: expected \(2,\).*or \(2, 7\).*got \(2, 6\)"):
        points()(torch.zeros(2, 7, 5), torch.ones(2, 6, dtype=torch.bool))


@pytest.mark.parametrize("num_coordinates", [0, 6])
def test_number_of_coordinates_is_checked(num_coordinates: int) -> None:
    with pytest.raises(ValueError, match=rf"got num_coordinates={num_coordinates}, point_channels=5"):
        Points(point_channels=5, num_coordinates=num_coordinates, position=Fourier(num_bands=1, resolution=[8.0] * 3))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_is_checked(scale: float) -> None:
    with pytest.raises(ValueError, match=r"Points\.scale: expected a positive number"):
        points(scale=scale)


# The import hook looks into omegaconf, whose classes have old base classes.
@pytest.mark.filterwarnings("ignore:.*deprecated by PEP 585")
def test_the_configured_adapter_takes_its_facts_from_the_data(repository: Path) -> None:
    tree = {"model": {"adapters": {"cloud": OmegaConf.load(repository / "conf" / "adapter" / "points.yaml")}}}
    from perceiver.run.configuration.resolve import resolve
    from perceiver.run.configuration.resolvers import register_resolvers

    register_resolvers()
    config = resolve(OmegaConf.create(tree), {"modalities": {"cloud": {"kind": "points", "shape": [None, 6]}}})
    adapter = instantiate(config["model"]["adapters"]["cloud"], _convert_="all")
    assert type(adapter) is Points
    assert adapter(torch.randn(2, 30, 6)).channels == adapter.channels
