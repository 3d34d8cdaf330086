"""Interface: blocks of read, compute and write, whose tokens are updated on their own grid.

Recurrent Interface Networks (Jabri et al. 2022, arXiv:2212.11972). Few latents do most of the work, as in any Perceiver, and
after each block the tokens of one modality read the latents. So a model can predict something for each token, such as the
velocity of a noisy image, from tokens of any other modality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceiver.attention.cross import Form
from perceiver.attention.feed_forward import FeedForward
from perceiver.attention.layers import CrossAttend, SelfAttend
from perceiver.attention.local_mixing import LocalMixing
from perceiver.attention.projection import lecun_linear, linear_of_tokens
from perceiver.encoders.modulation import Modulation, modulated
from perceiver.encoders.reads import Observe, shares_by_block, weights_by_block
from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_at_least_one, check_dropout, check_positive
from perceiver.runtime.regularising import regularising
from perceiver.tokens.masks import zero_masked
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens
from perceiver.tokens.zero_gradients import with_zero_gradients


@dataclass(frozen=True, kw_only=True)
class Interfaced:
    """The result of an `Interface`.

    Args:
        state: written tokens `(B, *grid, d)`; zeros where masked.
        latents: `(B, N, D)`, for the heads of other encoders and as the `previous` of the next call.
    """

    state: Float[Tensor, "batch *grid state_channels"]
    latents: Float[Tensor, "batch latents latent_channels"]


@regularising(dropout=0.0)
class Interface(nn.Module):
    """Blocks in which latents read tokens, compute, and are read by the tokens of one modality, the state.

    In each block the state is mixed with its neighbours on the grid, the latents cross-attend to the state and all other
    tokens in one softmax, attend to each other, and the state cross-attends to the latents. The state `(B, *grid, d)` is
    dense; everything else stays factored. A token of the state, as the latents read it, is its part of the state, the time
    `(B, 1, …, e)`, and the parts that the encoder got, so that neither positions nor time are multiplied out.

    With `num_blocks=1` and without `local_kernel` it is Perceiver IO with one output query per input token.

    With `modulation_channels`, time and conditions also scale and shift the state before each block and after the last one;
    see `Modulation`.

    Args:
        token_channels: C of the fused tokens.
        num_latents: N.
        latent_channels: D.
        state_channels: d, width of the state.
        num_blocks: blocks of read, compute and write; they share no weights.
        num_layers_per_block: self-attention layers of the latents in each block.
        local_kernel: neighbourhood on the grid that is mixed before each read: an odd size for each axis, `[3, 3]` for
            images, `[5]` for sequences. None: no mixing, for tokens without neighbours, such as points.
        num_cross_heads: heads of the latents that read.
        num_write_heads: heads of the state that reads the latents.
        num_self_heads: heads of the latents' self-attention.
        cross_widening: hidden channels per channel of the feed-forward layer after a read.
        write_widening: the same after a write.
        self_widening: the same after self-attention.
        time_bands: frequencies of the Fourier features of time, of which there are e = 2 * time_bands + 1.
        self_condition: start from the latents of an earlier call, if there are any (latent self-conditioning, section 3 of
            the paper).
        modulation_channels: width of the summary of time and conditions that modulates the state; 0: no modulation.
        modulation_hidden_channels: width of a hidden layer over each token of a condition, so that the summary knows what is
            said where; 0: none.
        dropout: probability of dropping a channel before each residual in training.
        latent_std: standard deviation of the initial latents, truncated at two.
        attention: form of the reads: `auto`, `factored` or `dense`. All compute the same function.
        checkpoint_activations: in training, recompute each block in the backward pass, for less memory.

    Raises:
        ValueError: for invalid numbers; names the argument.

    Examples:
        >>> import torch
        >>> from perceiver import Tokens
        >>> from perceiver.encoders.interface import Interface
        >>> interface = Interface(
        ...     token_channels=12, num_latents=8, latent_channels=32, state_channels=16, local_kernel=[3, 3]
        ... )
        >>> image = Tokens(parts=(torch.rand(2, 7, 7, 8), torch.rand(1, 7, 1, 2), torch.rand(1, 1, 7, 2)))
        >>> text = Tokens(parts=(torch.rand(2, 5, 12),))
        >>> result = interface([image, text], state=0, time=torch.tensor([0.1, 0.9]))
        >>> result.state.shape, result.latents.shape
        (torch.Size([2, 7, 7, 16]), torch.Size([2, 8, 32]))
    """

    def __init__(
        self,
        *,
        token_channels: int,
        num_latents: int,
        latent_channels: int,
        state_channels: int,
        num_blocks: int = 3,
        num_layers_per_block: int = 2,
        local_kernel: Sequence[int] | None = None,
        num_cross_heads: int = 4,
        num_write_heads: int = 4,
        num_self_heads: int = 4,
        cross_widening: int = 1,
        write_widening: int = 2,
        self_widening: int = 2,
        time_bands: int = 8,
        self_condition: bool = False,
        modulation_channels: int = 0,
        modulation_hidden_channels: int = 0,
        dropout: float = 0.0,
        latent_std: float = 0.02,
        attention: Form = "auto",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        check_at_least_one(
            "Interface",
            token_channels=token_channels,
            num_latents=num_latents,
            latent_channels=latent_channels,
            state_channels=state_channels,
            num_blocks=num_blocks,
            num_layers_per_block=num_layers_per_block,
        )
        widths = {"modulation_channels": modulation_channels, "modulation_hidden_channels": modulation_hidden_channels}
        for name, width in widths.items():
            if width < 0:
                raise ValueError(f"Interface.{name}: expected at least 0, got {width}.")
        if modulation_hidden_channels and not modulation_channels:
            raise ValueError(
                f"Interface.modulation_hidden_channels: got {modulation_hidden_channels} without modulation; expected "
                "modulation_channels of at least 1, or no hidden channels."
            )
        check_positive("Interface", latent_std=latent_std)
        check_dropout("Interface", dropout=dropout)
        self.token_channels = token_channels
        self.num_latents = num_latents
        self.latent_channels = latent_channels
        self.state_channels = state_channels
        self.num_blocks = num_blocks
        self.checkpoint_activations = checkpoint_activations
        self.time = Fourier(num_bands=time_bands, resolution=(4 * time_bands,))
        self.latents = nn.Parameter(torch.empty(num_latents, latent_channels))
        truncated_normal_(self.latents, std=latent_std)
        # Other tokens have no state and no time: learned channels stand for both.
        self.padding = nn.Parameter(torch.empty(state_channels + self.time.channels))
        truncated_normal_(self.padding, std=latent_std)
        self.embed = lecun_linear(token_channels + self.time.channels, state_channels)
        self.previous = _Previous(channels=latent_channels) if self_condition else None
        self.blocks = nn.ModuleList(
            _Block(
                read=CrossAttend(
                    query_channels=latent_channels,
                    token_channels=token_channels + self.time.channels + state_channels,
                    num_heads=num_cross_heads,
                    qk_channels=latent_channels,
                    widening=cross_widening,
                    dropout=dropout,
                    attention=attention,
                ),
                compute=[
                    SelfAttend(channels=latent_channels, num_heads=num_self_heads, widening=self_widening, dropout=dropout)
                    for _ in range(num_layers_per_block)
                ],
                write=CrossAttend(
                    query_channels=state_channels,
                    token_channels=latent_channels,
                    num_heads=num_write_heads,
                    qk_channels=state_channels,
                    widening=write_widening,
                    dropout=dropout,
                    # Latents are a single dense part.
                    attention="dense",
                ),
                mix=None if local_kernel is None else LocalMixing(channels=state_channels, kernel=local_kernel),
            )
            for _ in range(num_blocks)
        )
        self.modulation = None
        if modulation_channels:
            self.modulation = Modulation(
                token_channels=token_channels + self.time.channels + state_channels,
                time_channels=self.time.channels,
                channels=modulation_channels,
                hidden_channels=modulation_hidden_channels,
                state_channels=state_channels,
                num_places=num_blocks + 1,
            )

    @property
    def self_conditions(self) -> bool:
        """Whether the model takes the latents of an earlier call."""
        return self.previous is not None

    @property
    def num_cross_attends(self) -> int:
        """Number of reads."""
        return self.num_blocks

    def latent_layers(self) -> list[nn.Module]:
        """Return the latents' self-attention layers of all blocks."""
        return [layer for block in self.blocks for layer in cast("_Block", block).compute]

    def forward(
        self,
        tokens: Sequence[Tokens],
        reads: Sequence[Sequence[int]] | None = None,
        *,
        state: int | None,
        time: Float[Tensor, "batch"] | None = None,
        previous: Float[Tensor, "batch latents channels"] | None = None,
    ) -> Interfaced:
        """Run all blocks.

        Args:
            tokens: one block for each modality, all of width C.
            reads: for each read in order, the indices of the blocks in `tokens`; None: all read all.
            state: index of the block in `tokens` that is written.
            time: `(B,)` in [0, 1]; None: 1 for all, data without noise.
            previous: latents of an earlier call, for `self_condition`; None: none.

        Raises:
            ValueError: without tokens of the state, for `previous` without `self_condition`, or if the grid of the state
                does not fit `local_kernel`.
        """
        return self._run(tokens, reads, state=state, time=time, previous=previous, observe=None)

    def attention_weights(
        self,
        tokens: Sequence[Tokens],
        reads: Sequence[Sequence[int]] | None = None,
        *,
        state: int | None,
        time: Float[Tensor, "batch"] | None = None,
        previous: Float[Tensor, "batch latents channels"] | None = None,
    ) -> list[tuple[Float[Tensor, "batch heads latents *grid"], ...]]:
        """Return the attention weights of each read, as `Encoder.attention_weights` does. See `forward` for arguments."""
        weights: list[tuple[Tensor, ...]] = []

        def observe(layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], places: Sequence[int]) -> None:
            weights.append(weights_by_block(layer, latents, read, places=places, tokens=tokens))

        self._run(tokens, reads, state=state, time=time, previous=previous, observe=observe)
        return weights

    def attention_by_block(
        self,
        tokens: Sequence[Tokens],
        reads: Sequence[Sequence[int]] | None = None,
        *,
        state: int | None,
        time: Float[Tensor, "batch"] | None = None,
        previous: Float[Tensor, "batch latents channels"] | None = None,
    ) -> list[tuple[Float[Tensor, "batch"], ...]]:
        """Return each block's share of the attention of each read, as `Encoder.attention_by_block` does."""
        shares: list[tuple[Tensor, ...]] = []

        def observe(layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], places: Sequence[int]) -> None:
            shares.append(shares_by_block(layer, latents, read, places=places, tokens=tokens))

        self._run(tokens, reads, state=state, time=time, previous=previous, observe=observe)
        return shares

    def explain_attention(self, tokens: Sequence[Tokens]) -> str:
        """Describe the form and implementation of the reads for these tokens, and the reason, briefly for tables."""
        first = self.blocks[0]
        assert isinstance(first, _Block)
        padded = [self._padded(block) for block in tokens]
        return first.read.attention.explain(padded, num_queries=self.num_latents)

    def _run(
        self,
        tokens: Sequence[Tokens],
        reads: Sequence[Sequence[int]] | None,
        *,
        state: int | None,
        time: Tensor | None,
        previous: Tensor | None,
        observe: Observe | None,
    ) -> Interfaced:
        if state is None or not 0 <= state < len(tokens):
            raise ValueError(
                "Interface.state: expected the index of the block of tokens to write, got "
                f"{state} for {len(tokens)} blocks. Give the model the modality that it generates."
            )
        own = tokens[state].cleaned()
        features = self._time_features(time, own)
        timed = own.append(features)
        written = linear_of_tokens(self.embed, timed)
        others = [self._padded(block) for block in tokens]
        affine = None
        if self.modulation is not None:
            conditions = [block for place, block in enumerate(others) if place != state]
            affine = self.modulation(features.flatten(1), conditions)
        latents = self._initial(previous)
        for step, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            if affine is not None:
                written = modulated(written, affine[step])
            places = range(len(tokens)) if reads is None else reads[step]
            read = [timed if place == state else others[place] for place in places]
            at = [number for number, place in enumerate(places) if place == state]
            if not read:
                # Zeros, as if all tokens were masked; all weights get gradients.
                nothing = torch.zeros((1,) * (own.parts[0].ndim - 1), dtype=torch.bool, device=own.device)
                read, at = [replace(timed, mask=nothing)], [0]
            watch = None if observe is None else _watching(observe, places)
            if self.checkpoint_activations and self.training and torch.is_grad_enabled():
                written, latents = checkpoint(block, written, latents, read, at, own.mask, watch, use_reentrant=False)
            else:
                written, latents = block(written, latents, read, at, own.mask, watch)
        if affine is not None:
            written = modulated(written, affine[-1])
        written = zero_masked(written, None if own.mask is None else own.mask[..., None])
        # Learned channels of absent modalities need a gradient, too.
        return Interfaced(state=with_zero_gradients(written, [self.padding]), latents=latents)

    def _time_features(self, time: Tensor | None, own: Tokens) -> Tensor:
        """Return the Fourier features of time as a part `(B or 1, 1, …, e)`."""
        if time is None:
            time = torch.ones(1, device=own.device)
        coordinates = (2 * time.to(torch.float32) - 1)[:, None]
        (features,) = self.time((coordinates,))
        shaped: Tensor = features.reshape(features.shape[0], *[1] * len(own.grid), -1)
        return shaped.to(self.latents.dtype)

    def _padded(self, block: Tokens) -> Tokens:
        """Return the tokens of a modality without a state, at the width of the tokens that the latents read."""
        return block.append(self.padding.reshape(*[1] * (block.parts[0].ndim - 1), -1))

    def _initial(self, previous: Tensor | None) -> Tensor:
        """Return the latents `(B or 1, N, D)` with which the first block starts."""
        if self.previous is None:
            if previous is not None:
                raise ValueError("Interface: got `previous` latents; expected none without self_condition.")
            return self.latents[None]
        if previous is None:
            return with_zero_gradients(self.latents[None], self.previous.parameters())
        added: Tensor = self.previous(previous)
        return self.latents + added


