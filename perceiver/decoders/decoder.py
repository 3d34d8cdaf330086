"""Heads: maps from a model's latents to outputs, and their interface for `Perceiver`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perceiver.decoders.sequence_loss import SequenceLoss
from perceiver.tokens.tokens import Tokens


class Head(nn.Module):
    """A map from latents `(B, N, D)` to an output, called with only the latents unless it is a `Decoder`.

    Other modules may serve as heads, too, but lack the attributes that tables, tasks and figures use.

    Attributes:
        output_channels: size of the last axis of the output, by name if there are several outputs.
        target: the output, of several, that predicts the target of the spec; None: no such output, or only one output.

    Examples:
        >>> from perceiver import PooledHead
        >>> from perceiver.decoders import Head
        >>> head = PooledHead(latent_channels=64, num_classes=10)
        >>> isinstance(head, Head), head.output_channels
        (True, 10)
    """

    output_channels: int | dict[str, int]
    target: str | None = None


class Decoder(Head, ABC):
    """A head that also gets the model's tokens, for queries from the input, and an index of outputs to compute.

    Decoders whose queries do not depend on the input can be called with only the latents.

    Examples:
        >>> from perceiver.decoders import Decoder, QueryDecoder
        >>> issubclass(QueryDecoder, Decoder)
        True
    """

    @abstractmethod
    def forward(
        self,
        latents: Tensor,
        *,
        tokens: Mapping[str, Tokens] | None = None,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        index: Any = None,
        mask: Any = None,
    ) -> Any:
        """Map latents to outputs.

        Args:
            latents: latents `(B, N, D)`.
            tokens: fused tokens of the present modalities, as the encoder got them.
            adapters: the model's adapters by modality, for outputs that share their weights.
            index: outputs to compute, as positions in the flattened output grid: `(k,)` for all samples or `(B, k)`; None:
                all. Decoders of several outputs take a dict.
            mask: validity of these outputs, `(B or 1, *grid)`, or `(B or 1, k)` with an index; invalid outputs are zeros.
                Decoders of several outputs take a dict.
        """


class SequenceDecoder(Head):
    """A head that predicts a sequence of ids step by step from a memory; see `CausalDecoder`.

    Attributes:
        memory: module that makes the memory of latents `(B, N, D)` and fused tokens by modality.

    Examples:
        >>> from perceiver.decoders import CausalDecoder, SequenceDecoder
        >>> issubclass(CausalDecoder, SequenceDecoder)
        True
    """

    memory: nn.Module


class StateHead(Head):
    """A head that maps the written tokens `(B, *grid, d)` of an `Interface`, not its latents; see `VelocityHead`.

    Attributes:
        modality: modality whose tokens are written.

    Examples:
        >>> from perceiver.decoders import StateHead, VelocityHead
        >>> issubclass(VelocityHead, StateHead)
        True
    """

    modality: str


def outputs_of(
    head: nn.Module,
    latents: Tensor,
    *,
    tokens: Mapping[str, Tokens],
    adapters: Mapping[str, nn.Module] | nn.ModuleDict,
    index: Any = None,
    mask: Any = None,
    target_ids: Tensor | None = None,
    target_loss: SequenceLoss | None = None,
) -> Any:
    """Return the output of any head; see `Decoder.forward` and `SequenceDecoder.forward`.

    Raises:
        ValueError: for an index or a mask if the head is not a `Decoder`, for ids if it is not a `SequenceDecoder`, and
            without ids if it is.
    """
    if isinstance(head, SequenceDecoder) != (target_ids is not None):
        raise ValueError(
            f"target_ids: {type(head).__name__} predicts each id from those before it; pass them, or let perceiver.generate "
            "choose them."
            if target_ids is None
            else f"target_ids: {type(head).__name__} predicts no sequence; expected a perceiver.decoders.CausalDecoder."
        )
    if isinstance(head, SequenceDecoder):
        memory = head.memory(latents, tokens)
        return head(memory, target_ids) if target_loss is None else head(memory, target_ids, loss=target_loss)
    if isinstance(head, Decoder):
        return head(latents, tokens=tokens, adapters=adapters, index=index, mask=mask)
    if index is not None or mask is not None:
        raise ValueError(
            f"index, query_mask: {type(head).__name__} cannot compute selected outputs; expected a "
            "perceiver.decoders.Decoder, such as QueryDecoder."
        )
    return head(latents)


def target_name(head: nn.Module) -> str | None:
    """Return the name of the output that predicts the target, for a head with several outputs; see `Head.target`."""
    return head.target if isinstance(head, Head) else None


def target_index(head: nn.Module, *, device: torch.device) -> dict[str, Tensor] | None:
    """Return the index with which a decoder of several outputs computes only its target; None for other heads."""
    if not isinstance(head, Head) or head.target is None or isinstance(head.output_channels, int):
        return None
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return dict.fromkeys((name for name in head.output_channels if name != head.target), nothing)


def target_output(head: nn.Module, outputs: Any) -> Any:
    """Return the output that predicts the target: `(B, outputs)` of several outputs, or the whole output of other heads.

    Raises:
        ValueError: if no output of several is the target.
    """
    name = target_name(head)
    if name is not None:
        return outputs[name].flatten(1, -2).squeeze(1)
    if isinstance(outputs, Mapping):
        raise ValueError(
            f"{type(head).__name__}: its outputs are {sorted(outputs)}, none of which is the spec's target. For "
            "MultimodalDecoder, set its argument target."
        )
    return outputs
