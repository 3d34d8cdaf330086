"""Which samples lack which modalities, drawn once: as in collections where not everything was recorded."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def present_modalities(
    shares: Mapping[str, float], *, modalities: Sequence[str], num_samples: int, seed: int
) -> Bool[Tensor, "samples modalities"]:
    """Whether each sample has each modality. No sample lacks all.

    Each modality goes missing independently of the others; a sample that would lack all keeps one of them, any with equal
    chance. Where all go missing often, they are therefore there somewhat more often than the shares say.

    Args:
        shares: by modality, the share of samples that lack it, 0 to 1; others are always there.
        modalities: names, in the order of the columns. What is drawn for one depends on all of them.
        num_samples: how many.
        seed: which of them.

    Raises:
        ValueError: a share out of range, or of a modality that is not there.
    """
    for name, share in shares.items():
        if name not in modalities:
            raise ValueError(
                f"data.missing.{name}: expected shares of the modalities {list(modalities)}; remove it with "
                f"'~data.missing.{name}', or add {name} to data.modalities."
            )
        if not 0 <= share <= 1:
            raise ValueError(f"data.missing.{name}: expected a share of 0 to 1, got {share}.")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(num_samples, len(modalities), generator=generator)
    present = draw >= torch.tensor([float(shares.get(name, 0.0)) for name in modalities])
    # A draw of its own: the one above says who goes missing, and would favour small shares.
    kept = torch.randint(len(modalities), (num_samples,), generator=generator)
    without = ~present.any(dim=1)
    present[without, kept[without]] = True
    return present
