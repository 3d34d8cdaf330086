"""Fine-tuning: a model that starts from the adapters, fusion and encoder of a trained one, with a head of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn
from torch.optim import Optimizer

from perceiver.checkpoints.build import build_model, vetted
from perceiver.checkpoints.compare import differences
from perceiver.checkpoints.file import CheckpointError, limit_to
from perceiver.checkpoints.trusted_classes import TargetError
from perceiver.model import Perceiver
from perceiver.run.configuration.literal import literal
from perceiver.run.configuration.regularisation import without_regularisation
from perceiver.run.fine_tuning.starting_point import StartingPoint
from perceiver.run.reporting.console import print_line
from perceiver.training.optimizer import OptimizerFactory

PARTS = ("adapters", "fusion", "encoder")
"""What is taken over; the head is new."""


class Untrained:
    """Random weights. `Initialisation` takes those of a trained model."""

    def configured(self, config: DictConfig) -> DictConfig:
        """The configuration with the model as it is to be built."""
        return config

    def build(self, model: Mapping[str, Any], spec: Mapping[str, Any]) -> Perceiver:
        """Build the model from its resolved configuration and the spec of the data."""
        return build_model(model, spec=spec)

    def optimizer(self, optimizer: OptimizerFactory, model: Perceiver) -> OptimizerFactory:
        """The optimizer of the model."""
        return optimizer

    def callbacks(self) -> list[Callback]:
        """What training needs besides."""
        return []

    def report(self, model: Perceiver) -> None:
        """Print what the training of the model starts from."""

    def reading(self) -> AbstractContextManager[None]:
        """While the model reads data for the first time."""
        return nullcontext()


def starting_from(
    *,
    init_from: str | None,
    init_model: bool | None = False,
    init_freeze: bool | None = False,
    init_lr_multiplier: float | None = 1.0,
) -> Untrained:
    """What the keys `init_*` of the configuration ask for.

    Args:
        init_from: the trained model, see `StartingPoint.find`; None: random weights.
        init_model: build adapters, fusion and encoder as the trained model's configuration describes them.
        init_freeze: keep its weights unchanged.
        init_lr_multiplier: train its weights at this multiple of the optimizer's learning rate.

    Raises:
        FileNotFoundError: `init_from` is nothing that can be started from.
        ValueError: an invalid multiplier, or settings without `init_from`.
    """
    multiplier = 1.0 if init_lr_multiplier is None else float(init_lr_multiplier)
    if init_from is None:
        if init_model or init_freeze or multiplier != 1.0:
            raise ValueError(
                "init_model, init_freeze, init_lr_multiplier: they say what becomes of the weights of init_from, and "
                "there is none. Set init_from=DIR or init_from=FILE."
            )
        return Untrained()
    if not (math.isfinite(multiplier) and multiplier > 0):
        raise ValueError(
            f"init_lr_multiplier: expected a number above 0, got {multiplier}; init_freeze=true keeps weights unchanged."
        )
    try:
        source = StartingPoint.find(init_from)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"init_from: {error}") from error
    return Initialisation(
        source=source, built_as_stored=bool(init_model), freeze=bool(init_freeze), lr_multiplier=multiplier
    )


@dataclass(frozen=True, kw_only=True)
class Initialisation(Untrained):
    """The adapters, fusion and encoder of a trained model.

    Args:
        source: the trained model.
        built_as_stored: adapters, fusion and encoder are built as the trained model's configuration describes them.
        freeze: its weights stay as they are.
        lr_multiplier: its weights learn at this multiple of the optimizer's learning rate.
    """

    source: StartingPoint
    built_as_stored: bool = False
    freeze: bool = False
    lr_multiplier: float = 1.0

    def configured(self, config: DictConfig) -> DictConfig:
        """The configuration, with the stored parts of the model where they are to be built as stored."""
        if not self.built_as_stored:
            return config
        config = with_stored_model(config, source=self.source)
        return config if config.get("regularise", True) else without_regularisation(config)

    def build(self, model: Mapping[str, Any], spec: Mapping[str, Any]) -> Perceiver:
        """Build the model and fill it; what a file describes may be no larger than its weights."""
        limit = limit_to(self._weights, source=f"init_from={self.source.path}") if self.built_as_stored else None
        built = build_model(model, spec=spec, encoder_limit=limit)
        self.apply(built)
        return built

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        """From `build` to `apply`, so that the file is read once."""
        return self.source.weights()

    def apply(self, model: Perceiver) -> None:
        """Fill the model's adapters, fusion and encoder.

        Raises:
            ValueError: they are others than the trained model's, all differences summed up, or its files are damaged or of
                another kind; nothing is filled.
        """
        stored = _of_parts(self._weights)
        self.__dict__.pop("_weights")  # frees the memory: this object lives as long as the training
        own = _of_parts(model.state_dict())
        label = _label_input(self.source.model_config())
        if label is not None and label not in model.adapters:
            places = (f"adapters.{label}.", f"fusion.padding.{label}", f"fusion.mask.{label}")
            stored = {name: value for name, value in stored.items() if not name.startswith(places)}
        if problems := differences(own, stored):
            raise ValueError(
                f"init_from: {self.source.path} does not fit the configured adapters, fusion and encoder: "
                f"{'; '.join(problems)}. init_model=true (experiment=finetune sets it) builds them as the checkpoint's own "
                "configuration says; otherwise configure them alike, for data of the same modalities and channels."
            )
        model.load_state_dict(stored, strict=False)
        if self.freeze:
            for part in _parts(model):
                part.requires_grad_(False)

    def report(self, model: Perceiver) -> None:
        """Print how many weights were taken over, and how they are trained."""
        count = len(_of_parts(model.state_dict()))
        print_line(f"Started from {self.source.path}: {count} tensors of {', '.join(PARTS)}{self._learning()}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the model reads data for the first time: an adapter that refuses it is one of `init_from`.

        Raises:
            ValueError: the adapter's, with what to do.
        """
        try:
            yield
        except ValueError as error:
            images = " data=image_folder gives any images as RGB, at data.size=[HEIGHT,WIDTH]."
            raise ValueError(
                f"init_from: {self.source.path} was trained on other inputs than this data has: {error} Choose data of the "
                f"same modalities, channels and sizes.{images if 'image' in str(error) else ''}"
            ) from error

    def _learning(self) -> str:
        if self.freeze:
            return "; they stay as they are"
        return "" if self.lr_multiplier == 1 else f"; they learn at {self.lr_multiplier:g} times the learning rate"

    def optimizer(self, optimizer: OptimizerFactory, model: Perceiver) -> OptimizerFactory:
        """The optimizer, with the lower rate for what was taken over."""
        if self.freeze or self.lr_multiplier == 1:
            return optimizer
        return ScaledRates(optimizer=optimizer, model=model, multiplier=self.lr_multiplier)

    def callbacks(self) -> list[Callback]:
        """What training needs besides."""
        return [Frozen()] if self.freeze else []


