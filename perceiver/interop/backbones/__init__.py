"""Networks of timm, torchvision, transformers and torchaudio as adapters: requests for them, and the networks themselves.

A request names a model of a library; it belongs to a user's configuration and may read files or the network. What it finds
is plain data: the architecture, which the checkpoint keeps, entries of the spec, and weights. The classes of networks, which
a checkpoint may name, take an architecture from an explicit list and never read files or the network.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Timm": "timm_images",
    "TorchaudioSounds": "torchaudio_sounds",
    "TorchvisionImages": "torchvision_images",
    "TransformersImages": "transformers_images",
    "TransformersSounds": "transformers_sounds",
    "TransformersTexts": "transformers_texts",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'perceiver.interop.backbones' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perceiver.interop.backbones.{_MODULES[name]}"), name)
    return value
