"""Configs of the six published models, converted between transformers and this package.

`model_config` converts the values of a `PerceiverConfig` to the config of `perceiver.checkpoints.build_model`, and
`their_config` converts it back. Settings in neither of them are constants of the class, as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perceiver.checkpoints.build import canonical

DEFAULTS: dict[str, Any] = {
    "num_latents": 256,
    "d_latents": 1280,
    "d_model": 768,
    "num_blocks": 1,
    "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "qk_channels": None,
    "v_channels": None,
    "cross_attention_shape_for_attention": "kv",
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "hidden_act": "gelu",
    "attention_probs_dropout_prob": 0.1,
    "use_query_residual": True,
    "vocab_size": 262,
    "max_position_embeddings": 2048,
    "image_size": 56,
    "train_size": [368, 496],
    "num_frames": 16,
    "audio_samples_per_frame": 1920,
    "samples_per_patch": 16,
    "output_shape": [1, 16, 224, 224],
    "output_num_channels": 512,
    "_label_trainable_num_channels": 1024,
}
"""Default values for entries that a config.json leaves out."""

MOST = 10**9
"""Upper limit of any size in a config; real sizes are far smaller, since their weights must exist."""

GELU_FORMS = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}
"""From the name of an activation to whether it is the tanh form of GELU."""

FRAMES_PER_SECOND = 25
"""Frame rate of the multimodal autoencoder's video, used only to derive the sample rate of its audio."""

Config = dict[str, Any]


class ArchitectureError(ValueError):
    """A config's architecture cannot be converted; the message names the value and what was expected."""


@dataclass(frozen=True)
class Architecture:
    """Conversion of one of the six classes between the values of transformers (theirs) and configs of this package (ours).

    Args:
        adapters: makes our adapters' configs by modality from their values.
        head: makes our head's config from their values.
        read: returns the values specific to this class from a config of ours.
        fusion: makes our fusion's config, or None, from their values.
    """

    adapters: Callable[[Config], Config]
    head: Callable[[Config], Config]
    read: Callable[[Config], Config]
    fusion: Callable[[Config], Config | None] = lambda values: None


