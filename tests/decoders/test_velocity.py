"""Head for velocities: which adapters it can serve, and the layout of its outputs."""

from typing import Any

import pytest
import torch
from torch import nn

from perceiver import Encoder, Fourier, Interface, Perceiver, PooledHead, VelocityHead
from perceiver.adapters import ImageConvStem, ImagePatches, ImagePixels, Points, PointValues, VideoPatches, WaveformFrames
from perceiver.generation.flow import generate

PLANE = Fourier(num_bands=2, resolution=(4, 4))
SPACE = Fourier(num_bands=2, resolution=(8, 8, 8))
SOUND: dict[str, Any] = {"sample_rate": 80, "duration_seconds": 1.0, "position": Fourier(num_bands=2, resolution=(8,))}
CASES: dict[str, tuple[nn.Module, tuple[int, ...], list[int] | None]] = {
    "pixels": (ImagePixels(image_channels=2, position=PLANE), (2, 3, 4), [3, 3]),
    "patches": (ImagePatches(image_channels=2, patch=4, position=PLANE), (2, 7, 9), [3, 3]),
    "waveform": (WaveformFrames(frame=8, **SOUND), (1, 43), [5]),
    "video": (VideoPatches(video_channels=1, patch=[2, 2, 2], position=SPACE), (1, 3, 4, 5), [3, 3, 3]),
    "points": (PointValues(point_channels=4, scale=2.0, position=SPACE), (9, 4), None),
}


def model_of(adapter: Any, kernel: list[int] | None) -> Perceiver:
    encoder = Interface(
        token_channels=adapter.channels, num_latents=2, latent_channels=8, state_channels=8, num_blocks=1,
        num_layers_per_block=1, local_kernel=kernel,
    )  # fmt: skip
    head = VelocityHead(state_channels=8, adapters={"x": adapter}, modality="x")
    nn.init.normal_(head.output.weight)
    return Perceiver(adapters={"x": adapter}, encoder=encoder, head=head).eval()


@pytest.mark.parametrize("name", list(CASES))
def test_outputs_are_velocities_of_the_whole_input(name: str) -> None:
    adapter, shape, kernel = CASES[name]
    one, x = model_of(adapter, kernel), torch.randn(2, *shape)
    head = one.head
    assert isinstance(head, VelocityHead)
    content = head.by_token(one.adapters, x, None)
    assert torch.equal(head.raw(one.adapters, torch.zeros_like(x), content.values), x)
    with torch.no_grad():
        assert one.velocity({"x": x}, time=torch.tensor([0.1, 0.6])).values.shape == content.values.shape
    made = generate(one, num_samples=3, shape_of=shape, steps=2)
    assert made.shape == (3, *shape)
    assert float(made.std()) > 0.1


@pytest.mark.parametrize("std", [1.0, 0.3])
def test_an_untrained_head_predicts_the_best_factor_and_learns_an_error_of_variance_one(std: float) -> None:
    adapter = CASES["pixels"][0]
    head = VelocityHead(state_channels=8, adapters={"x": adapter}, modality="x", data_std=std)
    torch.manual_seed(0)
    x, noise = std * torch.randn(4000, 3, 4, 2), torch.randn(4000, 3, 4, 2)
    state = torch.zeros(4000, 3, 4, 8)
    for t in (0.0, 0.3, 0.8, 1.0):
        noisy, wanted = (1 - t) * noise + t * x, x - noise
        with torch.no_grad():
            found = head(state, noisy=noisy, time=torch.tensor([t]))
            nn.init.ones_(head.output.bias)
            scale = head(state, noisy=noisy, time=torch.tensor([t])) - found
            nn.init.zeros_(head.output.bias)
        factor = (wanted * noisy).mean() / noisy.square().mean()
        torch.testing.assert_close(found, factor * noisy, rtol=0.05, atol=0.05)
        assert abs(float(((wanted - found) / scale).std()) - 1) < 0.02


def test_points_of_a_set_have_no_order() -> None:
    adapter, shape, kernel = CASES["points"]
    one, x, order = model_of(adapter, kernel), torch.randn(1, *shape), torch.randperm(shape[0])
    with torch.no_grad():
        values = one.velocity({"x": x}, time=torch.tensor([0.3])).values
        shuffled = one.velocity({"x": x[:, order]}, time=torch.tensor([0.3])).values
    torch.testing.assert_close(shuffled, values[:, order], rtol=1e-4, atol=1e-4)


def test_padding_of_patches_and_masked_points_have_no_target() -> None:
    adapter, shape, kernel = CASES["patches"]
    one = model_of(adapter, kernel)
    assert isinstance(one.head, VelocityHead)
    valid = one.head.by_token(one.adapters, torch.randn(2, *shape), None).valid
    assert valid is not None
    assert int(valid.sum()) == 2 * 2 * 7 * 9
    adapter, shape, kernel = CASES["points"]
    one = model_of(adapter, kernel)
    assert isinstance(one.head, VelocityHead)
    valid = one.head.by_token(one.adapters, torch.randn(2, *shape), torch.arange(18).reshape(2, 9) < 13).valid
    assert valid is not None
    assert int(valid.sum()) == 13 * 4


@pytest.mark.parametrize(
    "adapter",
    [
        ImageConvStem(image_channels=1, position=PLANE),
        Points(point_channels=4, position=SPACE),
        nn.Identity(),
    ],
)
def test_adapters_whose_tokens_lack_something_are_refused(adapter: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"expected an adapter whose tokens hold all of 'x'.*got " + type(adapter).__name__):
        VelocityHead(state_channels=8, adapters={"x": adapter}, modality="x")


def test_errors() -> None:
    adapters = {"x": CASES["pixels"][0]}
    with pytest.raises(ValueError, match=r"VelocityHead.modality: expected one of the model's modalities \['x'\], got 'y'"):
        VelocityHead(state_channels=8, adapters=adapters, modality="y")
    with pytest.raises(ValueError, match=r"VelocityHead.condition_dropout: expected a share of at least 0 and below 1"):
        VelocityHead(state_channels=8, adapters=adapters, modality="x", condition_dropout=1.0)
    with pytest.raises(ValueError, match=r"VelocityHead.data_std: expected a finite number above 0, got 0.0"):
        VelocityHead(state_channels=8, adapters=adapters, modality="x", data_std=0.0)
    adapter: Any = adapters["x"]
    encoder = Encoder(token_channels=adapter.channels, num_latents=2, latent_channels=8)
    classifier = Perceiver(adapters=adapters, encoder=encoder, head=PooledHead(latent_channels=8, num_classes=2))
    with pytest.raises(ValueError, match="whose head is a VelocityHead, got PooledHead"):
        classifier.velocity({})
