"""Pixels of several frames with their surroundings."""

import pytest
import torch
import torch.nn.functional as F

from perceiver import Fourier
from perceiver.adapters import FrameSurroundings

PLANE = Fourier(num_bands=1, resolution=(4, 4))


def test_content_is_the_square_around_each_pixel_in_all_frames() -> None:
    x = torch.randn(2, 3, 2, 5, 6)
    tokens = FrameSurroundings(video_channels=3, position=PLANE)(x)
    assert tokens.grid == (5, 6)
    padded = F.pad(x, (1, 1, 1, 1))
    around = padded[1, :, :, 2:5, 4:7]  # of row 2, column 4: colours, frames, rows, columns
    torch.testing.assert_close(tokens.parts[0][1, 2, 4], around.permute(1, 2, 3, 0).flatten())


def test_a_pixel_is_valid_where_it_is_in_any_frame() -> None:
    adapter = FrameSurroundings(video_channels=1, window=1, position=PLANE)
    x = torch.full((1, 1, 2, 2, 2), torch.nan)
    x[0, 0, 0, 0, 0] = 1
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0] = True
    tokens = adapter(x, mask)
    assert tokens.mask is not None
    assert tokens.mask.sum() == 1
    torch.testing.assert_close(tokens.parts[0][0, 0, 0], torch.tensor([1.0, 0.0]))


def test_errors(unchecked: None) -> None:
    adapter = FrameSurroundings(video_channels=3, position=PLANE)
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 2, height, width\).*use x.transpose\(1, 2\)"):
        adapter(torch.zeros(1, 2, 3, 5, 6))
    with pytest.raises(TypeError, match="expected floating point"):
        adapter(torch.zeros(1, 3, 2, 5, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match="an odd window, got video_channels=3, num_frames=2, window=2"):
        FrameSurroundings(video_channels=3, window=2, position=PLANE)
    with pytest.raises(ValueError, match=r"FrameSurroundings\.embedding_channels"):
        FrameSurroundings(video_channels=3, embedding_channels=0, position=PLANE)