class ScaledRates:
    """An optimizer factory in which adapters, fusion and encoder learn at a multiple of the rate. The head comes first.

    Args:
        optimizer: makes the optimizer from parameter groups; its rate is the head's.
        model: whose parts these are.
        multiplier: of the learning rate.
    """

    def __init__(self, *, optimizer: OptimizerFactory, model: Perceiver, multiplier: float) -> None:
        self.optimizer = optimizer
        self.model = model
        self.multiplier = multiplier

    def __call__(self, groups: Iterable[Any]) -> Optimizer:
        """Parameter groups, as `perceiver.training.optimizer.parameter_groups` makes them -> the optimizer."""
        taken = {parameter for part in _parts(self.model) for parameter in part.parameters()}
        groups = list(groups)
        new = [{**group, "params": [p for p in group["params"] if p not in taken]} for group in groups]
        old = [{**group, "params": [p for p in group["params"] if p in taken]} for group in groups]
        new, old = ([group for group in some if group["params"]] for some in (new, old))
        made = self.optimizer([*new, *old])
        for group in made.param_groups[len(new) :]:
            group["lr"] *= self.multiplier
        return made


class Frozen(Callback):
    """Keeps adapters, fusion and encoder in evaluation mode while training: no dropout, no batch statistics."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has just put the whole task into training mode."""
        model = getattr(pl_module, "model", None)
        if isinstance(model, Perceiver):
            for part in _parts(model):
                part.eval()


