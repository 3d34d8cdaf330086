"""The encoder: learned latents that read the tokens by cross-attention and process them in blocks of self-attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceiver.attention import CrossAttend, Form, SelfAttend
from perceiver.encoders.reads import Observe, batch_of, share_read, shares_by_block, weights_by_block
from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_at_least_one, check_positive
from perceiver.runtime.regularising import regularising
from perceiver.tokens.tokens import Tokens


@regularising(dropout=0.0, attention_dropout=0.0)
class Encoder(nn.Module):
    """Perceiver (a cross-attend before each block), Perceiver IO (one cross-attend) and everything between.

    Cross-attend i runs before block i, for the first `num_cross_attends` of the `num_blocks` blocks. Weight sharing is
    explicit. The published ImageNet Perceiver has 8 cross-attends, of which all but the first share weights, and one
    block of 6 layers used 8 times. (The paper's text differs, but its 44.9 M parameters agree.)

    Args:
        token_channels: C, width of the tokens of all modalities (`Fusion.channels`, or a single adapter's `channels`).
        num_latents: N.
        latent_channels: D.
        num_cross_attends: number of times the latents read the inputs, 1 to `num_blocks`.
        num_blocks: number of self-attention blocks.
        num_layers_per_block: self-attention layers in a block.
        num_cross_heads: heads of the cross-attention.
        num_self_heads: heads of the self-attention.
        cross_qk_channels: width of queries and keys in cross-attention; None takes `token_channels`.
        cross_v_channels: width of values in cross-attention; None takes the width of queries and keys.
        self_qk_channels: width of queries and keys in self-attention; None takes `latent_channels`.
        self_v_channels: width of values in self-attention; None takes the width of queries and keys.
        cross_widening: hidden channels of the feed-forward layer after cross-attention, per channel.
        self_widening: the same after self-attention.
        share_cross_attends: all cross-attends after the first have the same weights.
        share_first_cross_attend: the first cross-attend shares them too.
        share_blocks: all blocks after the first have the same weights.
        share_first_block: the first block shares them too.
        query_residual: add the latents to the output of cross-attention.
        dropout: probability of dropping a channel before each residual in training.
        attention_dropout: probability of dropping an attention weight in training.
        latent_std: standard deviation of the initial latents, truncated at two (Perceiver, section 3.2).
        approximate_gelu: the tanh form of GELU, JAX's default, instead of the exact one.
        attention: form of cross-attention: `auto`, `factored` or `dense`. All compute the same function.
        checkpoint_activations: in training, keep only the latents between layers and recompute the rest in the backward
            pass (Chen et al. 2016, arXiv:1604.06174): the same gradients, dropout included, at the cost of one more forward.

    Examples:
        >>> import torch
        >>> from perceiver import Encoder, Tokens
        >>> encoder = Encoder(token_channels=20, num_latents=16, latent_channels=64, num_cross_attends=2, num_blocks=4)
        >>> encoder([Tokens(parts=(torch.rand(3, 10, 10, 20),))]).shape
        torch.Size([3, 16, 64])
    """

    def __init__(
        self,
        *,
        token_channels: int,
        num_latents: int,
        latent_channels: int,
        num_cross_attends: int = 1,
        num_blocks: int = 1,
        num_layers_per_block: int = 6,
        num_cross_heads: int = 1,
        num_self_heads: int = 8,
        cross_qk_channels: int | None = None,
        cross_v_channels: int | None = None,
        self_qk_channels: int | None = None,
        self_v_channels: int | None = None,
        cross_widening: int = 1,
        self_widening: int = 1,
        share_cross_attends: bool = True,
        share_first_cross_attend: bool = False,
        share_blocks: bool = True,
        share_first_block: bool = True,
        query_residual: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        latent_std: float = 0.02,
        approximate_gelu: bool = False,
        attention: Form = "auto",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        check_at_least_one(
            "Encoder",
            token_channels=token_channels,
            num_latents=num_latents,
            latent_channels=latent_channels,
            num_blocks=num_blocks,
            num_layers_per_block=num_layers_per_block,
        )
        check_positive("Encoder", latent_std=latent_std)
        if not 1 <= num_cross_attends <= num_blocks:
            raise ValueError(
                f"Encoder.num_cross_attends: expected 1 to num_blocks = {num_blocks}, got {num_cross_attends}: "
                "cross-attend i runs before block i."
            )
        self.token_channels = token_channels
        self.num_latents = num_latents
        self.latent_channels = latent_channels
        self.checkpoint_activations = checkpoint_activations
        self.latents = nn.Parameter(torch.empty(num_latents, latent_channels))
        truncated_normal_(self.latents, std=latent_std)

        def cross_attend() -> CrossAttend:
            return CrossAttend(
                query_channels=latent_channels,
                token_channels=token_channels,
                num_heads=num_cross_heads,
                qk_channels=cross_qk_channels,
                v_channels=cross_v_channels,
                widening=cross_widening,
                query_residual=query_residual,
                dropout=dropout,
                attention_dropout=attention_dropout,
                approximate_gelu=approximate_gelu,
                attention=attention,
            )

        def block() -> _Block:
            return _Block(
                (
                    SelfAttend(
                        channels=latent_channels,
                        num_heads=num_self_heads,
                        qk_channels=self_qk_channels,
                        v_channels=self_v_channels,
                        widening=self_widening,
                        dropout=dropout,
                        attention_dropout=attention_dropout,
                        approximate_gelu=approximate_gelu,
                    )
                    for _ in range(num_layers_per_block)
                ),
                checkpoint_activations=checkpoint_activations,
            )

        # Each distinct module once; later steps use the last. Nothing here grows with the number of steps, which may come
        # from an untrusted checkpoint.
        self.num_cross_attends = num_cross_attends
        self.num_blocks = num_blocks
        num_distinct = _num_distinct(num_cross_attends, share=share_cross_attends, share_first=share_first_cross_attend)
        self.cross_attends = nn.ModuleList(cross_attend() for _ in range(num_distinct))
        num_distinct = _num_distinct(num_blocks, share=share_blocks, share_first=share_first_block)
        self.blocks = nn.ModuleList(block() for _ in range(num_distinct))

    @property
    def cross_schedule(self) -> list[int]:
        """Index into `cross_attends` for each step."""
        return [_at(step, self.cross_attends) for step in range(self.num_cross_attends)]

    @property
    def block_schedule(self) -> list[int]:
        """Index into `blocks` for each step."""
        return [_at(step, self.blocks) for step in range(self.num_blocks)]

    def forward(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None
    ) -> Float[Tensor, "batch latents channels"]:
        """Encode tokens of one or more modalities, all of width C, to latents `(B, N, D)`.

        Args:
            tokens: one block for each modality.
            reads: for each cross-attend in order, the indices of the blocks in `tokens` that it reads; None: all read all.
                A cross-attend without blocks reads zeros, as if all tokens were masked.

        Raises:
            ValueError: if there are no tokens, if `reads` does not fit the number of cross-attends, or if no cross-attend
                reads anything.
        """
        return self._run(tokens, reads, observe=None)

    def attention_weights(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Float[Tensor, "batch heads latents *grid"], ...]]:
        """Return attention weights: for each cross-attend in order, one tensor `(B, h, N, *grid)` per block of tokens.

        Blocks that a cross-attend does not read get zeros. See `forward` for arguments and errors.
        """
        weights: list[tuple[Tensor, ...]] = []

        def observe(layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], places: Sequence[int]) -> None:
            weights.append(weights_by_block(layer, latents, read, places=places, tokens=tokens))

        self._run(tokens, reads, observe=observe)
        return weights

    def attention_by_block(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Float[Tensor, "batch"], ...]]:
        """Return each block's share of the latents' attention: for each cross-attend in order, one tensor `(B,)` per block.

        A share is the mean over heads and latents of the block's sum of `attention_weights`. Memory does not grow with
        latents times tokens. See `forward` for arguments and errors.
        """
        shares: list[tuple[Tensor, ...]] = []

        def observe(layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], places: Sequence[int]) -> None:
            shares.append(shares_by_block(layer, latents, read, places=places, tokens=tokens))

        self._run(tokens, reads, observe=observe)
        return shares

    def rollout(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None, *, by_norm: bool = False
    ) -> tuple[Float[Tensor, "batch latents *grid"], ...]:
        """Return how much of each token reaches each latent through all layers: one tensor `(B, N, *grid)` per block.

        Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928): the weights of each layer, averaged over heads and,
        for the residual, with the identity, are multiplied. The shares of a latent over all tokens sum to less than 1; the
        rest belongs to the learned latents. See `forward` for the other arguments and errors.

        Args:
            tokens: see `forward`.
            reads: see `forward`.
            by_norm: weigh what a latent reads and what it keeps by their norms (Kobayashi et al. 2021, arXiv:2109.07152),
                instead of half and half: a latent usually keeps far more than it reads from other latents.
        """
        sizes = [block.num_tokens for block in tokens]
        reached = self.latents.new_zeros(batch_of(tokens), self.num_latents, sum(sizes))

        def observe(layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], places: Sequence[int]) -> None:
            nonlocal reached
            weights = weights_by_block(layer, latents, read, places=places, tokens=tokens)
            share = share_read(layer.attention(latents, read), latents) if by_norm else 0.5
            own = torch.cat([weight.mean(dim=1).flatten(2) for weight in weights], dim=-1)
            reached = share * own + (1 - share) * reached

        def observe_self(layer: SelfAttend, latents: Tensor) -> None:
            nonlocal reached
            share = share_read(layer.attention(latents), latents) if by_norm else 0.5
            reached = share * (layer.attention.weights(latents).mean(dim=1) @ reached) + (1 - share) * reached

        self._run(tokens, reads, observe=observe, observe_self=observe_self)
        pieces = reached.split(sizes, dim=-1)
        return tuple(piece.unflatten(-1, block.grid) for piece, block in zip(pieces, tokens, strict=True))

    def explain_attention(self, tokens: Sequence[Tokens]) -> str:
        """Describe the form and implementation of cross-attention for these tokens, and the reason, briefly for tables."""
        first = self.cross_attends[0]
        assert isinstance(first, CrossAttend)
        return first.attention.explain(tokens, num_queries=self.num_latents)

    def _run(
        self,
        tokens: Sequence[Tokens],
        reads: Sequence[Sequence[int]] | None,
        *,
        observe: Observe | None,
        observe_self: Callable[[SelfAttend, Tensor], None] | None = None,
    ) -> Tensor:
        if reads is not None and (len(reads) != self.num_cross_attends or not any(reads)):
            raise ValueError(
                f"Encoder.reads: expected the indices of the blocks to read for each of the {self.num_cross_attends} "
                f"cross-attends, at least one list not empty; got {[list(places) for places in reads]}."
            )
        # (1, N, D): the latents are not copied per sample before they differ.
        latents = self.latents[None]
        for step in range(self.num_blocks):
            if step < self.num_cross_attends:
                layer = self.cross_attends[_at(step, self.cross_attends)]
                assert isinstance(layer, CrossAttend)
                places = range(len(tokens)) if reads is None else reads[step]
                blocks = [tokens[place] for place in places]
                if reads is not None and not blocks:
                    blocks = [self._nothing()]
                if observe is not None:
                    observe(layer, latents, blocks, places)
                    if step + 1 == self.num_cross_attends and observe_self is None:
                        return latents  # nothing left to observe
                latents = _run_layer(layer, latents, blocks, checkpointed=self.checkpoint_activations and self.training)
            block = self.blocks[_at(step, self.blocks)]
            latents = block(latents) if observe_self is None else self._observed(block, latents, observe_self)
        return latents

    @staticmethod
    def _observed(block: nn.Module, latents: Tensor, observe: Callable[[SelfAttend, Tensor], None]) -> Tensor:
        """Run the layers of a block one by one, each after it was observed."""
        for layer in block.children():
            assert isinstance(layer, SelfAttend)
            observe(layer, latents)
            latents = layer(latents)
        return latents

    def _nothing(self) -> Tokens:
        """Return a single masked token, shared by all samples, for a cross-attend that has nothing to read.

        The read-out is zero, and the rest (output projection, residual, feed-forward) is computed as usual. All weights
        that would have seen the tokens get zero gradients. If gradients were missing instead, data-parallel training would
        wait for them whenever another process has the modality.
        """
        content = self.latents.new_zeros(1, 1, self.token_channels)
        return Tokens(parts=(content,), mask=torch.zeros(1, 1, dtype=torch.bool, device=content.device))


class _Block(nn.Sequential):
    """A stack of layers. `Encoder.checkpoint_activations` applies to each layer separately."""

    def __init__(self, layers: Iterable[nn.Module], *, checkpoint_activations: bool) -> None:
        super().__init__(*layers)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, latents: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch latents channels"]:
        for layer in self:
            latents = _run_layer(layer, latents, checkpointed=self.checkpoint_activations and self.training)
        return latents


def _run_layer(layer: nn.Module, *inputs: Tensor | Sequence[Tokens], checkpointed: bool) -> Tensor:
    if checkpointed and torch.is_grad_enabled():
        # Restores the random state and autocast for the recomputation.
        out: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
    else:
        out = layer(*inputs)
    return out


def _num_distinct(steps: int, *, share: bool, share_first: bool) -> int:
    """Return the number of modules for `steps` steps: 1 if all share it, 2 if all but the first do, else `steps`."""
    return min(steps, 1 if share_first else 2) if share else steps


def _at(step: int, modules: nn.ModuleList) -> int:
    """Return the index of the module that runs at this step; of two modules, the second runs at all steps but the first."""
    return min(step, len(modules) - 1)
