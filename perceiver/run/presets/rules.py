"""The rules of the presets: from the facts of the data to settings of a training.

Every rule is a function `(facts, level) -> settings`. `docs/guides/presets.md` lists them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from perceiver.run.presets.facts import Facts, ModalityFacts

LEVELS = ("fast", "good", "best")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A chosen setting.

    Args:
        key: its key on the command line.
        value: its value: a scalar, a list or a mapping; `Adapter` for a choice of the group `adapter`.
        why: the reason, in a few words.
    """

    key: str
    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An option of the group `adapter` with changed values.

    Args:
        option: its name.
        values: values by key; nested keys with dots.
    """

    option: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Settings of `model.encoder`: latents, their channels, cross-attends, and blocks of self-attention layers."""

    num_latents: int
    latent_channels: int
    num_cross_attends: int
    num_blocks: int
    num_layers_per_block: int = 1


SIZES = (
    Size(num_latents=8, latent_channels=64, num_cross_attends=1, num_blocks=1),
    Size(num_latents=16, latent_channels=128, num_cross_attends=2, num_blocks=2),
    Size(num_latents=32, latent_channels=128, num_cross_attends=4, num_blocks=4),
    Size(num_latents=64, latent_channels=256, num_cross_attends=4, num_blocks=4, num_layers_per_block=2),
)
"""Sizes of the encoder, from small to large."""

SIZE_SAMPLES = (500, 10_000, 100_000)
"""Numbers of training samples from which the next size is chosen."""

RATES = {64: 2e-3, 128: 1.5e-3, 256: 1e-3}
"""Learning rates by latent channels; those between and above have the rate of the next smaller number."""

STEPS, STEPS_SAMPLES, STEPS_EXPONENT = 1200, 300, 0.4
LEVEL_STEPS = {"fast": 1 / 3, "good": 1.0, "best": 3.0}
VALIDATION_STEPS = 50
"""Steps between validations, at least."""

CONSIDERED = ("data.batch_size", "data.steps_per_epoch", "model.encoder.latent_channels")
"""Settings on which other settings depend, whoever chooses them."""

SMALL_VALIDATION = 300
"""Below this number of validation samples, the best epoch is chosen by the loss: accuracies are too coarse."""


def chosen(facts: Facts, level: str) -> list[Setting]:
    """Return the settings of a preset.

    Raises:
        ValueError: `level` is unknown.
    """
    if level not in LEVELS:
        raise ValueError(f"preset: expected {', '.join(LEVELS)} or null, got {level!r}.")
    rules = (batches, duration, size, learning_rate, averaging, choice_of_epoch, adapters, augmentation)
    return [setting for rule in rules for setting in rule(facts, level)]


def batch_size(facts: Facts) -> int:
    """Return the number of samples per batch."""
    if facts.settings.get("data.batch_size") is not None:
        return int(facts.settings["data.batch_size"])
    return 32 if facts.samples < 5_000 else 64 if facts.samples < 50_000 else 128


def num_steps(facts: Facts, level: str) -> int:
    """Return the number of training steps.

    They grow slowly with the samples, and do not fall below a number that small data needs as well:
    1,200 (samples / 300)^0.4, at least 1,200; a third for fast, three times for best.
    """
    growth = math.pow(max(1.0, facts.samples / STEPS_SAMPLES), STEPS_EXPONENT)
    return round(STEPS * growth * LEVEL_STEPS[level])


def batches(facts: Facts, level: str) -> list[Setting]:
    """Return the batch size."""
    return [Setting(key="data.batch_size", value=batch_size(facts), why=f"{facts.samples:,} training samples")]


