"""Pretrained networks of a training: found before the data is read, described in the model's configuration, then filled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig, OmegaConf, open_dict

from perceiver.adapters.backbones.backbone import Backbone
from perceiver.adapters.backbones.feature_cache import FeatureCache
from perceiver.interop.backbones.request import BackboneRequest
from perceiver.model import Perceiver
from perceiver.run.configuration.construct import construct
from perceiver.run.configuration.literal import literal
from perceiver.run.reporting.console import print_line

# Adapters of this package that are built as they are; all other classes may be requests.
_PLAIN = "perceiver.adapters."


@dataclass(frozen=True, kw_only=True)
class Backbones:
    """The pretrained networks that the configuration requests as adapters.

    Args:
        requests: requests by modality.
        caches: caches of features by modality, filled by `use_cache`.
    """

    requests: Mapping[str, BackboneRequest] = field(default_factory=dict)
    caches: dict[str, FeatureCache] = field(default_factory=dict)

    @classmethod
    def of(cls, adapters: Mapping[str, Any] | None) -> Backbones:
        """Return the requests among the configured `model.adapters`.

        Raises:
            ValueError: a request is invalid, or names an unknown model.
        """
        requests = {}
        for name, node in (adapters or {}).items():
            target = node.get("_target_") if OmegaConf.is_dict(node) and not OmegaConf.is_missing(node, "_target_") else None
            if not isinstance(target, str) or target.startswith(_PLAIN) or not _is_request(target):
                continue
            if missing := [key for key in node if OmegaConf.is_missing(node, key)]:
                raise ValueError(f"model.adapters.{name}.{missing[0]}: must be given, e.g. adapter.{missing[0]}=NAME.")
            settings = OmegaConf.to_container(node, resolve=True)
            assert isinstance(settings, dict)
            requests[str(name)] = construct({str(key): value for key, value in settings.items()})
        return cls(requests=requests)

    def prescribe(self, data: LightningDataModule) -> None:
        """Give the data, before its setup, the entries of the spec that the networks require.

        Raises:
            ValueError: the data module takes none, or has other modalities.
        """
        if not self.requests:
            return
        take = getattr(data, "prescribe", None)
        if take is None:
            raise ValueError(
                f"data: {type(data).__name__} has no method `prescribe`, so the normalisation of the pretrained networks of "
                f"{', '.join(self.requests)} cannot be set; see perceiver.data.Source.prescribe."
            )
        take({name: {"kind": request.kind, **request.facts()} for name, request in self.requests.items()})

    def described(self, config: DictConfig, spec: Mapping[str, Any]) -> DictConfig:
        """Return the configuration with architectures, plain data, in place of requests.

        Raises:
            ValueError: a modality is missing, or of another kind than its network takes.
        """
        if not self.requests:
            return config
        config = config.copy()
        with open_dict(config):
            for name, request in self.requests.items():
                entry = _entry(name, request, spec)
                config.model.adapters[name] = literal(request.adapter(entry))
        return config

    def fill(self, model: Perceiver, spec: Mapping[str, Any]) -> None:
        """Load the pretrained weights; not for a model whose weights come from a checkpoint."""
        for name, request in self.requests.items():
            adapter = model.adapters[name]
            if isinstance(adapter, Backbone) and request.fill(adapter, _entry(name, request, spec)):
                count = sum(parameter.numel() for parameter in adapter.network.parameters())
                print_line(f"{name}: {count:,} pretrained parameters, {adapter.extra_repr()}")

    def use_cache(self, model: Perceiver, folder: str | None, data: LightningDataModule, *, mixed: bool = False) -> None:
        """Keep features of frozen networks in a folder; those of augmented samples, which never come again, are not kept.

        Args:
            model: the model with its weights.
            folder: the folder; None: no cache.
            data: the data, of whose augmentation depends what is kept.
            mixed: whether training batches are mixed, so that no sample of any modality comes again.
        """
        if not folder or os.name == "nt":  # locks of files are those of POSIX
            return
        augmented = {*(getattr(data, "augment", None) or {}), *(getattr(data, "corruption", None) or {})}
        for name, adapter in model.adapters.items():
            if isinstance(adapter, Backbone) and adapter.frozen:
                self.caches[name] = FeatureCache(Path(folder))
                adapter.use_cache(self.caches[name], in_training=not mixed and name not in augmented)

    def report(self) -> None:
        """Print how many features were computed and read, and what reading them saved."""
        for name, cache in self.caches.items():
            if cache.computed or cache.read:
                each = f", {1000 * cache.seconds / cache.computed:.1f} ms each" if cache.computed else ""
                made = f"computed {cache.computed:,} ({cache.seconds:.1f} s{each})"
                print_line(f"{name}: features {made}, read {cache.read:,} from {cache.folder}")


def _is_request(target: str) -> bool:
    try:
        return issubclass(get_class(target), BackboneRequest)
    except Exception:  # the model's builder reports what is wrong with it
        return False


def _entry(name: str, request: BackboneRequest, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    entry: Mapping[str, Any] | None = spec.get("modalities", {}).get(name)
    if entry is None:
        known = ", ".join(sorted(spec.get("modalities", {})))
        raise ValueError(f"model.adapters.{name}: the data has no modality {name!r}, only {known}.")
    if entry.get("kind") != request.kind:
        raise ValueError(
            f"model.adapters.{name}: {type(request).__name__} is a network for {request.kind}, but {name} is of kind "
            f"{entry.get('kind')}."
        )
    return entry
