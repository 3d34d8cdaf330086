"""Conversion from and to the Perceiver models of transformers: `from_transformers`, `to_transformers` (extra `hf`).

Directories are read without transformers, without the network, and without running code from any file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perceiver import checkpoints
from perceiver.checkpoints.build import build_model
from perceiver.interop.architectures import ARCHITECTURES, ArchitectureError, model_config, their_config
from perceiver.interop.correspondence import Pair, correspondence
from perceiver.interop.files import WeightFileError, read_config, read_weights
from perceiver.model import Perceiver


def from_transformers(model: nn.Module | str | Path, *, attention_dropout: float | None = None) -> Perceiver:
    """Convert a Perceiver of transformers to a model of this package, with the same outputs, in evaluation mode.

    Args:
        model: one of transformers' six classes (`PerceiverForImageClassificationFourier`, `…Learned`, `…ConvProcessing`,
            `PerceiverForOpticalFlow`, `PerceiverForMaskedLM`, `PerceiverForMultimodalAutoencoding`), or a local directory
            written by its `save_pretrained`, with `model.safetensors` or `pytorch_model.bin`.
        attention_dropout: probability in training; None takes the config's value (default 0.1). The original models were
            trained without attention dropout.

    Returns:
        A model whose `config` rebuilds it, for use with `perceiver.save` and `perceiver.load`. Weights are copies with
        unchanged types. Inputs are those of this package's adapters: `{"image": (B, 3, H, W)}`;
        `{"frames": (B, 3, 2, H, W)}`, raw frames, for optical flow; `{"text": (B, L)}`; any subset of
        `{"audio": (B, 1, samples), "video": (B, 3, T, H, W), "label": (B, classes)}`.

    Raises:
        FileNotFoundError: if the directory, its config or its weights do not exist.
        ArchitectureError: for another class, or values without a counterpart in this package.
        WeightFileError: for files of another format, and weights that are missing, superfluous or of other shapes.
    """
    if isinstance(model, nn.Module):
        name, source = type(model).__name__, type(model).__name__
        given = getattr(model, "config", None)
        if name not in ARCHITECTURES or given is None:
            raise ArchitectureError(f"{name}: expected a model of one of transformers' classes {', '.join(ARCHITECTURES)}")
        values, weights = given.to_dict(), {key: value.detach() for key, value in model.state_dict().items()}
    else:
        directory = Path(model)
        name, values = _described(directory)
        file, weights = read_weights(directory)
        source = str(file)
    try:
        config = model_config(name, _with_dropout(values, attention_dropout))
        with torch.random.fork_rng(devices=[]), checkpoints.limit_to(weights, source=source):
            ours = build_model(config)
    except ArchitectureError as error:
        raise ArchitectureError(f"{source}: {error}") from error
    except ValueError as error:
        raise ArchitectureError(f"{source}: invalid config: {error}") from error
    _fill(ours, correspondence(name, ours), weights, source)
    return ours.eval()


def config_from_transformers(directory: str | Path, *, attention_dropout: float | None = None) -> dict[str, Any]:
    """Return the config, for `build_model`, of the model that `from_transformers` builds from a directory.

    Reads no weights. See `from_transformers` for `attention_dropout`.

    Raises:
        FileNotFoundError, ArchitectureError, WeightFileError: as `from_transformers` for the config.
    """
    name, values = _described(Path(directory))
    try:
        return model_config(name, _with_dropout(values, attention_dropout))
    except ArchitectureError as error:
        raise ArchitectureError(f"{directory}: {error}") from error


def to_transformers(model: Perceiver) -> nn.Module:
    """Convert a model of this package to one of transformers' six classes, with the same outputs, in evaluation mode.

    Args:
        model: a model with one of the six architectures, as built by `from_transformers`; it may have been trained since.

    Raises:
        ImportError: if transformers is not installed.
        ArchitectureError: if the architecture differs; names the difference.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("to_transformers requires transformers; pip install 'perceiver-multimodal[hf]'") from error
    if model.config is None:
        raise ArchitectureError(
            "to_transformers: the model has no config; expected a model from from_transformers, perceiver.load or "
            "perceiver.checkpoints.build.build_model"
        )
    name, values = their_config(model.config)
    pairs = correspondence(name, model)
    state = model.state_dict()
    weights: dict[str, Tensor] = {}
    for pair in pairs:
        weights |= dict(zip(pair.theirs, pair.split(state[pair.ours].detach().cpu()), strict=True))
    dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
    with torch.random.fork_rng(devices=[]):
        theirs: nn.Module = getattr(transformers, name)(transformers.PerceiverConfig(**values))
    theirs = theirs.to(dtype)
    theirs.load_state_dict(weights)
    return theirs.eval()


def _described(directory: Path) -> tuple[str, dict[str, Any]]:
    """Return the class and the values of a directory's config.json."""
    values = read_config(directory, maker="transformers' save_pretrained")
    return _architecture(values, directory), values


def _with_dropout(values: dict[str, Any], attention_dropout: float | None) -> dict[str, Any]:
    return values if attention_dropout is None else {**values, "attention_probs_dropout_prob": attention_dropout}


def _architecture(values: Mapping[str, Any], directory: Path) -> str:
    """Return the class that a config.json names."""
    kind = values.get("model_type")
    if kind is not None and kind != "perceiver":
        raise ArchitectureError(f"{directory}: config.json: expected model_type 'perceiver', got {str(kind)[:60]!r}")
    named = values.get("architectures")
    names = named if isinstance(named, list) else []
    known = [name for name in names if name in ARCHITECTURES]
    if not known:
        raise ArchitectureError(
            f"{directory}: config.json: expected one of the architectures {', '.join(ARCHITECTURES)}; got {str(named)[:120]}"
        )
    return str(known[0])


def _fill(model: nn.Module, pairs: Sequence[Pair], weights: Mapping[str, Tensor], source: str) -> None:
    """Check every name and shape, then copy all weights with unchanged types."""
    expected = {name: shape for pair in pairs for name, shape in zip(pair.theirs, pair.shapes, strict=True)}
    missing = [name for name in expected if name not in weights]
    problems = checkpoints.listed_names("missing", missing, lambda name: str(expected[name]))
    problems += checkpoints.listed_names(
        "not in this architecture",
        [name for name in weights if name not in expected],
        lambda name: str(tuple(weights[name].shape)),
    )
    common = [name for name in expected if name in weights]
    problems += checkpoints.listed_names(
        "different shape",
        [name for name in common if tuple(weights[name].shape) != expected[name]],
        lambda name: f"file {tuple(weights[name].shape)}, config {expected[name]}",
    )
    if problems:
        raise WeightFileError(f"{source}: the weights do not fit the config:\n" + "\n".join(problems))
    ours = model.state_dict()
    state = {pair.ours: pair.join([weights[name] for name in pair.theirs], ours[pair.ours].shape) for pair in pairs}
    left = sorted(set(ours) - set(state))
    if left:
        raise AssertionError(f"transformers has no weights for {left}")
    checkpoints.take_over(model, state)
