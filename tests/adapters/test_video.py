"""Video patches: against an unfold and a convolution, ragged videos, masked content, precision, whole models, errors."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import model_around
from torch import Tensor, nn

from perceiver.adapters import VideoPatches
from perceiver.tokens.positions import Fourier, LearnedTable
from perceiver.tokens.tokens import Tokens

PATCH = (2, 4, 3)
RAW = 3 * 2 * 4 * 3


def fourier() -> Fourier:
    return Fourier(num_bands=3, resolution=(4, 8, 8))


ADAPTERS: dict[str, Callable[[], VideoPatches]] = {
    "raw": lambda: VideoPatches(video_channels=3, patch=PATCH, position=fourier()),
    "embedded": lambda: VideoPatches(video_channels=3, patch=PATCH, embedding_channels=10, position=fourier()),
    "table": lambda: VideoPatches(
        video_channels=3, patch=PATCH, embedding_channels=7, position=LearnedTable(grid=(3, 2, 4), channels=5, std=1.0)
    ),
}
every_adapter = pytest.mark.parametrize("kind", ADAPTERS)


def build(kind: str) -> VideoPatches:
    torch.manual_seed(0)
    return ADAPTERS[kind]()


model_of = partial(model_around, "video")


def valid(tokens: Tokens, row: int) -> Tensor:
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


def pad(videos: list[Tensor], extra: tuple[int, int, int] = (0, 0, 0), fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Videos of several sizes in one batch, and the mask of their elements."""
    size = [max(video.shape[axis + 1] for video in videos) + extra[axis] for axis in range(3)]
    x = torch.full((len(videos), 3, *size), fill)
    mask = torch.zeros(len(videos), *size, dtype=torch.bool)
    for row, video in enumerate(videos):
        own = tuple(slice(length) for length in video.shape[1:])
        x[(row, slice(None), *own)] = video
        mask[(row, *own)] = True
    return x, mask


# ---- what tokens hold


@every_adapter
@pytest.mark.parametrize("size", [(6, 8, 12), (4, 16, 6), (5, 7, 8), (1, 1, 1)])
def test_says_its_channels_and_stays_factored(kind: str, size: tuple[int, int, int]) -> None:
    adapter = build(kind)
    tokens = adapter(torch.randn(2, 3, *size))
    grid = tuple(-(-length // patch) for length, patch in zip(size, PATCH, strict=True))
    assert tokens.grid == grid
    assert tokens.channels == adapter.channels
    assert tokens.mask is None
    content = {"raw": RAW, "embedded": 10, "table": 7}[kind]
    shapes = [tuple(part.shape) for part in tokens.parts]
    if kind == "table":
        assert shapes == [(2, *grid, content), (1, *grid, 5)]
    else:
        assert shapes == [(2, *grid, content), (1, grid[0], 1, 1, 7), (1, 1, grid[1], 1, 7), (1, 1, 1, grid[2], 7)]


def test_raw_patches_are_those_of_unfold() -> None:
    x = torch.randn(2, 3, 6, 8, 12)
    windows = x.unfold(2, 2, 2).unfold(3, 4, 4).unfold(4, 3, 3)  # (B, C, T', H', W', frames, rows, columns)
    content = build("raw")(x).parts[0]
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4)).tolist():
        for row in range(2):
            assert torch.equal(content[(row, *place)], windows[(row, slice(None), *place)].flatten())


def test_embedding_patches_is_a_strided_convolution() -> None:
    adapter = build("embedded")
    assert isinstance(adapter.embed, nn.Linear)
    x = torch.randn(2, 3, 5, 9, 13)
    whole = F.pad(x, (0, 2, 0, 3, 0, 1))
    expected = F.conv3d(whole, adapter.embed.weight.reshape(10, 3, *PATCH), adapter.embed.bias, stride=PATCH)
    torch.testing.assert_close(adapter(x).parts[0], expected.permute(0, 2, 3, 4, 1), rtol=1e-5, atol=1e-5)


def test_a_video_of_one_frame_and_square_patches_is_an_image() -> None:
    from perceiver.adapters import ImagePatches

    position = Fourier(num_bands=3, resolution=(8, 8))
    image = ImagePatches(image_channels=3, patch=4, position=position)
    video = VideoPatches(video_channels=3, patch=(1, 4, 4), position=fourier())
    x = torch.randn(2, 3, 10, 9)
    ours, theirs = video(x[:, :, None]), image(x)
    assert torch.equal(ours.parts[0][:, 0], theirs.parts[0])
    for mine, other in zip(ours.parts[2:], theirs.parts[1:], strict=True):
        assert torch.equal(mine[:, 0], other)


# ---- masks


