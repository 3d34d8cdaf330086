"""Requests for pretrained networks, as a user's configuration makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor

from perceiver.adapters.backbones.backbone import Backbone
from perceiver.checkpoints.compare import differences
from perceiver.runtime.ranges import check_at_least_one


class BackboneError(ValueError):
    """A requested network cannot be found, is of an unknown kind, or its weights do not fit."""


class BackboneRequest(ABC):
    """A model of a library, to become the adapter of a modality.

    Args:
        frozen, lr_multiplier, embed_channels: see `perceiver.adapters.Backbone`.
        num_bands: number of Fourier bands of each coordinate.

    Attributes:
        kind: the kind of modality that the network takes.
    """

    kind: ClassVar[str]

    def __init__(
        self, *, frozen: bool = True, lr_multiplier: float = 1.0, embed_channels: int | None = None, num_bands: int = 8
    ) -> None:
        if embed_channels is not None:
            check_at_least_one(type(self).__name__, embed_channels=embed_channels)
        self.frozen = frozen
        self.lr_multiplier = lr_multiplier
        self.embed_channels = embed_channels
        self.num_bands = num_bands

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the entries that the network requires in the modality's spec: normalisation, size, tokenizer, rate."""

    @abstractmethod
    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return the node of the network, `_target_` and plain arguments, for a modality's spec."""

    @abstractmethod
    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """Return the node of the axes, and the reference number of features along each."""

    @abstractmethod
    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the pretrained weights by their names in the network; None for random weights."""

    def adapter(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return the node of the adapter, for the model's configuration: plain data that needs no library's files."""
        axes, resolution = self.places(spec)
        return {
            "_target_": "perceiver.adapters.backbones.backbone.Backbone",
            "network": self.network(spec),
            "axes": axes,
            "position": {
                "_target_": "perceiver.tokens.positions.Fourier",
                "num_bands": self.num_bands,
                "resolution": [float(size) for size in resolution],
            },
            "frozen": self.frozen,
            "lr_multiplier": self.lr_multiplier,
            "embed_channels": self.embed_channels,
        }

    def fill(self, adapter: Backbone, spec: Mapping[str, Any]) -> bool:
        """Load the pretrained weights into the network of an adapter; return whether there are any.

        Raises:
            BackboneError: if the weights are those of another architecture.
        """
        weights = self.weights(spec)
        if weights is None:
            return False
        own = adapter.network.state_dict()
        if problems := differences(own, {name: weights[name] for name in weights if name in own}):
            raise BackboneError(
                f"{type(self).__name__}: the weights are those of another architecture: {'; '.join(problems)}. Choose the "
                "model that they belong to."
            )
        adapter.network.load_state_dict({name: weights[name] for name in own})
        return True

    def build(self, spec: Mapping[str, Any] | None = None) -> Backbone:
        """Return the adapter with its weights, for use in Python.

        Args:
            spec: the modality's spec; None: the facts of the request.
        """
        spec = {**self.facts(), **(spec or {})}
        from perceiver.checkpoints.build import build_part

        adapter = cast("Backbone", build_part(self.adapter(spec), name="adapter"))
        self.fill(adapter, spec)
        return adapter.eval()
