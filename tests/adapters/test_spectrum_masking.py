"""SpectrumMasking: only in training, widths within their limits, other places in every sample; inside log-mel adapters."""

import pytest
import torch

from perceiver.adapters.audio import LogMelBins, LogMelFrames
from perceiver.adapters.spectrum_masking import SpectrumMasking
from perceiver.tokens.positions import Fourier


def test_hides_whole_bands_and_frames_of_limited_width() -> None:
    masking = SpectrumMasking(max_bands=3, max_frames=5)
    hidden = masking(torch.ones(500, 2, 20, 30)) == 0
    bands, frames = hidden.all(dim=3).sum(2), hidden.all(dim=2).sum(2)
    assert sorted(set(bands.flatten().tolist())) == [0, 1, 2, 3]
    assert sorted(set(frames.flatten().tolist())) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(hidden, hidden.all(dim=3, keepdim=True) | hidden.all(dim=2, keepdim=True))
    assert len({tuple(one.flatten().tolist()) for one in hidden}) > 300


def test_several_masks() -> None:
    masking = SpectrumMasking(max_bands=1, max_frames=0, num_band_masks=4, num_frame_masks=9)
    hidden = masking(torch.ones(300, 1, 40, 6)) == 0
    assert hidden.all(dim=3).sum(2).max() >= 3
    assert not hidden.all(dim=2).any()


def test_larger_limits_than_the_spectrum() -> None:
    assert SpectrumMasking(max_bands=100, max_frames=100)(torch.ones(50, 1, 4, 3)).shape == (50, 1, 4, 3)


def test_nothing_in_evaluation() -> None:
    spectrum = torch.rand(2, 1, 8, 9)
    assert SpectrumMasking(max_bands=8, max_frames=9).eval()(spectrum) is spectrum


def test_the_same_seed_hides_the_same() -> None:
    masking, spectrum = SpectrumMasking(max_bands=4, max_frames=4), torch.ones(8, 1, 9, 9)
    torch.manual_seed(1)
    first = masking(spectrum)
    torch.manual_seed(1)
    assert torch.equal(masking(spectrum), first)


@pytest.mark.parametrize("kind", [LogMelFrames, LogMelBins])
def test_log_mel_adapters_mask_in_training_only(kind: type[LogMelFrames] | type[LogMelBins]) -> None:
    position = Fourier(num_bands=2, resolution=[50.0] if kind is LogMelFrames else [50.0, 16.0])
    plain, masked = (
        kind(
            sample_rate=8000,
            num_mels=16,
            window_seconds=0.025,
            hop_seconds=0.01,
            duration_seconds=0.5,
            position=position,
            augment=augment,
        )
        for augment in (None, SpectrumMasking(max_bands=8, max_frames=20))
    )
    sound = torch.randn(4, 1, 4000)
    expected = plain(sound).parts[0]
    content = masked(sound).parts[0]
    hidden = content != expected
    assert hidden.any()
    assert not content[hidden].any()
    assert torch.equal(masked.eval()(sound).parts[0], expected)


@pytest.mark.parametrize("name", ["max_bands", "max_frames", "num_band_masks", "num_frame_masks"])
def test_errors_name_the_argument(name: str) -> None:
    with pytest.raises(ValueError, match=rf"SpectrumMasking\.{name}: expected 0 or more, got -1"):
        SpectrumMasking(**{"max_bands": 1, "max_frames": 1, name: -1})
