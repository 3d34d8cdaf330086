"""Files of models as a stranger could write them. Each leaves a mark if anything in it is run.

Every function writes one hostile file or directory into a folder and returns what it wrote and where the mark would be.
Nothing here is run by writing it.
"""

import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perceiver.checkpoints.build import build_model, canonical
from perceiver.checkpoints.file import save

Config = dict[str, Any]

MODEL: Config = {
    "_target_": "perceiver.Perceiver",
    "adapters": {
        "image": {
            "_target_": "perceiver.adapters.ImagePixels",
            "image_channels": 1,
            "position": {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [8, 8]},
        }
    },
    "encoder": {
        "_target_": "perceiver.Encoder",
        "num_latents": 4,
        "latent_channels": 16,
        "num_layers_per_block": 1,
        "num_self_heads": 2,
    },
    "head": {"_target_": "perceiver.PooledHead", "num_classes": 10},
}
"""A small classifier of grey images of 8 x 8 pixels, as the digits are."""

SPEC: Config = {
    "modalities": {"image": {"kind": "image", "shape": [1, 8, 8], "mean": [0.3], "std": [0.4], "range": [0, 1]}},
    "target": {"kind": "classes", "names": [str(number) for number in range(10)]},
    "num_classes": 10,
}

PACKAGE = "planted_by_a_stranger"
"""A package beside a hostile file, as in a folder that somebody downloaded and works in."""


@dataclass(frozen=True)
class Hostile:
    """A hostile file.

    Args:
        path: the file or directory to give to a reader.
        marker: a file that is there if something was run.
        words: of the error that is expected, a regular expression.
    """

    path: Path
    marker: Path
    words: str

    def assert_nothing_ran(self) -> None:
        """Nothing of the file was run."""
        assert not self.marker.exists(), f"{self.path} ran code"


def checkpoint(folder: Path, change: Callable[[Config], object], *, name: str = "hostile.ckpt") -> Path:
    """A good checkpoint of `MODEL` whose model config was changed afterwards, past all checks of writing."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    file = save(build_model(MODEL, spec=SPEC), folder / name)
    content = torch.load(file, weights_only=True)
    change(content["perceiver"]["config"]["model"])
    torch.save(content, file)
    return file


def set_value(tree: Config, path: str, value: Any) -> None:
    """Set `encoder.dropout` or `adapters.image.position.resolution.0` in a tree."""
    *above, last = path.split(".")
    node: Any = tree
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value


def package_in_current_folder(folder: Path) -> Hostile:
    """The encoder is a class of a package beside the checkpoint; importing or building it leaves a mark."""
    marker = folder / "RAN"
    (folder / PACKAGE).mkdir(parents=True)
    touch = f"pathlib.Path({str(marker)!r}).touch()"
    (folder / PACKAGE / "__init__.py").write_text(
        f"import pathlib\n{touch}\nfrom perceiver.encoders.encoder import Encoder as Base\nclass Encoder(Base):\n"
        f"    def __init__(self, **arguments):\n        {touch}\n        super().__init__(**arguments)\n"
    )
    file = checkpoint(folder, lambda model: set_value(model, "encoder._target_", f"{PACKAGE}.Encoder"))
    return Hostile(file, marker, f"model.encoder._target_.*{PACKAGE}.Encoder.*outside the trusted packages")


def class_of_another_library(folder: Path) -> Hostile:
    """A module of an installed library stands where a dropout should."""
    node = {"_target_": "torchmetrics.regression.mse.MeanSquaredError"}
    file = checkpoint(folder, lambda model: set_value(model, "encoder.dropout", node))
    return Hostile(file, folder / "RAN", r"model\.encoder\.dropout\._target_.*torchmetrics.*outside the trusted packages")


def reference_to_environment(folder: Path) -> Hostile:
    """A string that OmegaConf would replace by a variable of the environment."""
    file = checkpoint(folder, lambda model: set_value(model, "encoder.attention", "${oc.env:HOME}"))
    return Hostile(file, folder / "RAN", r"model\.encoder\.attention: .*is not resolved")


def placeholder(folder: Path) -> Hostile:
    """A string that OmegaConf takes for a missing value."""
    file = checkpoint(folder, lambda model: set_value(model, "encoder.attention", "???"))
    return Hostile(file, folder / "RAN", r"model\.encoder\.attention: must be given")


def enormous_encoder(folder: Path) -> Hostile:
    """Latents of 25.6 GB beside weights of some kilobytes."""
    file = checkpoint(folder, lambda model: set_value(model, "encoder.num_latents", 400_000_000))
    return Hostile(file, folder / "RAN", r"model\.encoder .*a tensor of shape \(400000000, 16\) needs 25\.6 GB")


def endless_modules(folder: Path) -> Hostile:
    """A number of layers that no memory holds."""
    file = checkpoint(folder, lambda model: set_value(model, "encoder.num_layers_per_block", 10**9))
    return Hostile(file, folder / "RAN", r"model\.encoder .*more than [\d,]+ modules")


def endless_steps(folder: Path) -> Hostile:
    """Blocks of shared weights, which take no memory, and all time."""
    file = checkpoint(folder, lambda model: set_value(model, "encoder.num_blocks", 2**62))
    return Hostile(file, folder / "RAN", r"model\.encoder\.num_blocks: expected at most 4,096")


def number_out_of_range(folder: Path, path: str, value: float) -> Hostile:
    """`value` at `path` of the model config, as `encoder.dropout`."""
    file = checkpoint(folder, lambda model: set_value(model, path, value))
    return Hostile(file, folder / "RAN", path.rpartition(".")[2])


def adapters_that_are_none(folder: Path) -> Hostile:
    """The adapters are a list."""
    file = checkpoint(folder, lambda model: set_value(model, "adapters", ["image"]))
    return Hostile(file, folder / "RAN", r"adapters.*expected a mapping")


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def code_in_a_checkpoint(folder: Path) -> Hostile:
    """Unpickling it would make a file."""
    marker = folder / "RAN"
    file = checkpoint(folder, lambda model: None)
    content = torch.load(file, weights_only=True)
    torch.save({**content, "hyper_parameters": _Touch(marker)}, file)
    return Hostile(file, marker, "refused, and none of its code was run")


CHECKPOINTS: tuple[Callable[[Path], Hostile], ...] = (
    package_in_current_folder,
    class_of_another_library,
    reference_to_environment,
    placeholder,
    enormous_encoder,
    endless_modules,
    endless_steps,
    adapters_that_are_none,
    code_in_a_checkpoint,
)
"""All hostile checkpoints without arguments."""


# -------------------------------------------------------------------- directories of transformers and of save_pretrained


def pretrained(folder: Path, change: Callable[[Config], object]) -> Path:
    """A directory of `config.json` and `model.safetensors` of this package, its model config changed afterwards."""
    from perceiver.interop.hub import save_pretrained

    torch.manual_seed(0)
    save_pretrained(build_model(MODEL, spec=SPEC), folder)
    content = json.loads((folder / "config.json").read_text())
    change(content["perceiver"]["config"]["model"])
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def transformers_values(folder: Path, values: Mapping[str, Any], *, words: str) -> Hostile:
    """A directory as transformers writes it, whose config.json has these values and whose weights are tiny."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    known = {"model_type": "perceiver", "architectures": ["PerceiverForImageClassificationLearned"]}
    (folder / "config.json").write_text(json.dumps({**known, **values}))
    save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
    return Hostile(folder, folder / "RAN", words)


