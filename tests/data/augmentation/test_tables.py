"""Noise and dropout of table cells: missing cells stay missing, one cell remains."""

import pytest
import torch

from perceiver.data.augmentation.tables import RandomCellDropout, RandomNumberNoise


def rows(count: int = 4000) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    present = torch.tensor([True, False, True, True]).repeat(count, 1)
    return {
        "numbers": torch.ones(count, 2) * present[:, :2],
        "categories": torch.tensor([[3, 4]]).repeat(count, 1),
        "present": present,
    }


def test_noise_changes_present_numbers_only() -> None:
    before = rows()
    after, mask = RandomNumberNoise(std=0.5)(before, None)
    assert mask is None
    assert not after["numbers"][:, 1].any()
    assert after["numbers"][:, 0].mean().item() == pytest.approx(1, abs=0.05)
    assert after["numbers"][:, 0].std().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(after["categories"], before["categories"])


def test_dropped_cells_are_missing() -> None:
    after, _ = RandomCellDropout(rate=0.3)(rows(), None)
    present = after["present"]
    assert not present[:, 1].any()
    assert present.any(dim=1).all()
    assert present[:, [0, 2, 3]].float().mean().item() == pytest.approx(0.7 + 0.3**3 / 3, abs=0.02)
    assert torch.equal(after["numbers"] != 0, present[:, :2])
    assert torch.equal(after["categories"] != 0, present[:, 2:])
    one, _ = RandomCellDropout(rate=1)(rows(), None)
    assert one["present"].sum(dim=1).unique().tolist() == [1]


def test_absent_rows_stay_empty() -> None:
    empty = {name: torch.zeros_like(x) for name, x in rows(2).items()}
    after, mask = RandomCellDropout(rate=0.5)(empty, torch.tensor([False, False]))
    assert not after["present"].any()
    assert mask is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomNumberNoise(std=-1), r"RandomNumberNoise\.std: expected 0 or more, got -1"),
        (lambda: RandomCellDropout(rate=2), r"RandomCellDropout\.rate: expected 0 to 1, got 2"),
    ],
)
def test_arguments_out_of_range(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
