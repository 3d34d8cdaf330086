"""Modulation: scales and shifts of the state of an `Interface`, from the time and a summary of the conditions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.attention.projection import lecun_linear, linear_of_tokens
from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.tokens import Tokens
from perceiver.tokens.zero_gradients import with_zero_gradients


class Modulation(nn.Module):
    """Feature-wise scales and shifts (FiLM, Perez et al. 2018, arXiv:1709.07871) that depend on time and conditions.

    Latents pass on what they read only where a token asks for it, and time is one of many channels of a token. What holds
    for all tokens alike, how noisy the sample is and what it shows, is learned in far fewer steps if it scales and shifts
    them directly, as the adaptive norms of diffusion transformers do (Peebles and Xie 2022, arXiv:2212.09748, section 3.2).
    The conditions are summarised by the mean of their valid tokens, modality by modality; absent ones add nothing, as masked
    ones do. A mean of tokens knows what is said, not where: "a three left of a seven" is almost "a seven left of a three".
    With hidden channels, a layer sees each token with its position before the mean (deep sets, Zaheer et al. 2017,
    arXiv:1703.06114); otherwise order and place are left to the latents, which read the tokens.

    Scales and shifts are zero before training.

    Args:
        token_channels: width of the conditions' tokens.
        time_channels: e, width of the features of time.
        channels: width of the summary.
        state_channels: d, width of the state.
        num_places: number of places in the network at which the state is modulated.
        hidden_channels: width of a layer over each token, whose mean is added to that of the tokens; 0: none. Its result is
            dense, so conditions of many tokens cost time and memory.

    Examples:
        >>> import torch
        >>> from perceiver import Tokens
        >>> from perceiver.encoders.modulation import Modulation
        >>> modulation = Modulation(
        ...     token_channels=12, time_channels=3, channels=32, state_channels=16, num_places=2
        ... )
        >>> affine = modulation(torch.rand(2, 3), [Tokens(parts=(torch.rand(2, 5, 12),))])
        >>> [(scale.shape, shift.shape) for scale, shift in affine]
        [(torch.Size([2, 16]), torch.Size([2, 16])), (torch.Size([2, 16]), torch.Size([2, 16]))]
    """

    def __init__(
        self,
        *,
        token_channels: int,
        time_channels: int,
        channels: int,
        state_channels: int,
        num_places: int,
        hidden_channels: int = 0,
    ) -> None:
        super().__init__()
        check_at_least_one("Modulation", channels=channels, state_channels=state_channels, num_places=num_places)
        self.time = nn.Sequential(lecun_linear(time_channels, channels), nn.SiLU(), lecun_linear(channels, channels))
        self.condition = lecun_linear(token_channels, channels)
        self.hidden = None
        if hidden_channels:
            self.hidden = lecun_linear(token_channels, hidden_channels)
            self.from_hidden = lecun_linear(hidden_channels, channels)
        self.affine = nn.ModuleList(nn.Linear(channels, 2 * state_channels) for _ in range(num_places))
        for linear in self.affine:
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(
        self, time: Float[Tensor, "times time_channels"], conditions: Sequence[Tokens]
    ) -> list[tuple[Float[Tensor, "rows state_channels"], Float[Tensor, "rows state_channels"]]]:
        """Return scale and shift `(B or 1, d)` for each place.

        Args:
            time: features of time `(B or 1, e)`.
            conditions: a block of tokens for each condition; possibly none.
        """
        # All weights get gradients, and the same values, whether a condition is masked or absent.
        summary = with_zero_gradients(self.time(time), self._of_conditions())
        for block in conditions:
            tokens = block.cleaned()
            mean, present = mean_of_valid(tokens)
            summarised = self.condition(mean)
            if self.hidden is not None:
                hidden = F.gelu(linear_of_tokens(self.hidden, tokens))
                summarised = summarised + self.from_hidden(mean_of_valid(Tokens(parts=(hidden,), mask=tokens.mask))[0])
            summary = summary + torch.where(present, summarised, 0.0)
        return [linear(F.silu(summary)).chunk(2, dim=-1) for linear in self.affine]

    def _of_conditions(self) -> list[nn.Parameter]:
        """Return the weights that only conditions use."""
        layers = [self.condition] if self.hidden is None else [self.condition, self.hidden, self.from_hidden]
        return [parameter for layer in layers for parameter in layer.parameters()]


def mean_of_valid(tokens: Tokens) -> tuple[Float[Tensor, "batch_or_1 channels"], Bool[Tensor, "batch_or_1 1"]]:
    """Return the mean of the valid tokens of each sample, zeros without any, and whether there are any.

    Args:
        tokens: finite tokens; broadcast parts are not multiplied out.
    """
    axes = tuple(range(1, tokens.parts[0].ndim - 1))
    if tokens.mask is None:
        means = [part.mean(dim=axes) for part in tokens.parts]
        present = torch.ones(1, 1, dtype=torch.bool, device=tokens.device)
    else:
        mask = tokens.mask.expand(-1, *tokens.grid)
        count = mask.sum(dim=axes)[:, None]
        present = count > 0
        share = mask.to(tokens.parts[0].dtype) / count.clamp(min=1).reshape(-1, *[1] * len(axes))
        means = []
        for part in tokens.parts:
            shared = [axis for axis in axes if part.shape[axis] == 1]
            weight = share.sum(dim=shared, keepdim=True) if shared else share
            means.append((part * weight[..., None]).sum(dim=axes))
    rows = max(one.shape[0] for one in (*means, present))
    return torch.cat([mean.expand(rows, -1) for mean in means], dim=-1), present.expand(rows, 1)


def modulated(
    state: Float[Tensor, "batch *grid channels"],
    affine: tuple[Float[Tensor, "batch_or_1 channels"], Float[Tensor, "batch_or_1 channels"]],
) -> Float[Tensor, "batch *grid channels"]:
    """Return `state * (1 + scale) + shift`, the same for all tokens of a sample."""
    scale, shift = (part.reshape(part.shape[0], *[1] * (state.ndim - 2), -1) for part in affine)
    return state * (1 + scale) + shift
