"""Image adapters: what tokens hold, padded among larger images equals alone, masked content, batch norm, errors."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perceiver.adapters.image import ImageConvStem, ImagePatches, ImagePixels, ValidBatchNorm
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.model import Perceiver
from perceiver.tokens.positions import Fourier, LearnedTable
from perceiver.tokens.tokens import Tokens

Adapter = ImagePixels | ImagePatches | ImageConvStem


def fourier() -> Fourier:
    return Fourier(num_bands=4, resolution=(16, 16))


ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "pixels": lambda: ImagePixels(image_channels=3, position=fourier()),
    "pixels with a table": lambda: ImagePixels(image_channels=3, position=LearnedTable(grid=(9, 8), channels=6, std=1.0)),
    "raw patches": lambda: ImagePatches(image_channels=3, patch=4, position=fourier()),
    "embedded patches": lambda: ImagePatches(image_channels=3, patch=3, embed_channels=10, position=fourier()),
    "convolutional stem": lambda: ImageConvStem(image_channels=3, stem_channels=6, position=fourier()),
}
every_adapter = pytest.mark.parametrize("kind", ADAPTERS)


def build(kind: str, *, training: bool = False) -> Adapter:
    torch.manual_seed(0)
    adapter = ADAPTERS[kind]()
    if isinstance(adapter, ImageConvStem):
        adapter.norm.running_mean = torch.randn(6)
        adapter.norm.running_var = torch.rand(6) + 0.5
        nn.init.uniform_(adapter.norm.weight, 0.5, 2.0)
        nn.init.normal_(adapter.norm.bias)
    return adapter.train(training)


def model_of(adapter: Adapter) -> Perceiver:
    encoder = Encoder(
        token_channels=adapter.channels, num_latents=4, latent_channels=8, num_layers_per_block=1, num_self_heads=2
    )
    head = PooledHead(latent_channels=8, num_classes=3)
    return Perceiver(adapters={"image": adapter}, encoder=encoder, head=head)


def valid(tokens: Tokens, row: int) -> Tensor:
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


def pad(images: list[Tensor], extra: tuple[int, int] = (0, 0), fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Images of several sizes in one batch, and the mask of their pixels."""
    height, width = (max(image.shape[axis] for image in images) + extra[axis - 1] for axis in (1, 2))
    x = torch.full((len(images), images[0].shape[0], height, width), fill)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        x[row, :, : image.shape[1], : image.shape[2]] = image
        mask[row, : image.shape[1], : image.shape[2]] = True
    return x, mask


