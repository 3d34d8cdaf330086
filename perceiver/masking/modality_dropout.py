"""Modality dropout: samples lose modalities in training, so that a model learns to work without each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perceiver.samples.batch import first_tensor
from perceiver.tokens.masks import presence


class ModalityDropout(nn.Module):
    """Drop each modality of a sample with the modality's rate in training, but never the sample's last modality.

    If all modalities of a sample would be dropped, one of them is kept, chosen uniformly. So a modality is dropped slightly
    less often than its rate: by the probability that all are drawn, divided by their number. Nothing is dropped in
    evaluation. Dropping video from 30% of the samples improved the Perceiver from 39.9 to 43.2 mAP on AudioSet (Jaegle et
    al. 2021, arXiv:2103.03206).

    A dropped modality is masked, and its tensors stay in the batch. So every parameter is used in every step of every
    process and gets a gradient, zero if no sample has its modality, because data-parallel training waits for all gradients.

    Args:
        rates: probability in [0, 1) of dropping each modality; modalities without a rate are never dropped. None: no rates.

    Raises:
        ValueError: for a rate outside [0, 1).

    Examples:
        >>> import torch
        >>> from perceiver import ModalityDropout
        >>> dropout = ModalityDropout(rates={"image": 0.5, "sound": 0.5})
        >>> masks = dropout({"image": torch.rand(100, 3, 8, 8), "sound": torch.rand(100, 1, 50)})
        >>> bool((masks["image"] | masks["sound"]).all())  # every sample keeps a modality
        True
        >>> dropout.eval()({"image": torch.rand(2, 3, 8, 8), "sound": torch.rand(2, 1, 50)})
        {}
    """

    def __init__(self, *, rates: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.rates = {name: float(rate) for name, rate in (rates or {}).items()}
        for name, rate in self.rates.items():
            if not 0.0 <= rate < 1.0:
                raise ValueError(
                    f"ModalityDropout.rates: expected probabilities of at least 0 and below 1, got {rate} for "
                    f"{name!r}; to always drop a modality, leave it out of the data."
                )

    def forward(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return masks in which dropped modalities are False; inputs and masks are those of `Perceiver.tokens`.

        The masks (and a tensor `present` in a modality's input) define which modalities a sample has. Draws from torch's
        global generator, on the device of the inputs.
        """
        masks = dict(masks or {})
        names = sorted(inputs)
        if not self.training or len(names) < 2 or not any(self.rates.get(name, 0.0) for name in names):
            return masks
        had = torch.stack([_present(inputs[name], masks.get(name)) for name in names], dim=1)
        draws, order = torch.rand(2, *had.shape, device=had.device)
        rates = [self.rates.get(name, 0.0) for name in names]
        kept = had & torch.stack([draw >= rate for draw, rate in zip(draws.unbind(dim=1), rates, strict=True)], dim=1)
        stays = order.masked_fill(~had, -1.0).argmax(dim=1, keepdim=True)
        others = torch.arange(len(names), device=had.device) != stays
        kept = kept | (had & ~others & ~kept.any(dim=1, keepdim=True))
        for name, rate, present in zip(names, rates, kept.unbind(dim=1), strict=True):
            if rate:
                mask = masks.get(name)
                if mask is not None and mask.ndim > 1:
                    present = mask & present.reshape(-1, *[1] * (mask.ndim - 1))
                masks[name] = present
        return masks

    def extra_repr(self) -> str:
        """Return the rates, for `print(model)`."""
        return f"rates={self.rates}"


def _present(x: Tensor | Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
    """Return the presence `(B,)` of a modality in each sample."""
    present = presence(x, mask)
    if present is not None:
        return present
    first = first_tensor(x)
    return torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
