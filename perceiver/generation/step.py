"""The interface of a decoder for generation: a step function and a cache."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Caching(Protocol):
    """What a step function keeps between steps; see `perceiver.decoders.causal.Cache`."""

    def reorder(self, index: Tensor) -> Caching:
        """Return the rows `index`, in this order."""
        ...

    def reorder_past(self, index: Tensor) -> Caching:
        """Return the rows `index` of all that depends on the ids; rows of one sample share the rest."""
        ...


@runtime_checkable
class Step(Protocol):
    """Ids `(rows, k)` after those in the cache -> logits of the next ids `(rows, k, vocabulary)`, and the new cache."""

    def __call__(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Run one step."""
        ...


@runtime_checkable
class Streamer(Protocol):
    """Receives ids as they are generated; transformers' streamers have this interface."""

    def put(self, value: Tensor) -> None:
        """Receive the prompt `(B, P)`, then the next ids `(B,)` at each step."""
        ...

    def end(self) -> None:
        """Receive the end of the sequences: no more ids follow."""
        ...