def model_config(name: str, given: Mapping[str, Any]) -> Config:
    """Return the config for `perceiver.checkpoints.build_model` of the class `name` with these values of a PerceiverConfig.

    Raises:
        ArchitectureError: for an unknown class, or a value without a counterpart in this package.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"unknown architecture {str(name)[:80]!r}; expected one of {', '.join(ARCHITECTURES)}")
    values = {key: _plain(given.get(key, default)) for key, default in DEFAULTS.items()}
    for key, default in DEFAULTS.items():
        _check_value(key, values[key], default)
    values["num_labels"] = _num_labels(given)
    if values["hidden_act"] not in GELU_FORMS:
        raise ArchitectureError(f"hidden_act: expected one of {', '.join(GELU_FORMS)}, got {values['hidden_act']!r}")
    if values["cross_attention_shape_for_attention"] not in ("q", "kv"):
        raise ArchitectureError(
            f"cross_attention_shape_for_attention: expected q or kv, got {values['cross_attention_shape_for_attention']!r}"
        )
    if values["v_channels"] not in (None, values["d_latents"]):
        raise ArchitectureError(f"v_channels: expected d_latents = {values['d_latents']}, got {values['v_channels']}")
    architecture = ARCHITECTURES[name]
    tree: Config = {
        "_target_": "perceiver.model.Perceiver",
        "adapters": architecture.adapters(values),
        "encoder": _encoder(values),
        "head": architecture.head(values),
    }
    fusion = architecture.fusion(values)
    if fusion is not None:
        tree["fusion"] = fusion
    return canonical(tree)


def their_config(tree: Mapping[str, Any]) -> tuple[str, Config]:
    """Return the class, and its values, that a config of ours describes: the inverse of `model_config`.

    Raises:
        ArchitectureError: if it is not one of the six models; names the difference from the closest.
    """
    adapters = tree.get("adapters", {})
    kinds = {name: str(node.get("_target_")).rpartition(".")[2] for name, node in adapters.items()}
    name = next((name for name, expected_kinds in _KINDS.items() if expected_kinds == kinds), None)
    if name is None:
        raise ArchitectureError(
            "adapters: expected the adapters of one of the six published models, such as {'image': 'ImagePixels'}; "
            f"got {kinds}"
        )
    try:
        values = _read_encoder(tree["encoder"]) | ARCHITECTURES[name].read(dict(tree))
    except (KeyError, TypeError, IndexError) as error:
        raise ArchitectureError(f"{name}: the config lacks {error}, which transformers' class requires") from error
    expected = model_config(name, values)
    different = _difference(expected, dict(tree), "model")
    if different is not None:
        raise ArchitectureError(f"{name}: {different}. transformers' class cannot represent this model.")
    return name, values


def _encoder(values: Config) -> Config:
    return {
        "_target_": "perceiver.encoders.encoder.Encoder",
        "num_latents": values["num_latents"],
        "latent_channels": values["d_latents"],
        "num_blocks": values["num_blocks"],
        "num_layers_per_block": values["num_self_attends_per_block"],
        "num_cross_heads": values["num_cross_attention_heads"],
        "num_self_heads": values["num_self_attention_heads"],
        "cross_qk_channels": _cross_qk(values),
        "cross_v_channels": values["v_channels"],
        "self_qk_channels": values["qk_channels"],
        "self_v_channels": _self_v(values),
        "cross_widening": values["cross_attention_widening_factor"],
        "self_widening": values["self_attention_widening_factor"],
        "query_residual": values["use_query_residual"],
        "attention_dropout": float(values["attention_probs_dropout_prob"]),
        "approximate_gelu": GELU_FORMS[values["hidden_act"]],
        "latent_std": 0.02,
    }


def _cross_qk(values: Config) -> int | None:
    """Return the width of queries and keys; None takes the width of the tokens, which is `kv` in transformers."""
    if values["qk_channels"] is not None:
        return int(values["qk_channels"])
    return int(values["d_latents"]) if values["cross_attention_shape_for_attention"] == "q" else None


def _self_v(values: Config) -> int | None:
    return None if values["v_channels"] is None else int(values["v_channels"])


def _read_encoder(node: Config) -> Config:
    q_wide = node["cross_qk_channels"] is not None and node["self_qk_channels"] is None
    return {
        "num_latents": node["num_latents"],
        "d_latents": node["latent_channels"],
        "num_blocks": node["num_blocks"],
        "num_self_attends_per_block": node["num_layers_per_block"],
        "num_cross_attention_heads": node["num_cross_heads"],
        "num_self_attention_heads": node["num_self_heads"],
        "qk_channels": node["self_qk_channels"],
        "v_channels": node["cross_v_channels"],
        "cross_attention_shape_for_attention": "q" if q_wide else "kv",
        "cross_attention_widening_factor": node["cross_widening"],
        "self_attention_widening_factor": node["self_widening"],
        "use_query_residual": node["query_residual"],
        "attention_probs_dropout_prob": node["attention_dropout"],
        "hidden_act": "gelu_pytorch_tanh" if node["approximate_gelu"] else "gelu",
    }


def _fourier(bands: int, resolution: list[int], **more: Any) -> Config:
    return {"_target_": "perceiver.tokens.positions.Fourier", "num_bands": bands, "resolution": resolution, **more}


def _decoding(values: Config) -> Config:
    """Return the settings that all decoders of a model share with its encoder."""
    return {
        "attention_dropout": float(values["attention_probs_dropout_prob"]),
        "approximate_gelu": GELU_FORMS[values["hidden_act"]],
    }


def _decoder_qk(values: Config, query_channels: int | None) -> int | None:
    """Return the width of queries and keys; None takes the latents' width, which is `kv` in transformers."""
    return query_channels if values["cross_attention_shape_for_attention"] == "q" else None


def _classifier(values: Config) -> Config:
    return {
        "_target_": "perceiver.decoders.ClassificationDecoder",
        "num_classes": values["num_labels"],
        "query_residual": True,
        **_decoding(values),
    }


def _read_classifier(tree: Config) -> Config:
    return {"num_labels": tree["head"]["num_classes"]}


def _image_pixels(values: Config) -> Config:
    position = _fourier(64, [224, 224])
    return {"image": {"_target_": "perceiver.adapters.ImagePixels", "image_channels": 3, "position": position}}


def _image_learned(values: Config) -> Config:
    side = values["image_size"]
    table = {"_target_": "perceiver.tokens.positions.LearnedTable", "grid": [side, side], "channels": 256}
    position = {"_target_": "perceiver.tokens.positions.Projected", "position": table, "channels": 256}
    return {
        "image": {
            "_target_": "perceiver.adapters.ImagePatches",
            "image_channels": 3,
            "patch": 1,
            "embed_channels": 256,
            "position": position,
        }
    }