def duration(facts: Facts, level: str) -> list[Setting]:
    """Return the epochs, and the batches of an epoch if a pass over the samples is shorter than `VALIDATION_STEPS`."""
    steps, one_pass = num_steps(facts, level), math.ceil(facts.samples / batch_size(facts))
    fewest = VALIDATION_STEPS * facts.accumulated
    whole = facts.settings.get("data.steps_per_epoch", max(fewest, one_pass)) or one_pass
    per_epoch = math.ceil(whole / facts.accumulated)
    why = f"{steps:,} steps: 1,200 x (samples / 300)^0.4, at least 1,200"
    why += "" if level == "good" else f", times {LEVEL_STEPS[level]:.2g}"
    epochs = Setting(key="trainer.max_epochs", value=math.ceil(steps / per_epoch), why=why)
    if one_pass >= fewest:
        return [epochs]
    passes = f"a pass has {one_pass} batches; validate every {fewest}"
    return [Setting(key="data.steps_per_epoch", value=fewest, why=passes), epochs]


def size_of(facts: Facts, level: str) -> Size:
    """Return the size of the encoder: by the number of samples, one smaller for fast, one larger for best."""
    number = sum(facts.samples >= limit for limit in SIZE_SAMPLES) + LEVELS.index(level) - 1
    return SIZES[min(max(number, 0), len(SIZES) - 1)]


def size(facts: Facts, level: str) -> list[Setting]:
    """Return the size of the encoder."""
    why = f"{facts.samples:,} training samples, preset {level}"
    own = vars(size_of(facts, level))
    return [Setting(key=f"model.encoder.{name}", value=value, why=why) for name, value in own.items()]


def learning_rate(facts: Facts, level: str) -> list[Setting]:
    """Return the peak learning rate."""
    channels = facts.settings.get("model.encoder.latent_channels") or size_of(facts, level).latent_channels
    rate = next((rate for limit, rate in sorted(RATES.items(), reverse=True) if channels >= limit), RATES[min(RATES)])
    return [Setting(key="optimizer.lr", value=rate, why=f"{channels} latent channels")]


def averaging(facts: Facts, level: str) -> list[Setting]:
    """Return the moving average of the weights, over about a hundred steps, or five hundred in longer trainings."""
    decay = 0.99 if num_steps(facts, level) < 5_000 else 0.998
    value = {
        "_target_": "lightning.pytorch.callbacks.WeightAveraging",
        "use_buffers": False,
        "multi_avg_fn": {"_target_": "torch.optim.swa_utils.get_ema_multi_avg_fn", "decay": decay},
    }
    return [Setting(key="callbacks.averaging", value=value, why=f"averages about {1 / (1 - decay):.0f} steps")]


def choice_of_epoch(facts: Facts, level: str) -> list[Setting]:
    """Return the metric of the best epoch. No training stops early: the rate falls to zero only at the end."""
    if facts.target != "classes" or facts.validation >= SMALL_VALIDATION:
        return []
    why = f"{facts.validation:,} validation samples: accuracies are too coarse"
    return [Setting(key="monitor", value={"name": "val/loss", "mode": "min"}, why=why)]


def adapters(facts: Facts, level: str) -> list[Setting]:
    """Return convolutional adapters for images, sound and series: they need fewer samples than pixels or frames."""
    found = []
    for name, own in facts.modalities.items():
        adapter = _ADAPTERS.get(own.kind, _no_adapter)(own)
        if own.free and adapter is not None:
            found.append(Setting(key=f"model.adapters.{name}", value=adapter, why=f"{own.kind} {_extent(own)}"))
    return found


def augmentation(facts: Facts, level: str) -> list[Setting]:
    """Return mild transforms for classes and labels; values may depend on size, place or loudness.

    Modalities with a pretrained network are left as they are, so that their features are computed only once.
    """
    if facts.target == "values":
        return []
    plain = {name: own for name, own in facts.modalities.items() if not own.pretrained}
    transforms = {name: _TRANSFORMS.get(own.kind, _no_transforms)(own) for name, own in plain.items()}
    transforms = {name: own for name, own in transforms.items() if own}
    if not transforms:
        return []
    names = sorted({transform for own in transforms.values() for transform in own})
    return [Setting(key="data.augment", value=transforms, why=f"mild: {', '.join(names)}; no mirror images")]


