"""Saving and loading models with their config and spec, and the rules for classes that a file may name.

`build_model` builds a model from a resolved plain config, and `canonical` rewrites a config for saving.
"""

from perceiver.checkpoints.build import ConfigError, build_model, canonical, vetted
from perceiver.checkpoints.file import (
    KEY,
    CheckpointError,
    Recipe,
    assemble,
    entry,
    find,
    limit_to,
    listed_names,
    load,
    read,
    read_weights,
    recipe_of,
    save,
    take_over,
)
from perceiver.checkpoints.trusted_classes import TargetError
from perceiver.runtime.plain import PlainError

__all__ = [
    "KEY",
    "CheckpointError",
    "ConfigError",
    "PlainError",
    "Recipe",
    "TargetError",
    "assemble",
    "build_model",
    "canonical",
    "entry",
    "find",
    "limit_to",
    "listed_names",
    "load",
    "read",
    "read_weights",
    "recipe_of",
    "save",
    "take_over",
    "vetted",
]