TRANSFORMERS: dict[str, tuple[dict[str, Any], str]] = {
    "wide latents": ({"d_latents": 10**9}, "needs .* are allowed"),
    "many latents": ({"num_latents": 10**9, "d_latents": 8}, "needs .* are allowed"),
    "beyond any size": ({"d_latents": 10**30}, "d_latents: expected int from 1 to"),
    "negative": ({"num_latents": -1}, "num_latents: expected int from 1 to"),
    "many layers": ({"d_latents": 8, "num_self_attends_per_block": 10**9}, "more than [0-9,]+ modules"),
    "a list times a number": (
        {
            "architectures": ["PerceiverForMultimodalAutoencoding"],
            "num_frames": [0, 0, 0, 0],
            "audio_samples_per_frame": 10**9,
        },
        "num_frames: expected int, got list",
    ),
    "dropout": ({"attention_probs_dropout_prob": -1}, "attention_probs_dropout_prob: expected a number"),
    "no number": ({"attention_probs_dropout_prob": math.nan}, "NaN is not valid JSON"),
    "reference": ({"d_latents": "${oc.env:HOME}"}, "d_latents: expected int, got str"),
    "true": ({"num_latents": True}, "num_latents: expected int, got bool"),
}
"""Values of a hostile config.json, and the error they end in."""


def digits_without_end(folder: Path) -> Hostile:
    """A config.json with an integer of five thousand digits."""
    hostile = transformers_values(folder, {}, words="expected JSON")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "d_latents": ' + "9" * 5000 + "}")
    return hostile


def header_beyond_the_file(folder: Path) -> Hostile:
    """Safetensors whose header claims to have 2**62 bytes."""
    hostile = transformers_values(folder, {}, words=r"model\.safetensors: .*header claims")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    return hostile


def compressed_weights(folder: Path) -> Hostile:
    """A pytorch_model.bin that is small as a file and large in memory."""
    hostile = transformers_values(folder, {}, words=r"pytorch_model\.bin: .*compressed")
    (folder / "model.safetensors").unlink()
    plain = folder / "plain.bin"
    torch.save({"weight": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    plain.unlink()
    return hostile


def code_in_pytorch_model(folder: Path) -> Hostile:
    """Unpickling it would make a file."""
    hostile = transformers_values(folder, {}, words="refused, and none of its code was run")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Touch(hostile.marker)}, folder / "pytorch_model.bin")
    return hostile


DIRECTORIES: tuple[Callable[[Path], Hostile], ...] = (
    digits_without_end,
    header_beyond_the_file,
    compressed_weights,
    code_in_pytorch_model,
)
"""All hostile directories of transformers without arguments, besides `TRANSFORMERS`."""


def numbers_of(tree: Config) -> list[str]:
    """Paths of all numbers in a model config, as `set_value` takes them."""
    found: list[str] = []
    stack: list[tuple[Any, str]] = [(deepcopy(tree), "")]
    while stack:
        node, path = stack.pop()
        if isinstance(node, dict | list):
            children = node.items() if isinstance(node, dict) else enumerate(node)
            stack.extend((value, f"{path}.{key}" if path else str(key)) for key, value in children)
        elif type(node) in (int, float):
            found.append(path)
    return sorted(found)


def own_spelling(model: Config) -> Config:
    """A model config as checkpoints have it."""
    return canonical(model)
