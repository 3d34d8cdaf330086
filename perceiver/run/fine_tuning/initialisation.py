"""Fine-tuning: a model that starts from the adapters, fusion and encoder of a trained model, with a new head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

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
"""Parts that are initialised from the trained model; the head is new."""


class Untrained:
    """Random weights. The subclass `Initialisation` uses the weights of a trained model."""

    is_random: ClassVar[bool] = True
    """Whether the weights are random, so that those of pretrained networks may replace them."""

    def configured(self, config: DictConfig) -> DictConfig:
        """Return the configuration of the model to build."""
        return config

    def build(self, model: Mapping[str, Any], spec: Mapping[str, Any]) -> Perceiver:
        """Build the model from its resolved configuration and the spec of the data."""
        return build_model(model, spec=spec)

    def optimizer(self, optimizer: OptimizerFactory, model: Perceiver) -> OptimizerFactory:
        """Return the factory of the model's optimizer."""
        return optimizer

    def callbacks(self) -> list[Callback]:
        """Return further callbacks that training needs."""
        return []

    def report(self, model: Perceiver) -> None:
        """Print the starting point of the training."""

    def reading(self) -> AbstractContextManager[None]:
        """Context for the first time that the model reads data."""
        return nullcontext()


def starting_from(
    *,
    init_from: str | None,
    init_model: bool | None = False,
    init_freeze: bool | None = False,
    init_lr_multiplier: float | None = 1.0,
) -> Untrained:
    """Return the starting weights that the keys `init_*` of the configuration describe.

    Args:
        init_from: the trained model, see `StartingPoint.find`; None: random weights.
        init_model: whether to build adapters, fusion and encoder from the trained model's configuration.
        init_freeze: whether to keep the loaded weights unchanged.
        init_lr_multiplier: the loaded weights train at this multiple of the optimizer's learning rate.

    Raises:
        FileNotFoundError: `init_from` contains no trained model.
        ValueError: the multiplier is invalid, or `init_from` is missing and the other settings are not.
    """
    multiplier = 1.0 if init_lr_multiplier is None else float(init_lr_multiplier)
    if init_from is None:
        if init_model or init_freeze or multiplier != 1.0:
            raise ValueError(
                "init_model, init_freeze, init_lr_multiplier: require init_from, which is not set. Set init_from=DIR "
                "or init_from=FILE."
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
        built_as_stored: whether adapters, fusion and encoder are built from the trained model's configuration.
        freeze: whether the loaded weights stay unchanged.
        lr_multiplier: the loaded weights train at this multiple of the optimizer's learning rate.
    """

    is_random: ClassVar[bool] = False

    source: StartingPoint
    built_as_stored: bool = False
    freeze: bool = False
    lr_multiplier: float = 1.0

    def configured(self, config: DictConfig) -> DictConfig:
        """Return the configuration, with the model parts of the trained model if `built_as_stored`."""
        if not self.built_as_stored:
            return config
        config = with_stored_model(config, source=self.source)
        return config if config.get("regularise", True) else without_regularisation(config)

    def build(self, model: Mapping[str, Any], spec: Mapping[str, Any]) -> Perceiver:
        """Build the model and load the weights; a model described by a file must not be larger than the file's weights."""
        limit = limit_to(self._weights, source=f"init_from={self.source.path}") if self.built_as_stored else None
        built = build_model(model, spec=spec, encoder_limit=limit)
        self.apply(built)
        return built

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        """Weights of the trained model, kept from `build` to `apply` so that the file is read only once."""
        return self.source.weights()

    def apply(self, model: Perceiver) -> None:
        """Load the weights of the model's adapters, fusion and encoder.

        Raises:
            ValueError: these parts differ from the trained model's (the message lists all differences), or its files are
                damaged or of another kind; no weights are loaded.
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
                f"{'; '.join(problems)}. init_model=true (experiment=finetune sets it) builds them from the "
                "checkpoint's configuration. Otherwise configure the same parts, for data with the same modalities "
                "and channels."
            )
        model.load_state_dict(stored, strict=False)
        if self.freeze:
            for part in _parts(model):
                part.requires_grad_(False)

    def report(self, model: Perceiver) -> None:
        """Print the number of loaded tensors, and how they are trained."""
        count = len(_of_parts(model.state_dict()))
        print_line(f"Started from {self.source.path}: {count} tensors of {', '.join(PARTS)}{self._learning()}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context for the first time that the model reads data: an adapter that rejects it comes from `init_from`.

        Raises:
            ValueError: the adapter's error, with the remedy.
        """
        try:
            yield
        except ValueError as error:
            images = " data=image_folder converts any images to RGB at data.size=[HEIGHT,WIDTH]."
            raise ValueError(
                f"init_from: {self.source.path} was trained on different inputs from this data: {error} Choose data "
                f"with the same modalities, channels and sizes.{images if 'image' in str(error) else ''}"
            ) from error

    def _learning(self) -> str:
        if self.freeze:
            return "; they stay frozen"
        return "" if self.lr_multiplier == 1 else f"; they train at {self.lr_multiplier:g} times the learning rate"

    def optimizer(self, optimizer: OptimizerFactory, model: Perceiver) -> OptimizerFactory:
        """Return the factory of the optimizer, with the scaled rate for the loaded weights."""
        if self.freeze or self.lr_multiplier == 1:
            return optimizer
        return ScaledRates(optimizer=optimizer, model=model, multiplier=self.lr_multiplier)

    def callbacks(self) -> list[Callback]:
        """Return further callbacks that training needs."""
        return [Frozen()] if self.freeze else []


class ScaledRates:
    """Optimizer factory that trains adapters, fusion and encoder at a multiple of the rate. The head's groups come first.

    Args:
        optimizer: makes the optimizer from parameter groups, with the head's learning rate.
        model: the model to train.
        multiplier: multiplier of the learning rate.
    """

    def __init__(self, *, optimizer: OptimizerFactory, model: Perceiver, multiplier: float) -> None:
        self.optimizer = optimizer
        self.model = model
        self.multiplier = multiplier

    def __call__(self, groups: Iterable[Any]) -> Optimizer:
        """Make the optimizer from parameter groups, as returned by `perceiver.training.optimizer.parameter_groups`."""
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
        """Return the parts to evaluation mode, after Lightning has put the whole task into training mode."""
        model = getattr(pl_module, "model", None)
        if isinstance(model, Perceiver):
            for part in _parts(model):
                part.eval()


def with_stored_model(config: DictConfig, *, source: StartingPoint) -> DictConfig:
    """Return a copy of the configuration whose model has adapters, fusion and encoder as in the trained model `source`.

    Overrides of these parts on the command line, such as `model.encoder.dropout=0.1`, still apply. Adapters of modalities
    that the checkpoint lacks stay. Only the checkpoint's configuration is read. The classes it names must follow the rules
    of `perceiver.load`, with the packages of the key `trust`; the user's configuration is exempt.

    Raises:
        ValueError: the checkpoint names a class outside the trusted packages, or holds unresolved values. Or the command
            line chooses another size or adapter, or a file is damaged or of another kind.
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
    """Return adapters, fusion and encoder of a trained model's configuration, vetted as by `perceiver.load`."""
    stored = deepcopy(source.model_config())
    for part, optional in (("adapters", False), ("fusion", True), ("encoder", False)):
        if type(stored.get(part)) is not dict and not (optional and stored.get(part) is None):
            raise CheckpointError(f"init_from: {source.path}: its config has no model.{part}; expected a mapping")
    label = _label_input(stored)
    if label is not None:
        # The old task derived this input from its targets; a new task derives another.
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
    """Return the name of the label that a stored model both reads and decodes; None without such a label."""
    head = stored.get("head")
    target = head.get("target") if isinstance(head, Mapping) else None
    return target if isinstance(target, str) and target in (stored.get("adapters") or {}) else None


def _command_line() -> Iterator[tuple[str, Any, bool]]:
    """Yield the key, the value and whether the key is deleted, for each override of a value."""
    if not HydraConfig.initialized():
        return
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        key = override.key_or_group
        if key == "model/size" or (override.package or "").startswith("model.adapters"):
            raise ValueError(
                f"init_model=true: adapters and encoder are built as in init_from, but {override.input_line} "
                "configures others. Remove one of the two."
            )
        if "/" not in key and "@" not in (override.input_line or ""):
            yield key, override.value(), bool(override.is_delete())


def _parts(model: Perceiver) -> list[nn.Module]:
    return [getattr(model, part) for part in PARTS]


def _of_parts(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.startswith(tuple(f"{part}." for part in PARTS))}
