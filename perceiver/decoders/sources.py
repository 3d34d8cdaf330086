"""From what a decoder reads of its memory to what it reads of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perceiver.decoders.memory import LATENTS


@dataclass(frozen=True, kw_only=True)
class Sources:
    """How much each latent has read of each input token, by modality; composes maps over the inputs.

    Args:
        latents: `(B, N, *grid)` by modality, at least 0. See `Perceiver.sources`.

    Examples:
        >>> import torch
        >>> from perceiver.decoders.sources import Sources
        >>> sources = Sources(latents={"image": torch.rand(2, 8, 4, 5)})
        >>> maps = sources.maps({"latents": torch.rand(2, 3, 7, 8).softmax(dim=-1)})
        >>> maps["image"].shape, bool(maps["image"].sum(dim=(-1, -2)).allclose(torch.ones(2, 3, 7)))
        (torch.Size([2, 3, 7, 4, 5]), True)
    """

    latents: Mapping[str, Tensor]

    def rows(self, index: Int[Tensor, "rows"]) -> Sources:
        """Return the sources of the samples `index`, in this order."""
        return Sources(latents={name: share[index] for name, share in self.latents.items()})

    def maps(
        self, weights: Mapping[str, Float[Tensor, "batch heads queries ..."]]
    ) -> dict[str, Float[Tensor, "batch heads queries ..."]]:
        """Turn weights on a memory into weights on the inputs, `(B, h, L, *grid)` by modality.

        Weights on written tokens are weights on the inputs already. Weights on latents are multiplied by what each latent
        has read, as shares that sum to 1 for each latent. So the weights of a query keep their sum, unless a sample has no
        valid token.

        Args:
            weights: weights of one layer by block of the memory; see `CausalDecoder.attention_weights`.
        """
        maps = {name: weight for name, weight in weights.items() if name != LATENTS}
        if LATENTS not in weights:
            return maps
        total = sum(share.flatten(2).sum(dim=2) for share in self.latents.values())
        assert isinstance(total, Tensor)
        scale = torch.where(total > 0, 1 / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)
        for name, share in self.latents.items():
            through = weights[LATENTS] @ (share.flatten(2) * scale[..., None])[:, None].to(weights[LATENTS].dtype)
            through = through.unflatten(-1, share.shape[2:])
            maps[name] = maps[name] + through if name in maps else through
        return {name: maps[name] for name in sorted(maps)}

    def averaged(
        self, layers: Sequence[Mapping[str, Float[Tensor, "batch heads queries ..."]]]
    ) -> dict[str, Float[Tensor, "batch queries ..."]]:
        """Return `maps` averaged over layers and heads, `(B, L, *grid)` by modality."""
        mean = {name: torch.stack([layer[name].mean(dim=1) for layer in layers]).mean(dim=0)[:, None] for name in layers[0]}
        return {name: weights[:, 0] for name, weights in self.maps(mean).items()}
