"""The models of transformers that a checkpoint may name, with the arguments that they may take, and directories of them.

Models are built from an explicit class and plain numbers: no `Auto` class, no code of a repository, no file.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perceiver.checkpoints.allocation import AllocationError, limit_allocation, show_bytes
from perceiver.interop.backbones.downloads import fetched
from perceiver.interop.backbones.request import BackboneError
from perceiver.interop.files import CONFIG, PYTORCH, SAFETENSORS, WeightFileError, read_config

_WORD = re.compile(r"[a-z0-9_]{1,40}", re.ASCII)
_REPOSITORY = re.compile(r"[\w.\-]+(/[\w.\-]+)?", re.ASCII)
_MOST = 2**31
_LARGER = 4  # a model may be this much larger than its weights, which may be of half precision or shared
_SLACK_BYTES = 2**24
_MOST_MODULES = 2_000

_LAYERS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")
_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_TEXT = (*_LAYERS, *_DROPOUT, "vocab_size", "max_position_embeddings", "pad_token_id")
_BERT = (*_TEXT, "type_vocab_size")
_VISION = (*_LAYERS, *_DROPOUT, "image_size", "patch_size", "num_channels", "qkv_bias")
_SPEECH = (
    *_LAYERS,
    *("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"),
    *("feat_extract_activation", "conv_dim", "conv_stride", "conv_kernel", "conv_bias"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
)
_WAV2VEC2 = (*_SPEECH, "feat_extract_norm", "do_stable_layer_norm")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A class of models.

    Args:
        kind: kind of modality.
        config, model: names of the classes in transformers.
        arguments: arguments of the config that may be set.
        layers: argument with the number of layers.
        fixed: arguments that are always the same.
        prefix_tokens: number of tokens before those of patches.
    """

    kind: str
    config: str
    model: str
    arguments: tuple[str, ...]
    layers: str = "num_hidden_layers"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    prefix_tokens: int = 0


# Random masks of training would draw from NumPy, and whole layers would be dropped.
_UNMASKED = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}

FAMILIES: Mapping[str, Family] = {
    "bert": Family(kind="text", config="BertConfig", model="BertModel", arguments=_BERT),
    "roberta": Family(kind="text", config="RobertaConfig", model="RobertaModel", arguments=_BERT),
    "xlm-roberta": Family(kind="text", config="XLMRobertaConfig", model="XLMRobertaModel", arguments=_BERT),
    "mpnet": Family(
        kind="text", config="MPNetConfig", model="MPNetModel", arguments=(*_TEXT, "relative_attention_num_buckets")
    ),
    "electra": Family(kind="text", config="ElectraConfig", model="ElectraModel", arguments=(*_BERT, "embedding_size")),
    "albert": Family(
        kind="text",
        config="AlbertConfig",
        model="AlbertModel",
        arguments=(*_BERT, "embedding_size", "num_hidden_groups", "inner_group_num"),
    ),
    "distilbert": Family(
        kind="text",
        config="DistilBertConfig",
        model="DistilBertModel",
        arguments=(
            *("vocab_size", "max_position_embeddings", "sinusoidal_pos_embds", "n_layers", "n_heads", "dim", "hidden_dim"),
            *("dropout", "attention_dropout", "activation", "pad_token_id"),
        ),
        layers="n_layers",
    ),
    "vit": Family(kind="image", config="ViTConfig", model="ViTModel", arguments=_VISION, prefix_tokens=1),
    "deit": Family(kind="image", config="DeiTConfig", model="DeiTModel", arguments=_VISION, prefix_tokens=2),
    "dinov2": Family(
        kind="image",
        config="Dinov2Config",
        model="Dinov2Model",
        arguments=(
            *(name for name in _VISION if name != "intermediate_size"),
            *("mlp_ratio", "layerscale_value", "use_swiglu_ffn", "drop_path_rate"),
        ),
        prefix_tokens=1,
    ),
    "clip_vision_model": Family(
        kind="image",
        config="CLIPVisionConfig",
        model="CLIPVisionModel",
        arguments=(*_LAYERS, "attention_dropout", "image_size", "patch_size", "num_channels"),
        prefix_tokens=1,
    ),
    "wav2vec2": Family(kind="audio", config="Wav2Vec2Config", model="Wav2Vec2Model", arguments=_WAV2VEC2, fixed=_UNMASKED),
    "hubert": Family(
        kind="audio",
        config="HubertConfig",
        model="HubertModel",
        arguments=(*_WAV2VEC2, "feat_proj_layer_norm", "conv_pos_batch_norm"),
        fixed=_UNMASKED,
    ),
    "wavlm": Family(
        kind="audio",
        config="WavLMConfig",
        model="WavLMModel",
        arguments=(*_WAV2VEC2, "num_buckets", "max_bucket_distance"),
        fixed=_UNMASKED,
    ),
    "data2vec-audio": Family(
        kind="audio",
        config="Data2VecAudioConfig",
        model="Data2VecAudioModel",
        arguments=(*_SPEECH, "conv_pos_kernel_size"),
        fixed=_UNMASKED,
    ),
    "audio-spectrogram-transformer": Family(
        kind="audio",
        config="ASTConfig",
        model="ASTModel",
        arguments=(
            *(*_LAYERS, *_DROPOUT, "patch_size", "qkv_bias"),
            *("frequency_stride", "time_stride", "max_length", "num_mel_bins"),
        ),
        prefix_tokens=2,
    ),
}
"""Models by the word that transformers' configs have as `model_type`."""


