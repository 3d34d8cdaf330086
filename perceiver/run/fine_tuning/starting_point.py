"""Starting points of fine-tuning: a checkpoint or run directory, or a directory with `config.json` and weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from perceiver import checkpoints
from perceiver.interop.files import (
    CONFIG,
    PYTORCH,
    SAFETENSORS,
    config_file,
    read_config,
    read_weights,
)
from perceiver.interop.huggingface import config_from_transformers, from_transformers


@dataclass(frozen=True, kw_only=True)
class StartingPoint(ABC):
    """A trained model: its configuration and its weights.

    Args:
        path: the file or directory, as shown in messages.
    """

    path: Path

    @abstractmethod
    def model_config(self) -> dict[str, Any]:
        """Return configuration of the model for `perceiver.checkpoints.build.build_model`; does not read the weights."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return the weights, by their names in the model."""

    @staticmethod
    def find(path: str | Path) -> StartingPoint:
        """Find the model at `path`: a checkpoint, run directory, or the output of `save_pretrained` (transformers' or ours).

        Raises:
            FileNotFoundError: the path is not one of these; the message describes its contents.
        """
        given = Path(path)
        if given.name in (SAFETENSORS, PYTORCH, CONFIG) and given.is_file():
            given = given.parent
        try:
            return Checkpoint(path=checkpoints.find(given))
        except FileNotFoundError as error:
            if not config_file(given).is_file():
                hint = f", or a directory with {CONFIG} and {SAFETENSORS}" if given.is_dir() else ""
                raise FileNotFoundError(f"{error}{hint}") from error
        own = checkpoints.KEY in read_config(given, maker="save_pretrained")
        return Pretrained(path=given) if own else Imported(path=given)


class Checkpoint(StartingPoint):
    """A file that training or `perceiver.save` wrote."""

    def model_config(self) -> dict[str, Any]:
        """Return the configuration in the entry `perceiver`."""
        config: dict[str, Any] = checkpoints.read(self.path).config["model"]
        return config

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in the state dict."""
        return checkpoints.read_weights(self.path)


class Pretrained(StartingPoint):
    """A directory that `perceiver.interop.hub.save_pretrained` wrote."""

    def model_config(self) -> dict[str, Any]:
        """Return the configuration in `config.json`."""
        content = read_config(self.path, maker="save_pretrained")
        config: dict[str, Any] = checkpoints.recipe_of(content, self.path / CONFIG).config["model"]
        return config

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in the weight file."""
        return read_weights(self.path)[1]


class Imported(StartingPoint):
    """A directory of any of transformers' six Perceiver classes, see `perceiver.interop.huggingface`.

    Training starts without attention dropout, as in the original training; transformers' configs have 0.1 for every model.
    """

    def model_config(self) -> dict[str, Any]:
        """Return the configuration of a model with the same architecture."""
        return config_from_transformers(self.path, attention_dropout=0.0)

    def weights(self) -> dict[str, Tensor]:
        """Return the converted weights; the whole file is checked against its config."""
        return dict(from_transformers(self.path).state_dict())
