"""From a resolved plain config to a model: `build_model`, and `canonical` for configs that are saved."""

from perceiver.build.builder import ConfigError, build_model, canonical, vetted
from perceiver.build.plain import PlainError
from perceiver.build.targets import TargetError

__all__ = ["ConfigError", "PlainError", "TargetError", "build_model", "canonical", "vetted"]