@settings(max_examples=20)
@given(
    kind=st.sampled_from(list(ADAPTERS)),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4)),
    fill=st.sampled_from([0.0, float("nan"), float("inf"), 1e30]),
)
def test_padded_among_larger_ones_equals_alone(
    kind: str, sizes: list[tuple[int, int, int]], extra: tuple[int, int, int], fill: float
) -> None:
    adapter = build(kind)
    model = model_of(adapter).eval()
    videos = [torch.randn(3, *size) for size in sizes]
    x, mask = pad(videos, extra, fill)
    tokens, output = adapter(x, mask), model({"video": x}, {"video": mask})
    assert all(part.isfinite().all() for part in tokens.parts)
    for row, video in enumerate(videos):
        torch.testing.assert_close(valid(tokens, row), valid(adapter(video[None]), 0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(output[row], model({"video": video[None]})[0], rtol=1e-5, atol=1e-5)


@every_adapter
def test_presence_masks_whole_videos_and_keeps_positions_shared(kind: str) -> None:
    x = torch.randn(3, 3, 4, 8, 6)
    x[1] = float("nan")
    tokens = build(kind)(x, torch.tensor([True, False, True]))
    assert tokens.mask is not None
    assert tokens.mask.flatten(1).all(1).tolist() == [True, False, True]
    assert not tokens.mask[1].any()
    assert all(part.isfinite().all() for part in tokens.parts)
    assert all(part.shape[0] == 1 for part in tokens.parts[1:])


def test_a_patch_with_any_valid_element_is_valid() -> None:
    x, mask = torch.randn(1, 3, 4, 8, 6), torch.zeros(1, 4, 8, 6, dtype=torch.bool)
    mask[0, 3, 5, 4] = True
    tokens = build("raw")(x, mask)
    assert tokens.mask is not None
    assert tokens.mask.nonzero().tolist() == [[0, 1, 1, 1]]
    patch = tokens.parts[0][0, 1, 1, 1].reshape(3, *PATCH)
    assert torch.equal(patch[:, 1, 1, 1], x[0, :, 3, 5, 4])
    assert patch.count_nonzero() == 3


@every_adapter
def test_masked_nan_reaches_neither_output_nor_gradients(kind: str) -> None:
    model = model_of(build(kind))
    x, mask = pad([torch.randn(3, 2, 4, 3), torch.randn(3, 5, 9, 7)], fill=float("nan"))
    x.requires_grad_()
    output = model({"video": x}, {"video": mask})
    output.square().sum().backward()
    assert output.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not x.grad[~mask[:, None].expand_as(x)].any()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith("adapters"):
            assert parameter.grad.any(), name


def test_samples_do_not_see_one_another() -> None:
    x = torch.randn(3, 3, 4, 8, 6)
    before = build("embedded")(x).dense()[1]
    x[[0, 2]] = float("nan")
    torch.testing.assert_close(build("embedded")(x).dense()[1], before, rtol=1e-6, atol=1e-6)


# ---- precision and whole models


@every_adapter
def test_bfloat16_autocast_leaves_positions_in_float32(kind: str) -> None:
    adapter, x = build(kind), torch.randn(2, 3, 6, 8, 12)
    expected = adapter(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = adapter(x)
    for part, other in zip(tokens.parts[1:], expected.parts[1:], strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, other)
    torch.testing.assert_close(tokens.parts[0].float(), expected.parts[0], rtol=0.02, atol=0.02)


@every_adapter
def test_dense_equals_factored(kind: str) -> None:
    x, mask = pad([torch.randn(3, 3, 8, 5), torch.randn(3, 5, 9, 7)])
    outputs = []
    for attention in ("dense", "factored"):
        model = model_of(build(kind), attention=attention).double()  # type: ignore[arg-type]
        outputs.append(model({"video": x.double()}, {"video": mask}))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)


@every_adapter
def test_a_model_learns_and_takes_other_sizes(kind: str) -> None:
    model = model_of(build(kind))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, target = torch.randn(4, 3, 6, 8, 12), torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(model({"video": x}), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model({"video": torch.randn(2, 3, 9, 20, 5)}).isfinite().all()


# ---- errors


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 8, 6), r"expected \(batch, 3, frames, height, width\), got shape \(2, 3, 8, 6\).*unsqueeze"),
        ((2, 4, 3, 8, 6), r"got shape \(2, 4, 3, 8, 6\).*transpose\(1, 2\)"),
        ((2, 4, 8, 6, 3), r"channels-last.*permute\(0, 4, 1, 2, 3\)"),
        ((2, 3, 0, 8, 6), r"got shape \(2, 3, 0, 8, 6\).*Leave an absent video's key out"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("raw")(torch.zeros(shape))


@pytest.mark.usefixtures("unchecked")
def test_wrong_types_and_masks_are_named() -> None:
    x = torch.zeros(2, 3, 4, 8, 6)
    with pytest.raises(TypeError, match=r"floating point, got torch.uint8.*/ 255"):
        build("raw")(x.to(torch.uint8))
    with pytest.raises(ValueError, match=r"VideoPatches mask: expected \(2,\).*or \(2, 4, 8, 6\).*got \(2, 4\)"):
        build("raw")(x, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="VideoPatches mask: expected dtype bool"):
        build("raw")(x, torch.ones(2))


@pytest.mark.parametrize("patch", [(2, 4), (2, 0, 4), (1, 2, 3, 4)])
def test_patches_are_checked(patch: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"VideoPatches\.patch: expected \(frames, rows, columns\)"):
        VideoPatches(video_channels=3, patch=patch, position=fourier())


def test_widths_are_checked() -> None:
    with pytest.raises(ValueError, match=r"VideoPatches\.embedding_channels: expected at least 1, or None.*got 0"):
        VideoPatches(video_channels=3, patch=PATCH, embedding_channels=0, position=fourier())
    with pytest.raises(ValueError, match=r"VideoPatches\.video_channels: expected at least 1, got 0"):
        VideoPatches(video_channels=0, patch=PATCH, position=fourier())