def with_stored_model(config: DictConfig, *, source: StartingPoint) -> DictConfig:
    """A copy of the configuration whose model has adapters, fusion and encoder as in the trained model `source`.

    Values that the command line sets below them, as `model.encoder.dropout=0.1`, still hold; adapters of modalities that the
    checkpoint lacks stay. Reads the checkpoint's configuration only. What that names is held to the rules of
    `perceiver.load`, with the packages of the key `trust`; the user's own configuration is not.

    Raises:
        ValueError: the checkpoint names a class outside the trusted packages, or holds values that are not final;
            the command line chooses another size or adapter, or a file is damaged or of another kind.
    """
    stored = _stored_parts(source, trust=list(config.get("trust") or []))
    config = config.copy()
    with open_dict(config):
        for name, adapter in stored["adapters"].items():
            config.model.adapters[name] = literal(adapter)
        for part in ("fusion", "encoder"):
            if stored.get(part) is not None:
                config.model[part] = literal(stored[part])
        for key, value, deleted in _command_line():
            place, _, last = key.rpartition(".")
            if key.startswith(tuple(f"model.{part}." for part in PARTS)):
                if deleted:
                    OmegaConf.select(config, place).pop(last, None)
                else:
                    OmegaConf.update(config, key, value, force_add=True)
    return config


def _stored_parts(source: StartingPoint, *, trust: list[str]) -> dict[str, Any]:
    """Adapters, fusion and encoder of a trained model's configuration, after the same vetting as by `perceiver.load`."""
    stored = deepcopy(source.model_config())
    for part, optional in (("adapters", False), ("fusion", True), ("encoder", False)):
        if type(stored.get(part)) is not dict and not (optional and stored.get(part) is None):
            raise CheckpointError(f"init_from: {source.path}: its config has no model.{part}; expected a mapping")
    label = _label_input(stored)
    if label is not None:
        # An input that the task made of the targets: a new task has its own.
        stored["adapters"].pop(label)
        mask_rates = (stored.get("fusion") or {}).get("mask_rates")
        if type(mask_rates) is dict:
            mask_rates.pop(label, None)
    for name, adapter in stored["adapters"].items():
        if not name.isidentifier() or type(adapter) is not dict:
            raise CheckpointError(
                f"init_from: {source.path}: its config has no usable adapter {name[:60]!r}; expected a mapping by modality"
            )
    try:
        return vetted({part: stored[part] for part in PARTS if stored.get(part) is not None}, trust=trust)
    except ValueError as error:
        raise CheckpointError(
            f"init_from: {source.path}: {error} (here trust is a key of the configuration: 'trust=[PACKAGE]')"
            if isinstance(error, TargetError)
            else f"init_from: {source.path}: {error}"
        ) from error


def _label_input(stored: Mapping[str, Any]) -> str | None:
    """The label that a stored model takes in as well as decodes, by its name as an input."""
    head = stored.get("head")
    target = head.get("target") if isinstance(head, Mapping) else None
    return target if isinstance(target, str) and target in (stored.get("adapters") or {}) else None


def _command_line() -> Iterator[tuple[str, Any, bool]]:
    """Key, value and whether it is deleted, of each override that sets a value."""
    if not HydraConfig.initialized():
        return
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        key = override.key_or_group
        if key == "model/size" or (override.package or "").startswith("model.adapters"):
            raise ValueError(
                f"init_model=true: adapters and encoder are built as in init_from, and {override.input_line} asks for "
                "others. Remove one of the two."
            )
        if "/" not in key and "@" not in (override.input_line or ""):
            yield key, override.value(), bool(override.is_delete())


def _parts(model: Perceiver) -> list[nn.Module]:
    return [getattr(model, part) for part in PARTS]


def _of_parts(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.startswith(tuple(f"{part}." for part in PARTS))}