def family_of(model_type: object, *, kind: str | None = None) -> Family:
    """Return the family of a model; BackboneError for a type that is not on the list, or of another kind."""
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    known = sorted(name for name, one in FAMILIES.items() if kind in (None, one.kind))
    if family is None or (kind is not None and family.kind != kind):
        raise BackboneError(
            f"transformers: expected a model of type {', '.join(known)}, got {str(model_type)[:60]!r}. Wrap a network of "
            "another type as a FeatureNetwork of your own package."
        )
    return family


def made(model_type: str, config: Mapping[str, Any], *, kind: str) -> tuple[nn.Module, Any]:
    """Build a model with random weights from its type and plain arguments; return it with its config object.

    Raises:
        BackboneError: for a type or argument that is not on the list, or a value of another type.
    """
    cls, settings = _described(model_type, config, kind=kind)
    return cls(settings, **_without_pooling(cls)), settings


def _described(model_type: str, config: Mapping[str, Any], *, kind: str) -> tuple[type[Any], Any]:
    """Return the class and the config object of a model. Raises like `made`."""
    import transformers  # slow to import, rarely needed

    family = family_of(model_type, kind=kind)
    for name, value in config.items():
        if name not in family.arguments:
            raise BackboneError(
                f"transformers: {model_type} takes no argument {str(name)[:60]!r}; expected {', '.join(family.arguments)}."
            )
        if not _is_plain(value):
            raise BackboneError(f"transformers: {model_type}.{name}: expected a number or a word, got {str(value)[:60]!r}.")
    cls = getattr(transformers, family.model)
    settings = getattr(transformers, family.config)(
        **config, **family.fixed, attn_implementation="sdpa" if getattr(cls, "_supports_sdpa", False) else "eager"
    )
    return cls, settings


def _without_pooling(cls: type) -> dict[str, bool]:
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(cls).parameters else {}


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= 64 and all(type(entry) is int and 0 < entry < _MOST for entry in value)
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, bool) or value is None:
        return True
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < _MOST


