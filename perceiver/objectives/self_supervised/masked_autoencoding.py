"""Masked autoencoding: hide part of every input and reconstruct it from the rest, without labels.

He et al. 2021, arXiv:2111.06377, for any modality whose adapter is a `perceiver.adapters.Reconstructible`: it returns the
content of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.adapters.content import Reconstructible
from perceiver.adapters.layout import taken
from perceiver.decoders import ReconstructionDecoder
from perceiver.masking.random import RandomMasking, chosen
from perceiver.model import Perceiver
from perceiver.objectives.metrics.quality import WeightedMean
from perceiver.objectives.objective import Metrics, Objective, weighted_sum
from perceiver.samples.batch import Batch
from perceiver.tokens.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Tokens of a batch by modality, some of them hidden.

    Args:
        tokens: tokens for the encoder, hidden tokens masked.
        index: positions in the flattened grids of the hidden tokens to reconstruct, `(B, k)`.
        real: `(B, k)`, False for padding in samples with fewer hidden tokens.
    """

    tokens: dict[str, Tokens]
    index: dict[str, Tensor]
    real: dict[str, Tensor]


class MaskedAutoencoding(Objective):
    """Masked autoencoding: reconstruct hidden tokens.

    The model's head is a `perceiver.decoders.ReconstructionDecoder`. Tokens are hidden after the adapter, by their mask;
    positions and grid size do not change. The loss of a modality is the
    mean squared error over the values of hidden tokens; predicting the mean of normalised values gives 1. The loss is the
    weighted sum over modalities. Measures `loss` and, with several modalities, `loss/NAME` of each, over all hidden values
    of a split. Evaluation always hides the same tokens.

    Args:
        masking: chooses the hidden tokens, for all modalities.
        masking_of: masking of individual modalities, by name, overriding `masking`.
        weights: weights of the modalities' losses; default 1.
        normalise_targets: normalise the values of each token by the token's mean and standard deviation (He et al.,
            table 1d); for tokens of many values, such as patches.
        max_queries: maximum number of hidden tokens to reconstruct per sample and modality in training, drawn at random to
            reduce cost; None: all. Validation and test reconstruct all.
        seed: seed for the tokens hidden in validation and test.

    Raises:
        ValueError: for an invalid `max_queries`.
    """

    def __init__(
        self,
        *,
        masking: RandomMasking,
        masking_of: Mapping[str, RandomMasking] | None = None,
        weights: Mapping[str, float] | None = None,
        normalise_targets: bool = False,
        max_queries: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if max_queries is not None and max_queries < 1:
            raise ValueError(f"task.max_queries: expected at least 1, or null for all, got {max_queries}.")
        self.masking = masking
        self.masking_of = dict(masking_of or {})
        self.weights = {name: float(weight) for name, weight in (weights or {}).items()}
        self.normalise_targets = normalise_targets
        self.max_queries = max_queries
        self.seed = seed

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: the head must reconstruct, including the modalities that the settings name."""
        head = getattr(model, "head", None)
        if not isinstance(model, Perceiver) or not isinstance(head, ReconstructionDecoder):
            raise ValueError(
                f"task: masked autoencoding needs a model whose head is a perceiver.decoders.ReconstructionDecoder, got "
                f"{type(head).__name__}; task=masked_autoencoding sets it."
            )
        for name, given in {"masking_of": list(self.masking_of), "weights": list(self.weights)}.items():
            if set(given) - set(head.output_channels):
                raise ValueError(
                    f"task.{name}: expected any of the reconstructed modalities {list(head.output_channels)}, got "
                    f"{sorted(given)}."
                )

    def hide(
        self, model: Perceiver, batch: Batch, *, generator: torch.Generator | None = None, max_queries: int | None = None
    ) -> Hidden:
        """Make tokens of a batch and hide some of them.

        Args:
            model: model whose adapters make the tokens.
            batch: samples; labels are ignored.
            generator: random generator on the CPU; None: torch's global generator.
            max_queries: maximum number of hidden tokens to reconstruct per sample.

        Raises:
            ValueError: if the model reconstructs none of the batch's modalities.
        """
        tokens = model.tokens(batch.inputs, batch.masks)
        modalities = _modalities_of(model)
        if not set(tokens) & set(modalities):
            raise ValueError(f"batch: has the modalities {sorted(tokens)}, but only {list(modalities)} are reconstructed.")
        index: dict[str, Tensor] = {}
        real: dict[str, Tensor] = {}
        for name in modalities:
            if name not in tokens:
                continue
            block = tokens[name]
            hidden = self.masking_of.get(name, self.masking)(block, batch=batch.size, generator=generator)
            index[name], real[name] = chosen(hidden, at_most=max_queries, generator=generator)
            tokens[name] = replace(block, mask=~hidden if block.mask is None else block.mask & ~hidden)
        return Hidden(tokens=tokens, index=index, real=real)

    def losses(self, model: Perceiver, batch: Batch, hidden: Hidden, *, count: int | None = None) -> dict[str, Tensor]:
        """Return the mean squared error over the hidden values of each modality; 0 where nothing is hidden.

        Args:
            model: model that reconstructs.
            batch: samples.
            hidden: result of `hide` for this batch.
            count: use only the first `count` samples; None: all.
        """
        found = self.errors(model, batch, hidden)
        return {name: errors[:count].sum() / valid[:count].sum().clamp(min=1) for name, (errors, valid) in found.items()}

    def errors(self, model: Perceiver, batch: Batch, hidden: Hidden) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the squared errors `(B, k, c)` of each modality, 0 where nothing is hidden, and where something is."""
        outputs = model.from_tokens(hidden.tokens, index=hidden.index)
        found = {}
        for name, output in outputs.items():
            target, valid = self.targets(model, batch, name, hidden.index[name])
            valid = valid & hidden.real[name][..., None]
            found[name] = (torch.where(valid, output.float() - target, 0.0).square(), valid)
        return found

    def targets(self, model: Perceiver, batch: Batch, name: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the content of a modality's tokens, `(B, k, c)` in float32, and its validity."""
        adapter = model.adapters[name]
        assert isinstance(adapter, Reconstructible)
        content = adapter.content(batch.inputs[name], batch.masks.get(name))
        values = taken(content.values.float(), index)
        valid = torch.ones_like(values, dtype=torch.bool)
        if content.valid is not None:
            valid = taken(content.valid.expand(content.values.shape), index)
        values = torch.where(valid, values, 0.0)
        return (normalised_targets(values, valid) if self.normalise_targets else values), valid

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the weighted sum of the modalities' losses."""
        assert isinstance(model, Perceiver)
        return weighted_sum(self.losses(model, batch, self.hide(model, batch, max_queries=self.max_queries)), self.weights)

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return the mean of each modality over all hidden values."""
        return {f"loss/{name}": WeightedMean() for name in _modalities_of(model)}

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        assert isinstance(model, Perceiver)
        hidden = self.hide(model, batch, generator=torch.Generator().manual_seed(self.seed + number))
        for name, (errors, valid) in self.errors(model, batch, hidden).items():
            metrics[f"loss/{name}"].update(errors[:count], valid[:count].float())

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss` and, with several modalities, `loss/NAME` of those of which something was hidden in the split."""
        found = super().results(metrics)
        losses = {name: loss for name, loss in found.items() if metrics[name].defined}
        return {"loss": weighted_sum(losses, self.weights), **(losses if len(metrics) > 1 else {})}

    def result_names(self, metrics: Metrics) -> list[str]:
        """See `Objective.result_names`."""
        return ["loss", *(metrics if len(metrics) > 1 else ())]


def _modalities_of(model: nn.Module) -> tuple[str, ...]:
    """Return the modalities that the model reconstructs."""
    assert isinstance(model.head, ReconstructionDecoder)
    return tuple(model.head.output_channels)


def normalised_targets(values: Tensor, valid: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Normalise `(B, k, c)` by mean and standard deviation of each token's valid values; zeros elsewhere."""
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = values.sum(dim=-1, keepdim=True) / count
    centred = torch.where(valid, values - mean, 0.0)
    return centred / (centred.square().sum(dim=-1, keepdim=True) / count + epsilon).sqrt()
