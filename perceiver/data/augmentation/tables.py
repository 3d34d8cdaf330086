"""Augmentation of batches of table rows, with separate random parameters for every row.

Each transform takes the tensors of `perceiver.modalities.table.TableModality`, `numbers` `(B, n)`, normalised, `categories`
`(B, k)` and `present` `(B, n + k)`, and the mask `(B,)` of present rows or None, and returns the same.
"""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Row = dict[str, Tensor]
Mask = Bool[Tensor, "batch"] | None


class RandomNumberNoise(nn.Module):
    """Add Gaussian noise to every present number.

    Args:
        std: standard deviation of the noise, in standard deviations of the column.
    """

    def __init__(self, *, std: float) -> None:
        super().__init__()
        if not 0 <= std < float("inf"):
            raise ValueError(f"RandomNumberNoise.std: expected 0 or more, got {std}.")
        self.std = std

    def forward(self, row: Row, mask: Mask) -> tuple[Row, Mask]:
        """Transform the numbers; shapes, missing cells and mask are unchanged."""
        numbers = row["numbers"]
        present = row["present"][:, : numbers.shape[1]]
        noisy = numbers + torch.randn_like(numbers) * self.std
        return {**row, "numbers": torch.where(present, noisy, numbers)}, mask

    def extra_repr(self) -> str:
        return f"std={self.std}"


class RandomCellDropout(nn.Module):
    """Make cells of every row missing; at least one present cell remains.

    Args:
        rate: probability that a cell becomes missing.
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"RandomCellDropout.rate: expected 0 to 1, got {rate}.")
        self.rate = rate

    def forward(self, row: Row, mask: Mask) -> tuple[Row, Mask]:
        """Transform a row: a missing number or category is 0; shapes and mask are unchanged."""
        present = row["present"]
        draw = torch.where(present, torch.rand(present.shape, device=present.device), -1.0)
        # The cell with the largest random number remains at any rate.
        kept = present & ((draw >= self.rate) | (draw == draw.amax(dim=1, keepdim=True)))
        numbers, categories = row["numbers"], row["categories"]
        count = numbers.shape[1]
        return {
            "numbers": torch.where(kept[:, :count], numbers, numbers.new_zeros(())),
            "categories": torch.where(kept[:, count:], categories, categories.new_zeros(())),
            "present": kept,
        }, mask

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