@every_adapter
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (7, 9), (1, 1)])
def test_says_its_channels_and_grid(kind: str, size: tuple[int, int]) -> None:
    adapter = build(kind)
    tokens = adapter(torch.randn(2, 3, *size))
    side = {"pixels": 1, "pixels with a table": 1, "raw patches": 4, "embedded patches": 3, "convolutional stem": 4}[kind]
    assert tokens.grid == (-(-size[0] // side), -(-size[1] // side))
    assert tokens.channels == adapter.channels
    assert tokens.mask is None
    assert tokens.batch == 2
    assert all(part.shape[0] == 1 for part in tokens.parts[1:]), "positions are shared by the batch"


def test_pixels_are_tokens() -> None:
    x = torch.randn(2, 3, 5, 4)
    dense = build("pixels")(x).dense()
    assert torch.equal(dense[..., :3], x.flatten(2).transpose(1, 2))


def test_patches_keep_their_pixels_together() -> None:
    x = torch.randn(2, 3, 8, 12)
    tokens = build("raw patches")(x)
    assert torch.equal(tokens.parts[0][1, 1, 2].reshape(3, 4, 4), x[1, :, 4:8, 8:12])


def test_embedding_patches_is_a_strided_convolution() -> None:
    adapter = build("embedded patches")
    assert isinstance(adapter, ImagePatches)
    assert isinstance(adapter.embed, nn.Linear)
    x = torch.randn(2, 3, 9, 12)
    expected = F.conv2d(x, adapter.embed.weight.reshape(10, 3, 3, 3), adapter.embed.bias, stride=3)
    torch.testing.assert_close(adapter(x).parts[0], expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (32, 20), (8, 8)])
def test_stem_is_the_published_one_at_even_sizes(training: bool, size: tuple[int, int]) -> None:
    """TensorFlow's "SAME": 2 in front and 3 behind for the convolution, 0 and 1 for the pool."""
    adapter = build("convolutional stem", training=training)
    assert isinstance(adapter, ImageConvStem)
    norm = nn.BatchNorm2d(6).train(training)
    norm.load_state_dict(adapter.norm.state_dict())
    x = torch.randn(3, 3, *size)
    features = F.relu(norm(F.conv2d(F.pad(x, (2, 3, 2, 3)), adapter.conv.weight, stride=2)))
    expected = F.max_pool2d(F.pad(features, (0, 1, 0, 1), value=-torch.inf), kernel_size=3, stride=2)
    tokens = adapter(x)
    assert tokens.grid == (size[0] // 4, size[1] // 4)
    torch.testing.assert_close(tokens.parts[0], expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(adapter.norm.state_dict()[name], value)


@settings(max_examples=20)
@given(
    kind=st.sampled_from(list(ADAPTERS)),
    sizes=st.lists(st.tuples(st.integers(1, 17), st.integers(1, 17)), min_size=1, max_size=3),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    fill=st.sampled_from([0.0, float("nan"), float("inf"), 1e30]),
)
def test_padded_among_larger_ones_equals_alone(
    kind: str, sizes: list[tuple[int, int]], extra: tuple[int, int], fill: float
) -> None:
    adapter = build(kind)
    model = model_of(adapter).eval()
    images = [torch.randn(3, *size) for size in sizes]
    x, mask = pad(images, extra, fill)
    tokens, output = adapter(x, mask), model({"image": x}, {"image": mask})
    assert all(part.isfinite().all() for part in tokens.parts)
    for row, image in enumerate(images):
        torch.testing.assert_close(valid(tokens, row), valid(adapter(image[None]), 0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output[row], model({"image": image[None]})[0], rtol=1e-6, atol=2e-6)


@settings(max_examples=20)
@given(
    kind=st.sampled_from(list(ADAPTERS)),
    size=st.tuples(st.integers(3, 17), st.integers(3, 17)),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    absent=st.integers(0, 2),
    fill=st.sampled_from([0.0, float("nan"), 1e30]),
)
def test_padded_equals_alone_in_training(
    kind: str, size: tuple[int, int], extra: tuple[int, int], absent: int, fill: float
) -> None:
    """With padding on both sides of one size and absent samples beside it, so that batch norm sees the same elements."""
    images = torch.randn(2, 3, *size)
    x, mask = pad([*images, *torch.full((absent, 3, 1, 1), fill)], extra, fill)
    mask[2:] = False
    alone = build(kind, training=True)
    model = model_of(alone)
    padded, padded_model = copy.deepcopy((alone, model))
    output, padded_output = model({"image": images}), padded_model({"image": x}, {"image": mask})[:2]
    torch.testing.assert_close(padded_output, output, rtol=1e-5, atol=1e-5)
    expected, tokens = alone(images), padded(x, mask)
    for row in range(2):
        torch.testing.assert_close(valid(tokens, row), valid(expected, row), rtol=1e-5, atol=2e-5)
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(dict(padded.named_buffers())[name], buffer, rtol=1e-5, atol=1e-5)


@every_adapter
@pytest.mark.parametrize("training", [False, True])
def test_masked_content_changes_no_bit(kind: str, training: bool) -> None:
    x, mask = torch.randn(3, 3, 11, 10), torch.rand(3, 11, 10) > 0.3
    mask[2] = False
    outputs = []
    for fill in (0.0, float("nan"), -float("inf"), 3e38):
        adapter = build(kind, training=training)
        filled = torch.where(mask[:, None], x, torch.tensor(fill))
        dense = adapter(filled, mask).dense()
        parameters = list(adapter.parameters())
        gradients = torch.autograd.grad(dense.square().sum(), parameters) if parameters else ()
        outputs.append([dense, *gradients, *adapter.buffers()])
    for other in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs[0], other, strict=True))
    assert all(x.isfinite().all() for x in outputs[0])


@every_adapter
def test_samples_do_not_see_one_another(kind: str) -> None:
    adapter, x = build(kind), torch.randn(3, 3, 9, 8)
    before = adapter(x).dense()[1]
    x[[0, 2]] = float("nan")
    torch.testing.assert_close(adapter(x).dense()[1], before, rtol=0, atol=0)


@every_adapter
def test_presence_leaves_positions_shared(kind: str) -> None:
    """Modality dropout must not multiply position parts by the batch."""
    adapter, x = build(kind), torch.randn(3, 3, 9, 8)
    expected = adapter(x).dense()
    x[1] = float("nan")
    tokens = adapter(x, torch.tensor([True, False, True]))
    assert all(part.shape[0] == 1 for part in tokens.parts[1:])
    assert tokens.mask is not None
    assert tokens.mask.flatten(1).all(dim=1).tolist() == [True, False, True]
    assert not tokens.mask[1].any()
    assert torch.equal(tokens.dense()[[0, 2]], expected[[0, 2]])
    assert (tokens.dense()[1] == 0).all()


@pytest.mark.parametrize("kind", ["raw patches", "convolutional stem"])
def test_a_token_is_valid_where_any_of_its_pixels_is(kind: str) -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 3, 4] = mask[1, :5, :2] = True
    tokens = build(kind)(torch.randn(2, 3, 8, 8), mask)
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[[False, True], [False, False]], [[True, False], [True, False]]]


