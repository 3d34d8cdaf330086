"""Local mixing against SciPy's correlation, on grids of one to four axes; masked tokens contribute nothing."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import nn

from perceiver.attention.local_mixing import LocalMixing


def mixing(kernel: list[int]) -> LocalMixing:
    torch.manual_seed(0)
    layer = LocalMixing(channels=3, kernel=kernel).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize(
    ("kernel", "grid"), [([5], (7,)), ([3, 5], (4, 6)), ([3, 1, 3], (2, 3, 4)), ([3, 3, 1, 3], (2, 3, 2, 3))]
)
def test_each_channel_is_correlated_with_its_kernel(kernel: list[int], grid: tuple[int, ...]) -> None:
    layer = mixing(kernel)
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    with torch.no_grad():
        normed = layer.norm(x).numpy()
        found = [
            [correlate(one[..., c], layer.weight[c, 0].numpy(), mode="constant") + layer.bias[c].item() for c in range(3)]
            for one in normed
        ]
        mixed = torch.from_numpy(np.moveaxis(np.array(found), 1, -1))
        expected = x + layer.output(nn.functional.gelu(mixed))
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_masked_tokens_are_as_far_as_those_beyond_the_edge() -> None:
    layer = mixing([3, 3])
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    padded = nn.functional.pad(x, (0, 0, 0, 2, 0, 1), value=torch.nan)
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[:, :3, :4] = True
    torch.testing.assert_close(layer(padded, mask)[:, :3, :4], layer(x), rtol=0, atol=1e-12)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"LocalMixing.kernel: expected an odd size for each axis of the grid, got \[4\]"):
        LocalMixing(channels=3, kernel=[4])
    with pytest.raises(ValueError, match="expected an odd size"):
        LocalMixing(channels=3, kernel=[])
    with pytest.raises(ValueError, match=r"\[3\] is for a grid of 1 axes, but the tokens are on the grid \(4, 5\)"):
        LocalMixing(channels=3, kernel=[3])(torch.rand(1, 4, 5, 3))
