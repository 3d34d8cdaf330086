"""Randomly missing modalities, drawn once per data set, to simulate incomplete recordings."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def present_modalities(
    shares: Mapping[str, float], *, modalities: Sequence[str], num_samples: int, seed: int
) -> Bool[Tensor, "samples modalities"]:
    """Draw which modalities each sample has. No sample lacks all of them.

    Modalities go missing independently. A sample that would lack all modalities keeps a random modality, drawn uniformly.
    With large shares, modalities are therefore present somewhat more often than the shares state.

    Args:
        shares: by modality, the share of samples that lack it, 0 to 1; other modalities are always present.
        modalities: names, in the order of the columns. The draw for each modality depends on all of them.
        num_samples: number of samples.
        seed: seed of the draw.

    Raises:
        ValueError: a share out of range, or of an unknown modality.
    """
    for name, share in shares.items():
        if name not in modalities:
            raise ValueError(
                f"data.missing.{name}: expected shares for the modalities {list(modalities)}; remove it with "
                f"'~data.missing.{name}', or add {name} to data.modalities."
            )
        if not 0 <= share <= 1:
            raise ValueError(f"data.missing.{name}: expected a share of 0 to 1, got {share}.")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(num_samples, len(modalities), generator=generator)
    present = draw >= torch.tensor([float(shares.get(name, 0.0)) for name in modalities])
    # A separate draw: reusing `draw`, which decides what goes missing, would favour modalities with small shares.
    kept = torch.randint(len(modalities), (num_samples,), generator=generator)
    without = ~present.any(dim=1)
    present[without, kept[without]] = True
    return present