@dataclass(frozen=True, kw_only=True)
class Directory:
    """A directory that transformers wrote, local or in the Hub's cache.

    Args:
        folder: the directory.
        kind: kind of modality that the model must take.
    """

    folder: Path
    kind: str

    @classmethod
    def find(cls, name: str, *, kind: str, files: tuple[str, ...] = ()) -> Directory:
        """Return the directory of a model: a local one, or that of a repository on the Hub.

        Args:
            name: a directory, or `owner/name`.
            kind: kind of modality.
            files: further files of the directory, some of which may be missing.

        Raises:
            BackboneError: there is no such directory, and the Hub does not have it or cannot be reached.
        """
        place = Path(name).expanduser()
        if place.is_dir():
            return cls(folder=place, kind=kind)
        if not _REPOSITORY.fullmatch(name) or name.startswith("."):
            raise BackboneError(f"model_name: expected a directory, or owner/name on the Hub, got {name[:100]!r}.")
        folder = fetched(name, [CONFIG, f"{SAFETENSORS}|{PYTORCH}"], optional=files, setting="model_name")
        return cls(folder=folder, kind=kind)

    def model_type(self) -> str:
        """Return the type of the model, which is on the list; BackboneError otherwise."""
        model_type = read_config(self.folder, maker="transformers' save_pretrained").get("model_type")
        family_of(model_type, kind=self.kind)
        return str(model_type)

    def config(self, *, layers: int | None = None, pretrained: bool = False) -> dict[str, Any]:
        """Return the arguments of the model.

        Args:
            layers: number of its first layers to keep; None: all.
            pretrained: whether the weights in the directory shall fill the model.

        Raises:
            BackboneError: for arguments that this package cannot set, too many layers, or with `pretrained` for a model
                that is much larger than the weights.
        """
        stored = read_config(self.folder, maker="transformers' save_pretrained")
        family = family_of(stored.get("model_type"), kind=self.kind)
        if stored.get("position_embedding_type", "absolute") != "absolute":
            raise BackboneError(
                f"{self.folder}: expected absolute position embeddings, got {stored['position_embedding_type']!r}."
            )
        config = {name: stored[name] for name in family.arguments if name in stored}
        if layers is not None:
            known = config.get(family.layers, _MOST)
            if not 1 <= layers <= known:
                raise BackboneError(f"layers: expected 1 to {known}, the layers of {self.folder}, or null; got {layers}.")
            config[family.layers] = layers
        if pretrained:
            self._require_filled(config)
        return config

    def _require_filled(self, config: Mapping[str, Any]) -> None:
        """Check the size of a model against that of the weights, before it is built; BackboneError if it is much larger."""
        files = [file for pattern in ("*.safetensors", "*.bin") for file in self.folder.glob(pattern)]
        stored = sum(file.stat().st_size for file in files)
        most = _LARGER * stored + _SLACK_BYTES
        reason = f"the weights in {self.folder} have {show_bytes(stored)}, so its config does not match them"
        try:
            # The meta device has sizes, but no memory.
            with torch.device("meta"), limit_allocation(max_bytes=most, max_modules=_MOST_MODULES, reason=reason):
                model, _ = made(self.model_type(), config, kind=self.kind)
        except AllocationError as error:
            raise BackboneError(f"model_name: {error}.") from error
        needed = sum(one.numel() * one.dtype.itemsize for one in (*model.parameters(), *model.buffers()))
        if needed > most:
            raise BackboneError(f"model_name: the model needs {show_bytes(needed)} ({reason}).")

    def settings(self, name: str) -> dict[str, Any]:
        """Return the content of another JSON file of the directory; empty if it is missing."""
        import json

        file = self.folder / name
        try:
            content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (ValueError, RecursionError) as error:
            raise BackboneError(f"{file}: expected JSON: {error}") from error
        return content if isinstance(content, dict) else {}

    def weights(self, *, layers: int | None = None) -> dict[str, Tensor]:
        """Return the weights by their names in the model of `made`, whose arguments `config` has compared with them.

        Raises:
            WeightFileError: the files are damaged, or hold the weights of another model.
        """
        import transformers

        cls, settings = _described(self.model_type(), self.config(layers=layers), kind=self.kind)
        logging = transformers.logging
        verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            loaded, found = cls.from_pretrained(
                str(self.folder),
                config=settings,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=any(self.folder.glob("*.safetensors")),
                output_loading_info=True,
                **_without_pooling(cls),
            )
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])[:300]
            raise WeightFileError(f"{self.folder}: its weights cannot be loaded into {cls.__name__}: {reason}") from error
        except Exception as error:  # safetensors' own error, which is no subclass of any
            raise WeightFileError(f"{self.folder}: its weights are damaged: {str(error)[:200]}. Copy them again") from error
        finally:
            logging.set_verbosity(verbosity)
            if shows_progress:
                logging.enable_progress_bar()
        missing = sorted(found["missing_keys"])
        if missing or found.get("mismatched_keys"):
            names = missing or [str(entry[0]) for entry in found["mismatched_keys"]]
            raise WeightFileError(
                f"{self.folder}: its weights are those of another architecture than {self.model_type()} in its config: "
                f"{len(names)} are missing or of another shape: {', '.join(names[:3])}."
            )
        state: dict[str, Tensor] = loaded.state_dict()
        return state
