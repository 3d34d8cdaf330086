"""Perceiver models of transformers, in and out: `from_transformers`, `to_transformers` (extra `hf`).

Directories are read without transformers, without network, and without running anything that a file holds.
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
    """A Perceiver of transformers as a model of this package, with the same outputs, in evaluation mode.

    Args:
        model: one of transformers' six classes (`PerceiverForImageClassificationFourier`, `…Learned`, `…ConvProcessing`,
            `PerceiverForOpticalFlow`, `PerceiverForMaskedLM`, `PerceiverForMultimodalAutoencoding`), or a local directory
            that its `save_pretrained` wrote, with `model.safetensors` or `pytorch_model.bin`.
        attention_dropout: in training; None takes what the config says, which is 0.1 where it says nothing. The original
            models were trained without.

    Returns:
        A model whose `config` rebuilds it, so that `perceiver.save` and `perceiver.load` serve. Weights are copies, of the
        types that they have there. Inputs are those of this package's adapters: `{"image": (B, 3, H, W)}`;
        `{"frames": (B, 3, 2, H, W)}`, raw frames, for optical flow; `{"text": (B, L)}`; `{"audio": (B, 1, samples),
        "video": (B, 3, T, H, W), "label": (B, classes)}`, any of them.

    Raises:
        FileNotFoundError: if there is no such directory, or no config or weights in it.
        ArchitectureError: for another class, or values that this package has no counterpart of.
        WeightFileError: for files of another format, and weights that are missing, superfluous or of other shapes.
    """
    if isinstance(model, nn.Module):
        name, source = type(model).__name__, type(model).__name__
        own = getattr(model, "config", None)
        if name not in ARCHITECTURES or own is None:
            raise ArchitectureError(f"{name}: expected a model of one of transformers' classes {', '.join(ARCHITECTURES)}")
        values, weights = own.to_dict(), {key: value.detach() for key, value in model.state_dict().items()}
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
        raise ArchitectureError(f"{source}: its config makes no model: {error}") from error
    _fill(ours, correspondence(name, ours), weights, source)
    return ours.eval()


def config_from_transformers(directory: str | Path, *, attention_dropout: float | None = None) -> dict[str, Any]:
    """What `from_transformers` builds the model of a directory from, for `build_model`. Reads no weights.

    `attention_dropout` is as there.

    Raises:
        FileNotFoundError, ArchitectureError, WeightFileError: as `from_transformers` does for the config.
    """
    name, values = _described(Path(directory))
    try:
        return model_config(name, _with_dropout(values, attention_dropout))
    except ArchitectureError as error:
        raise ArchitectureError(f"{directory}: {error}") from error


def to_transformers(model: Perceiver) -> nn.Module:
    """A model of this package as one of transformers' six classes, with the same outputs, in evaluation mode.

    Args:
        model: of one of the six architectures, as `from_transformers` builds them; trained further or not.

    Raises:
        ImportError: if transformers is not installed.
        ArchitectureError: if it is of another architecture, naming what differs.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("to_transformers needs transformers; pip install 'perceiver-multimodal[hf]'") from error
    if model.config is None:
        raise ArchitectureError(
            "to_transformers: the model does not say its config; expected one of from_transformers, perceiver.load or "
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
    """The class and the values in a directory's config.json."""
    values = read_config(directory, maker="transformers' save_pretrained")
    return _architecture(values, directory), values


def _with_dropout(values: dict[str, Any], attention_dropout: float | None) -> dict[str, Any]:
    return values if attention_dropout is None else {**values, "attention_probs_dropout_prob": attention_dropout}


def _architecture(values: Mapping[str, Any], directory: Path) -> str:
    """The class that a config.json names."""
    kind = values.get("model_type")
    if kind is not None and kind != "perceiver":
        raise ArchitectureError(f"{directory}: its config.json is of a model of type {str(kind)[:60]!r}, not a perceiver")
    named = values.get("architectures")
    names = named if isinstance(named, list) else []
    known = [name for name in names if name in ARCHITECTURES]
    if not known:
        raise ArchitectureError(
            f"{directory}: config.json names the architectures {str(named)[:120]}; expected one of "
            + ", ".join(ARCHITECTURES)
        )
    return str(known[0])


def _fill(model: nn.Module, pairs: Sequence[Pair], weights: Mapping[str, Tensor], source: str) -> None:
    """Copy all weights, in their types, after every name and shape was compared."""
    expected = {name: shape for pair in pairs for name, shape in zip(pair.theirs, pair.shapes, strict=True)}
    missing = [name for name in expected if name not in weights]
    problems = checkpoints.listed_names("missing", missing, lambda name: str(expected[name]))
    problems += checkpoints.listed_names(
        "not of this architecture",
        [name for name in weights if name not in expected],
        lambda name: str(tuple(weights[name].shape)),
    )
    common = [name for name in expected if name in weights]
    problems += checkpoints.listed_names(
        "of another shape",
        [name for name in common if tuple(weights[name].shape) != expected[name]],
        lambda name: f"there {tuple(weights[name].shape)}, by the config {expected[name]}",
    )
    if problems:
        raise WeightFileError(f"{source}: the weights do not fit the config:\n" + "\n".join(problems))
    own = model.state_dict()
    state = {pair.ours: pair.join([weights[name] for name in pair.theirs], own[pair.ours].shape) for pair in pairs}
    left = sorted(set(own) - set(state))
    if left:
        raise AssertionError(f"no weight of transformers corresponds to {left}")
    checkpoints.take_over(model, state)
