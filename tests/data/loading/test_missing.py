"""Missing modalities: shares, independence, repeatability, never all."""

import pytest
import torch

from perceiver.data.loading.missing import present_modalities

BOTH = ("image", "audio")


def test_the_share_of_one_modality() -> None:
    present = present_modalities({"audio": 0.3}, modalities=BOTH, num_samples=20_000, seed=0)
    assert present[:, 0].all()
    assert present[:, 1].float().mean().item() == pytest.approx(0.7, abs=0.01)


def test_no_sample_lacks_all() -> None:
    present = present_modalities({"image": 0.5, "audio": 0.5}, modalities=BOTH, num_samples=20_000, seed=0)
    assert present.any(dim=1).all()
    both, image, audio = (
        (present == torch.tensor(row)).all(dim=1).float().mean().item() for row in ([1, 1], [1, 0], [0, 1])
    )
    assert (both, image, audio) == pytest.approx((0.25, 0.375, 0.375), abs=0.01)


def test_what_is_kept_of_those_that_would_lack_all_is_any() -> None:
    present = present_modalities({"image": 1, "audio": 1}, modalities=BOTH, num_samples=20_000, seed=0)
    assert (present.sum(dim=1) == 1).all()
    assert present[:, 0].float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_repeatable() -> None:
    draw = [present_modalities({"audio": 0.5}, modalities=BOTH, num_samples=100, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_wrong_shares() -> None:
    with pytest.raises(ValueError, match=r"data\.missing\.video: expected shares for the modalities \['image', 'audio'\]"):
        present_modalities({"video": 0.5}, modalities=BOTH, num_samples=1, seed=0)
    with pytest.raises(ValueError, match=r"data\.missing\.audio: expected a share of 0 to 1, got 50"):
        present_modalities({"audio": 50}, modalities=BOTH, num_samples=1, seed=0)


def test_shares_of_none_and_of_all() -> None:
    present = present_modalities({"image": 0, "audio": 1}, modalities=BOTH, num_samples=1000, seed=3)
    assert present[:, 0].all()
    assert not present[:, 1].any()
    assert present_modalities({}, modalities=BOTH, num_samples=5, seed=0).all()
    with pytest.raises(ValueError, match=r"data\.missing\.audio: expected a share of 0 to 1, got -0\.1"):
        present_modalities({"audio": -0.1}, modalities=BOTH, num_samples=1, seed=0)
