"""The average of the predictions of several models: probabilities for classes and labels, values for regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from omegaconf import DictConfig
from torch import Tensor, nn

from perceiver import checkpoints
from perceiver.data.loading.module import DataModule
from perceiver.run.assembly.data import make_data
from perceiver.run.assembly.spec import use_stored_spec
from perceiver.samples.batch import Batch

Outputs = Float64[Tensor, "samples outputs"]
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scale on which predictions are averaged.

    Args:
        of: turns outputs of a model into that scale, given `spec["target"]`.
        outputs: the inverse.
    """

    of: Callable[[Tensor, Mapping[str, Any]], Tensor]
    outputs: Callable[[Tensor, Mapping[str, Any]], Tensor]


def _statistics(target: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(target[name], dtype=torch.float64) for name in ("mean", "std"))
    return mean, std


def _values(outputs: Tensor, target: Mapping[str, Any]) -> Tensor:
    mean, std = _statistics(target)
    return outputs * std + mean


def _normalised(values: Tensor, target: Mapping[str, Any]) -> Tensor:
    mean, std = _statistics(target)
    return (values - mean) / std


SCALES = {
    "classes": Scale(
        of=lambda outputs, target: outputs.softmax(dim=1),
        outputs=lambda probabilities, target: probabilities.clamp(min=_TINY).log(),
    ),
    "labels": Scale(
        of=lambda outputs, target: outputs.sigmoid(),
        outputs=lambda probabilities, target: probabilities.logit(eps=1e-15),
    ),
    "values": Scale(of=_values, outputs=_normalised),
}
"""By kind of target."""


def scale_of(spec: Mapping[str, Any], *, where: object) -> Scale:
    """Return the scale on which predictions of a target are averaged.

    Raises:
        ValueError: their average is undefined.
    """
    kind = str((spec.get("target") or {}).get("kind"))
    if kind not in SCALES:
        raise ValueError(
            f"ckpt_path: {where} holds models with a target of kind {kind}, whose predictions have no average; those of "
            f"{', '.join(SCALES)} have. Use a single fold: ckpt_path=RUN_DIR/fold_0."
        )
    return SCALES[kind]


def outputs_of(recipe: checkpoints.Recipe, config: DictConfig, *, split: str) -> tuple[list[str], Outputs]:
    """Return the ids of the samples of a split, and the outputs of a checkpoint's model for them, in order.

    The model computes in float32, on the GPU if there is one and `trainer.accelerator` allows it.

    Args:
        recipe: the checkpoint, as `checkpoints.read` returns it.
        config: configuration of the data, and `trust`.
        split: "test" or "predict".
    """
    model = checkpoints.load(recipe.file, trust=list(config.trust))
    data = data_for(recipe, config)
    device = _device(config)
    model.to(device).eval()
    ids, outputs = [], []
    loader = data.test_dataloader() if split == "test" else data.predict_dataloader()
    with torch.inference_mode():
        for batch in loader:
            moved: Batch = batch.to(device)
            outputs.append(model.target_outputs(moved.inputs, moved.masks).double().cpu())
            ids += list(batch.ids)
    joined = torch.cat(outputs)
    if not ids:
        ids = [str(row) for row in range(len(joined))]
    return ids, joined


def data_for(recipe: checkpoints.Recipe, config: DictConfig) -> DataModule:
    """Return the configured data with the spec of a checkpoint.

    Raises:
        ValueError: the data is no source of this package, or does not fit the checkpoint.
    """
    data = make_data(config.data)
    if not isinstance(data, DataModule):
        raise ValueError(f"data: expected a perceiver.data.Source, got {type(data).__name__}.")
    data.prepare_data()
    use_stored_spec(data, recipe.spec, file=recipe.file, trained_on=recipe.section("data"))
    return data


def averaged(recipes: Sequence[checkpoints.Recipe], config: DictConfig, *, split: str) -> tuple[list[str], Tensor]:
    """Return ids, and averaged predictions as outputs of the first model `(samples, outputs)`.

    Every model gets the data normalised by its own spec.

    Args:
        recipes: checkpoints of the same kind of target.
        config, split: see `outputs_of`.

    Raises:
        ValueError: the average is undefined, or the models have different classes, labels or values.
    """
    specs = {recipe.file: recipe.spec or {} for recipe in recipes}
    leading = recipes[0].file
    scale, first = scale_of(specs[leading], where=leading.parent.parent), specs[leading]["target"]
    for file, spec in specs.items():
        scale_of(spec, where=file)
        names = list(spec["target"].get("names", []))
        if names != list(first.get("names", [])) or spec["target"].get("kind") != first.get("kind"):
            raise ValueError(
                f"ckpt_path: {file} predicts {', '.join(map(str, names))}, but {leading} predicts "
                f"{', '.join(map(str, first.get('names', [])))}, so their predictions have no average. A fold lacks a rare "
                "class: use fewer folds, or a single one: ckpt_path=RUN_DIR/fold_0."
            )
    ids: list[str] = []
    total: Tensor | None = None
    for recipe in recipes:
        own, outputs = outputs_of(recipe, config, split=split)
        if total is not None and own != ids:
            raise ValueError(f"data: its samples are not the same for {recipe.file} as for {leading}. Did its files change?")
        ids = own
        predicted = scale.of(outputs, specs[recipe.file]["target"])
        total = predicted if total is None else total + predicted
    assert total is not None
    return ids, scale.outputs(total / len(recipes), first).float()


class Replayed(nn.Module):
    """A model that returns known outputs, batch by batch in order, so that an objective can measure them.

    Args:
        outputs: `(samples, outputs)`, in the order of the batches.
    """

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self._outputs = outputs
        self._next = self._size = 0

    @contextmanager
    def batch(self, size: int) -> Iterator[None]:
        """Context in which the model returns the outputs of the next `size` samples."""
        self._size = size
        yield
        self._next += size

    def forward(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the outputs of the current batch, `(B, outputs)`."""
        return self._outputs[self._next : self._next + self._size]


def _device(config: DictConfig) -> torch.device:
    accelerator = str(config.trainer.get("accelerator", "auto"))
    return torch.device("cuda" if torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda") else "cpu")