class _Block(nn.Module):
    """Local mixing, read, compute and write."""

    def __init__(
        self, *, read: CrossAttend, compute: Sequence[SelfAttend], write: CrossAttend, mix: LocalMixing | None
    ) -> None:
        super().__init__()
        self.mix = mix
        self.read = read
        self.compute = nn.ModuleList(compute)
        self.write = write

    def forward(
        self,
        state: Float[Tensor, "batch *grid state_channels"],
        latents: Float[Tensor, "batch_or_1 latents latent_channels"],
        blocks: Sequence[Tokens],
        at: Sequence[int],
        mask: Tensor | None,
        watch: Callable[[CrossAttend, Tensor, Sequence[Tokens]], None] | None,
    ) -> tuple[Tensor, Tensor]:
        """Return state and latents after the block.

        Args:
            state: tokens to write.
            latents: `(B or 1, N, D)`.
            blocks: blocks of tokens to read; those of the state lack their part of the state.
            at: index in `blocks` of the tokens of the state, if they are read.
            mask: validity of the state.
            watch: sees the read before it happens.
        """
        if self.mix is not None:
            state = self.mix(state, mask)
        read = [block.append(state) if number in at else block for number, block in enumerate(blocks)]
        if watch is not None:
            watch(self.read, latents, read)
        latents = self.read(latents, read)
        for layer in self.compute:
            latents = layer(latents)
        written = self.write(state.flatten(1, -2), [Tokens(parts=(latents,))])
        return written.reshape(state.shape), latents


class _Previous(nn.Module):
    """What the latents of an earlier call add to the initial latents; nothing before training."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.feed_forward = FeedForward(channels=channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, latents: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch latents channels"]:
        out: Tensor = self.norm(latents + self.feed_forward(latents))
        return out


def _watching(observe: Observe, places: Sequence[int]) -> Callable[[CrossAttend, Tensor, Sequence[Tokens]], None]:
    def watch(layer: CrossAttend, latents: Tensor, blocks: Sequence[Tokens]) -> None:
        observe(layer, latents, blocks, places)

    return watch