def _image_adapter(own: ModalityFacts) -> Adapter | None:
    """Return convolutions that leave about 50 tokens; None for images of a few pixels."""
    if len(own.shape) != 3 or max(own.shape[1:]) <= 12:
        return None
    halvings = max(2, round(math.log2(max(own.shape[1:]) / 8)))
    widths = [min(32 * 2**number, 128) for number in range(halvings)] + [min(32 * 2**halvings, 128)]
    grid = [math.ceil(side / 2**halvings) for side in own.shape[1:]]
    values = {"stage_channels": widths, "strides": [2] * halvings + [1], "position.resolution": grid}
    return Adapter(option="image_stages", values=values)


def _sound_adapter(own: ModalityFacts) -> Adapter | None:
    """Return convolutions over the log-mel spectrum; positions cover the longest recording."""
    if own.seconds is None or own.sample_rate is None:
        return None
    values: dict[str, Any] = {
        "num_mels": 40 if own.sample_rate <= 8_000 else 64,
        "duration_seconds": max(1.0, math.ceil(2 * own.seconds) / 2),
        "position.num_bands": 8 if own.seconds <= 5 else 32,
        "augment": {
            "_target_": "perceiver.adapters.spectrum_masking.SpectrumMasking",
            "max_bands": 8,
            "max_frames": 10,
        },
    }
    return Adapter(option="audio_stages", values=values)


def _series_adapter(own: ModalityFacts) -> Adapter | None:
    """Return convolutions over the steps; None for series of a few steps."""
    if not own.shape or own.shape[0] < 16:
        return None
    return Adapter(option="timeseries_conv", values={"stage_channels": [32, 64, 64]})


def _no_adapter(own: ModalityFacts) -> Adapter | None:
    return None


def _image_transforms(own: ModalityFacts) -> dict[str, Any]:
    return {
        "affine": {
            "_target_": "perceiver.data.augmentation.images.RandomAffine",
            "degrees": 10.0,
            "translate": [0.07, 0.07],
            "scale": [0.9, 1.1],
        }
    }


def _sound_transforms(own: ModalityFacts) -> dict[str, Any]:
    package = "perceiver.data.augmentation.audio"
    return {
        "shift": {
            "_target_": f"{package}.RandomTimeShift",
            "seconds": [-0.05, 0.15],
            "sample_rate": own.sample_rate,
        },
        "gain": {"_target_": f"{package}.RandomGain", "decibels": [-6.0, 6.0]},
        "noise": {"_target_": f"{package}.RandomNoise", "snr_decibels": [10.0, 40.0], "probability": 0.5},
    }


def _series_transforms(own: ModalityFacts) -> dict[str, Any]:
    package = "perceiver.data.augmentation.series"
    if not own.shape or own.shape[0] < 16:
        return {"jitter": {"_target_": f"{package}.RandomJitter", "std": 0.1}}
    return {
        "jitter": {"_target_": f"{package}.RandomJitter", "std": 0.1},
        "scale": {"_target_": f"{package}.RandomScale", "scale": [0.8, 1.25]},
        "warp": {"_target_": f"{package}.RandomTimeWarp", "strength": 0.2},
        "crop": {"_target_": f"{package}.RandomCrop", "share": [0.8, 1.0]},
    }


def _no_transforms(own: ModalityFacts) -> dict[str, Any]:
    return {}


_ADAPTERS = {"image": _image_adapter, "audio": _sound_adapter, "timeseries": _series_adapter}
_TRANSFORMS = {"image": _image_transforms, "audio": _sound_transforms, "timeseries": _series_transforms}


def _extent(own: ModalityFacts) -> str:
    return f"{own.seconds:.3g} s" if own.seconds is not None else " x ".join(map(str, own.shape))