def _image_conv(values: Config) -> Config:
    return {
        "image": {
            "_target_": "perceiver.adapters.ImageConvStem",
            "image_channels": 3,
            "stem_channels": 64,
            "same_padding": False,
            "position": _fourier(64, [56, 56]),
        }
    }


def _flow_frames(values: Config) -> Config:
    return {
        "frames": {
            "_target_": "perceiver.adapters.FrameSurroundings",
            "video_channels": 3,
            "num_frames": 2,
            "window": 3,
            "embedding_channels": 64,
            "position": _fourier(64, values["train_size"]),
        }
    }


def _flow_head(values: Config) -> Config:
    return {
        "_target_": "perceiver.decoders.QueryDecoder",
        "queries": {"_target_": "perceiver.decoders.InputQueries", "modality": "frames"},
        "output_channels": 2,
        "qk_channels": _decoder_qk(values, 64 + 2 * (2 * 64 + 1)),
        "scale": 0.01,
        **_decoding(values),
    }


def _text(values: Config) -> Config:
    table = {
        "_target_": "perceiver.tokens.positions.LearnedTable",
        "grid": [values["max_position_embeddings"]],
        "channels": values["d_model"],
    }
    return {
        "text": {
            "_target_": "perceiver.adapters.TextTokens",
            "vocabulary_size": values["vocab_size"],
            "embedding_channels": values["d_model"],
            "reference_length": values["max_position_embeddings"],
            "add_position": True,
            "position": table,
        }
    }


def _text_head(values: Config) -> Config:
    return {
        "_target_": "perceiver.decoders.QueryDecoder",
        "queries": {
            "_target_": "perceiver.decoders.LearnedQueries",
            "grid": [values["max_position_embeddings"]],
            "channels": values["d_model"],
        },
        "tied_logits": {
            "_target_": "perceiver.decoders.TiedLogits",
            "modality": "text",
            "vocabulary_size": values["vocab_size"],
        },
        "num_heads": 8,
        "qk_channels": 8 * 32,
        "v_channels": values["d_model"],
        **_decoding(values),
    }


def _read_text(tree: Config) -> Config:
    adapter = tree["adapters"]["text"]
    return {
        "vocab_size": adapter["vocabulary_size"],
        "d_model": adapter["embedding_channels"],
        "max_position_embeddings": adapter["reference_length"],
    }


def _audio_samples(values: Config) -> int:
    return int(values["num_frames"] * values["audio_samples_per_frame"])


def _clip(values: Config) -> list[int]:
    return [values["num_frames"], values["image_size"], values["image_size"]]


def _multimodal(values: Config) -> Config:
    return {
        "audio": {
            "_target_": "perceiver.adapters.WaveformFrames",
            "frame": values["samples_per_patch"],
            "sample_rate": values["audio_samples_per_frame"] * FRAMES_PER_SECOND,
            "duration_seconds": None,
            "position": _fourier(192, [_audio_samples(values)]),
        },
        "label": {"_target_": "perceiver.adapters.Vector", "vector_channels": values["num_labels"]},
        "video": {
            "_target_": "perceiver.adapters.VideoPatches",
            "video_channels": 3,
            "patch": [1, 4, 4],
            "channels_last": True,
            "position": _fourier(32, _clip(values), by_coordinate=False),
        },
    }


def _multimodal_fusion(values: Config) -> Config:
    return {
        "_target_": "perceiver.encoders.fusion.Fusion",
        "padding": 4,
        "mask_rates": {"audio": 0.0, "label": 1.0, "video": 0.0},
    }


