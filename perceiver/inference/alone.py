"""One modality of a batch by itself."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from perceiver.samples.batch import Batch, first_tensor
from perceiver.tokens.masks import presence


def alone(batch: Batch, modality: str) -> tuple[dict[str, Any], dict[str, Tensor], Bool[Tensor, "batch"]]:
    """Return inputs and masks of the P samples that have a modality, with nothing else, and which samples they are.

    Args:
        batch: B samples.
        modality: a modality of the batch.

    Returns:
        Inputs `(P, …)` and masks by modality, as a model takes them, and presence `(B,)`.

    Examples:
        >>> import torch
        >>> from perceiver import Batch
        >>> from perceiver.inference.alone import alone
        >>> batch = Batch(inputs={"image": torch.rand(3, 1, 4, 4)}, masks={"image": torch.tensor([True, False, True])})
        >>> inputs, masks, present = alone(batch, "image")
        >>> inputs["image"].shape, masks, present.tolist()
        (torch.Size([2, 1, 4, 4]), {}, [True, False, True])
    """
    x, mask = batch.inputs[modality], batch.masks.get(modality)
    present = presence(x, mask)
    if present is None:
        return {modality: x}, {}, torch.ones(batch.size, dtype=torch.bool, device=first_tensor(x).device)
    rows = present.to(first_tensor(x).device)
    chosen = x[rows] if isinstance(x, Tensor) else {name: part[rows] for name, part in x.items()}
    masks = {} if mask is None or mask.ndim == 1 else {modality: mask[rows]}
    return {modality: chosen}, masks, rows