def test_batch_norm_without_mask_is_torchs() -> None:
    ours, theirs = ValidBatchNorm(5), nn.BatchNorm2d(5)
    for _ in range(3):
        x = torch.randn(4, 5, 3, 2) * 3 + 1
        assert torch.equal(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_counts_valid_elements_only() -> None:
    x, mask = torch.randn(6, 5, 7, 8, dtype=torch.float64) * 3 + 10, torch.rand(6, 7, 8) > 0.4
    mask[1] = False
    ours, theirs = ValidBatchNorm(5).double(), nn.BatchNorm1d(5).double()
    for step in range(3):
        columns = (x + step).movedim(1, -1)[mask]
        expected = theirs(columns)
        out = ours((x + step).masked_fill(~mask[:, None], 0.0), mask)
        torch.testing.assert_close(out.movedim(1, -1)[mask], expected)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_batch_norm_gradients_flow_through_the_statistics() -> None:
    norm = ValidBatchNorm(2).double()
    mask = torch.rand(3, 2, 3) > 0.3
    x = torch.randn(3, 2, 2, 3, dtype=torch.float64, requires_grad=True)

    def valid_out(x: Tensor) -> Tensor:
        out: Tensor = norm(x, mask).movedim(1, -1)[mask]
        return out

    assert torch.autograd.gradcheck(valid_out, (x,))


def test_batch_norm_of_a_batch_without_valid_elements() -> None:
    norm = ValidBatchNorm(2)
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    out = norm(torch.zeros(2, 2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool))
    assert out.isfinite().all()
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.running_var.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_norm_counts_in_float32(dtype: torch.dtype) -> None:
    """More elements than half precision can count, and a mean far from zero."""
    x = (torch.randn(8, 2, 100, 100) + 5).to(dtype)
    mask = torch.ones(8, 100, 100, dtype=torch.bool)
    mask[0] = False
    half, exact = ValidBatchNorm(2), ValidBatchNorm(2)
    out, expected = half(x, mask), exact(x.float(), mask)
    assert out.dtype == dtype
    assert half.running_mean is not None
    torch.testing.assert_close(half.running_mean, exact.running_mean)
    torch.testing.assert_close(half.running_var, exact.running_var)
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)


@every_adapter
@pytest.mark.parametrize("masked", [False, True])
def test_runs_in_every_precision(kind: str, masked: bool) -> None:
    mask = torch.tensor([True, False]) if masked else None
    for dtype in (torch.float64, torch.bfloat16):
        tokens = build(kind, training=True).to(dtype)(torch.randn(2, 3, 8, 8, dtype=dtype), mask)
        assert tokens.dense().isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build(kind, training=True)(torch.randn(2, 3, 8, 8), mask).dense().isfinite().all()


@every_adapter
@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, 8, 8, 3), r"\(batch, 3, height, width\), got \(2, 8, 8, 3\).*channels-last.*permute\(0, 3, 1, 2\)"),
        ((3, 8, 8), "unsqueeze"),
        ((2, 1, 8, 8), r"got \(2, 1, 8, 8\)\.$"),
        ((2, 3, 0, 8), r"got \(2, 3, 0, 8\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes(kind: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(kind)(torch.zeros(shape))


@every_adapter
@pytest.mark.usefixtures("unchecked")
def test_integer_images(kind: str) -> None:
    with pytest.raises(TypeError, match="floating point, got torch.uint8"):
        build(kind)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@every_adapter
def test_wrong_masks(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*or \(2, 8, 8\)"):
        build(kind)(torch.randn(2, 3, 8, 8), torch.ones(2, 3, 8, 8, dtype=torch.bool))


def test_wrong_patch() -> None:
    with pytest.raises(ValueError, match=r"ImagePatches\.patch.*got 0"):
        ImagePatches(image_channels=3, patch=0, position=fourier())


def test_conv_stem_of_transformers_leaves_out_windows_past_the_end() -> None:
    """A window counts where it lies within the image, so that an image alone and padded give the same tokens."""
    adapter = ImageConvStem(image_channels=2, stem_channels=3, position=fourier(), same_padding=False).eval()
    assert adapter(torch.randn(1, 2, 224, 224)).grid == (55, 55)
    image = torch.randn(1, 2, 17, 20)
    padded, mask = torch.full((1, 2, 30, 31), torch.nan), torch.zeros(1, 30, 31, dtype=torch.bool)
    padded[..., :17, :20], mask[:, :17, :20] = image, True
    alone, among = adapter(image), adapter(padded, mask)
    assert alone.grid == (4, 4)
    assert among.mask is not None
    assert among.mask.sum() == 16
    torch.testing.assert_close(among.dense()[among.dense_mask()], alone.dense()[0])
    with pytest.raises(ValueError, match="without same_padding expected at least 5 x 5 pixels"):
        adapter(torch.randn(1, 2, 4, 9))