def _multimodal_head(values: Config) -> Config:
    position = "perceiver.decoders.PositionalQueries"
    return {
        "_target_": "perceiver.decoders.MultimodalDecoder",
        "queries": {
            "audio": {
                "_target_": position,
                "grid": [_audio_samples(values) // values["samples_per_patch"]],
                "endpoint": False,
                "position": _fourier(192, [_audio_samples(values)]),
            },
            "label": {
                "_target_": "perceiver.decoders.LearnedQueries",
                "grid": [1],
                "channels": values["_label_trainable_num_channels"],
            },
            "video": {
                "_target_": position,
                "grid": values["output_shape"][1:],
                "endpoint": False,
                "position": _fourier(32, _clip(values), by_coordinate=False),
            },
        },
        "output_channels": {"audio": values["samples_per_patch"], "label": values["num_labels"], "video": 3},
        "hidden_channels": values["output_num_channels"],
        "padding": 2,
        "qk_channels": _decoder_qk(values, 2 + max(values["_label_trainable_num_channels"], 1 + 2 * 192, 3 * (1 + 2 * 32))),
        **_decoding(values),
    }


def _read_multimodal(tree: Config) -> Config:
    adapters, head = tree["adapters"], tree["head"]
    frames, side, _ = adapters["video"]["position"]["resolution"]
    return {
        "num_labels": adapters["label"]["vector_channels"],
        "num_frames": frames,
        "image_size": side,
        "audio_samples_per_frame": adapters["audio"]["sample_rate"] // FRAMES_PER_SECOND,
        "samples_per_patch": adapters["audio"]["frame"],
        "output_shape": [1, *head["queries"]["video"]["grid"]],
        "output_num_channels": head["hidden_channels"],
        "_label_trainable_num_channels": head["queries"]["label"]["channels"],
    }


ARCHITECTURES = {
    "PerceiverForImageClassificationFourier": Architecture(_image_pixels, _classifier, _read_classifier),
    "PerceiverForImageClassificationLearned": Architecture(
        _image_learned,
        _classifier,
        lambda tree: _read_classifier(tree) | {"image_size": tree["adapters"]["image"]["position"]["position"]["grid"][0]},
    ),
    "PerceiverForImageClassificationConvProcessing": Architecture(_image_conv, _classifier, _read_classifier),
    "PerceiverForOpticalFlow": Architecture(
        _flow_frames,
        _flow_head,
        lambda tree: {"train_size": tree["adapters"]["frames"]["position"]["resolution"]},
    ),
    "PerceiverForMaskedLM": Architecture(_text, _text_head, _read_text),
    "PerceiverForMultimodalAutoencoding": Architecture(_multimodal, _multimodal_head, _read_multimodal, _multimodal_fusion),
}

_KINDS = {
    "PerceiverForImageClassificationFourier": {"image": "ImagePixels"},
    "PerceiverForImageClassificationLearned": {"image": "ImagePatches"},
    "PerceiverForImageClassificationConvProcessing": {"image": "ImageConvStem"},
    "PerceiverForOpticalFlow": {"frames": "FrameSurroundings"},
    "PerceiverForMaskedLM": {"text": "TextTokens"},
    "PerceiverForMultimodalAutoencoding": {"audio": "WaveformFrames", "label": "Vector", "video": "VideoPatches"},
}


def _num_labels(given: Mapping[str, Any]) -> int:
    names = given.get("id2label")
    if isinstance(names, Mapping) and names:
        return len(names)
    number = given.get("num_labels") or 2
    _check_value("num_labels", number, 2)
    return int(number)


def _check_value(key: str, value: Any, default: Any) -> None:
    """Raise ArchitectureError unless a value has the type of its default, and numbers are in range.

    This runs before any computation: in an untrusted config.json, a list multiplied by a number could exhaust the memory.
    """
    if value is None and default is None:
        return
    if key == "attention_probs_dropout_prob":
        good, expected = type(value) in (int, float) and 0 <= value < 1, "a number of at least 0 and below 1"
    elif isinstance(default, list):
        good = isinstance(value, list) and len(value) == len(default) and all(_is_size(size) for size in value)
        expected = f"a list of {len(default)} ints from 1 to {MOST:,}"
    elif default is None or type(default) is int:
        good, expected = _is_size(value), f"int{' or null' if default is None else ''}"
        if type(value) is int:
            expected += f" from 1 to {MOST:,}"
    else:
        good, expected = type(value) is type(default), type(default).__name__
    if not good:
        raise ArchitectureError(
            f"invalid config: {key}: expected {expected}, got {type(value).__name__} {str(value)[:60]!r}"
        )


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _difference(expected: Any, found: Any, path: str) -> str | None:
    """Describe the first value in which two configs differ; None if they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(set(expected) | set(found)):
            different = _difference(expected.get(key), found.get(key), f"{path}.{key}")
            if different is not None:
                return different
        return None
    return None if expected == found else f"{path}: expected {expected!r}, got {found!r}"
