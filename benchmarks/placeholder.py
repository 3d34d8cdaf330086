"""Missing modalities on the same frozen features: a placeholder and concatenation, as in AutoGluon MultiModal, or masks.

    python benchmarks/placeholder.py --data DIR [--seeds 0 1 2] [--steps 800] [--features FILE] [--json FILE]

AutoGluon MultiModal fuses late ("AutoGluon Multimodal FAQ", auto.gluon.ai): a network per modality, a linear map of the
features of each, concatenation, an MLP (`MultimodalFusionMLP` in models/fusion/fusion_mlp.py of autogluon.multimodal). By
default an absent image is replaced by an image of zeros (`missing_value_strategy` in configs/data/default.yaml and
data/process_image.py), whose features its encoder of images then multiplies by 0 (models/timm_image.py). The MLP here has
the settings of configs/model/default.yaml: features mapped to the largest width, one hidden layer, layer norm, leaky ReLU,
dropout 0.1, and 0.1 times the losses of the single modalities. Only the width of the hidden layer differs, to match the
Perceiver in size. AutoGluon also trains its encoders, and has none for sounds: here all encoders are frozen, and silence
replaces an absent sound.

Contenders, with the same features, steps and batches, and numbers of parameters within 10%:

- placeholder, MLP: mean features of a black image or of silence for what is absent; concatenation, MLP
- zeros, MLP: the same with zeros as features, as AutoGluon's encoder of images returns them
- placeholder, Perceiver: the places of the feature maps are tokens, also those of a black image or of silence
- masks, Perceiver: the same, and absent modalities are masked

Data: DIR holds MNIST/raw and free-spoken-digit-dataset/recordings. Images are occluded and noisy, recordings noisy, as in
data=av_digits. Two small convolutional networks learn the digits from 5,000 images and 1,200 recordings, and are then
frozen. The contenders train on 5,000 pairs of other images and recordings. Modalities are missing with probability 0.5,
fixed per pair; a pair that would lack both keeps one, so each is absent from 37.5% of the pairs. The learning rate of each
contender is chosen with the first seed, by the accuracy on 2,000 validation pairs with missing modalities. Seeds change
initial weights, dropout and the order of batches, not the features. Tests are on 10,000 pairs of the official test splits.

`--features FILE` keeps the features: they are computed and written if the file does not exist, and read otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import announce, machine, write_json
from torch import Tensor, nn

from perceiver import Encoder, Fourier, Fusion, Perceiver, PooledHead
from perceiver.adapters import Backbone
from perceiver.adapters.backbones.axes import RowsAndColumns, Times
from perceiver.adapters.backbones.network import DescribedNetwork
from perceiver.adapters.log_mel import LogMel
from perceiver.data import MNIST, SpokenDigits
from perceiver.data.augmentation.audio import RandomNoise
from perceiver.data.augmentation.corruption import RandomOcclusion, RandomPixelNoise
from perceiver.data.loading.missing import present_modalities

MODALITIES = ("audio", "image")
CHANNELS, CLASSES = 48, 10
RATE, SAMPLES = 8000, 8000
MISSING = 0.5
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
BATCH_SIZE = 64
AUXILIARY = 0.1
ALONE = {"image": "image only", "audio": "sound only"}

# ---- frozen features


@dataclass(frozen=True)
class Pairs:
    """Frozen features of pairs of an image and a recording of the same digit.

    Args:
        maps: by modality, `(pairs, C, *grid)`.
        labels: `(pairs,)`.
        present: whether a pair has each of `MODALITIES`, `(pairs, 2)`.
    """

    maps: Mapping[str, Tensor]
    labels: Tensor
    present: Tensor


@dataclass(frozen=True)
class Features:
    """Pairs by split, and by modality the features `(C, *grid)` of a black image and of silence."""

    splits: Mapping[str, Pairs]
    placeholders: Mapping[str, Tensor]


def image_network() -> nn.Module:
    """Return a network `(B, 1, 28, 28)` -> `(B, C, 4, 4)`."""
    layers: list[nn.Module] = []
    for before, after in ((1, 24), (24, CHANNELS), (CHANNELS, CHANNELS)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def sound_network() -> nn.Module:
    """Return a network of recordings of a second, `(B, samples)` -> `(B, C, 13)`."""
    layers: list[nn.Module] = [LogMel(sample_rate=RATE, num_mels=40, window_seconds=0.025, hop_seconds=0.01)]
    layers.append(nn.BatchNorm1d(40))
    for before in (40, CHANNELS, CHANNELS):
        layers += [nn.Conv1d(before, CHANNELS, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers)


def corrupted_images(pixels: Tensor) -> Tensor:
    """Corrupt images as data=av_digits does."""
    return RandomPixelNoise(std=(0.3, 0.3))(RandomOcclusion(side=(0.4, 0.4))(pixels))


def corrupted_sounds(waveforms: Tensor) -> Tensor:
    """Add noise as data=av_digits does, only before the end of each recording, where zeros begin."""
    heard = waveforms != 0
    mask = heard.flip(1).cumsum(1).flip(1) > 0
    noisy, _ = RandomNoise(snr_decibels=(-7.0, -7.0))(waveforms[:, None], mask)
    return noisy[:, 0]


def learned(
    network: nn.Module, raw: Tensor, labels: Tensor, corrupt: Callable[[Tensor], Tensor], *, epochs: int
) -> nn.Module:
    """Train a network and a linear classifier of the mean of its features; return the network, frozen."""
    classifier = nn.Linear(CHANNELS, CLASSES)
    optimizer = torch.optim.AdamW([*network.parameters(), *classifier.parameters()])
    steps = epochs * (len(raw) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for rows in batches(len(raw), steps=steps, generator=torch.Generator().manual_seed(0)):
        loss = F.cross_entropy(classifier(network(corrupt(raw[rows])).flatten(2).mean(dim=2)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def batches(num_samples: int, *, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return rows of full batches, epoch by epoch."""
    found: list[Tensor] = []
    while len(found) < steps:
        order = torch.randperm(num_samples, generator=generator)
        found += [rows for rows in order.split(BATCH_SIZE) if len(rows) == min(BATCH_SIZE, num_samples)]
    return found[:steps]


def partners(labels: Tensor, others: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return for each label the position of a random sample of the same class among the others."""
    chosen = torch.empty_like(labels)
    for label in labels.unique():
        rows, members = (labels == label).nonzero()[:, 0], (others == label).nonzero()[:, 0]
        chosen[rows] = members[torch.randint(len(members), (len(rows),), generator=generator)]
    return chosen


def frozen_features(root: Path) -> Features:
    """Train the networks on their part of the training data and compute the features of all pairs, with seed 0."""
    torch.manual_seed(0)
    images, sounds = MNIST(root=root, download=False), SpokenDigits(root=root, download=False)
    pictures, validation_pictures = images.read_training()
    recordings, validation_recordings = sounds.read_training()
    waveforms, spoken = _waveforms(recordings), torch.as_tensor(recordings.labels)
    order, half = torch.randperm(len(spoken)), len(spoken) // 2
    drawn = pictures.take(torch.randperm(len(pictures.labels))[:10_000])
    pixels = drawn.pixels.float() / 255
    network = learned(image_network(), pixels[:5000], drawn.labels[:5000], corrupted_images, epochs=10)
    heard = order[:half]
    ear = learned(sound_network(), waveforms[heard], spoken[heard], corrupted_sounds, epochs=30)
    test, test_recordings = images.read_test(), sounds.read_test()
    validation = validation_pictures.take(torch.randperm(len(validation_pictures.labels))[:2000])
    parts = {
        "train": (pixels[5000:], drawn.labels[5000:], waveforms[order[half:]], spoken[order[half:]]),
        "val": (
            validation.pixels.float() / 255,
            validation.labels,
            _waveforms(validation_recordings),
            torch.as_tensor(validation_recordings.labels),
        ),
        "test": (
            test.pixels.float() / 255,
            test.labels,
            _waveforms(test_recordings),
            torch.as_tensor(test_recordings.labels),
        ),
    }
    splits = {}
    for number, (split, (seen, labels, sounded, digits)) in enumerate(parts.items()):
        chosen = partners(labels, digits, generator=torch.Generator().manual_seed(number))
        maps = {
            "audio": _in_parts(lambda rows: ear(corrupted_sounds(sounded[chosen[rows]])), len(labels)),  # noqa: B023
            "image": _in_parts(lambda rows: network(corrupted_images(seen[rows])), len(labels)),  # noqa: B023
        }
        splits[split] = Pairs(maps=maps, labels=labels, present=presence(len(labels), seed=number))
    silence, black = ear(torch.zeros(1, SAMPLES))[0], network(torch.zeros(1, 1, 28, 28))[0]
    return Features(splits=splits, placeholders={"audio": silence, "image": black})


def kept_features(file: Path | None, compute: Callable[[], Features]) -> Features:
    """Read features from a file; compute them, and write the file if one is named, if it does not exist."""
    if file is not None and file.exists():
        read = torch.load(file, weights_only=True)
        return Features(
            splits={name: Pairs(**pairs) for name, pairs in read["splits"].items()}, placeholders=read["placeholders"]
        )
    features = compute()
    if file is not None:
        splits = {name: vars(pairs) for name, pairs in features.splits.items()}
        torch.save({"splits": splits, "placeholders": features.placeholders}, file)
    return features


def presence(num_samples: int, *, seed: int) -> Tensor:
    """Draw which modalities pairs have; see `perceiver.data.loading.missing.present_modalities`."""
    return present_modalities(dict.fromkeys(MODALITIES, MISSING), modalities=MODALITIES, num_samples=num_samples, seed=seed)


def _waveforms(recordings: Sequence) -> Tensor:  # type: ignore[type-arg]
    """Return the first second of each recording, `(recordings, samples)`, with zeros behind shorter ones."""
    cut = [recordings[number].inputs["audio"][0, :SAMPLES] for number in range(len(recordings))]
    return torch.stack([F.pad(waveform, (0, SAMPLES - len(waveform))) for waveform in cut])


def _in_parts(compute: Callable[[Tensor], Tensor], num_samples: int) -> Tensor:
    return torch.cat([compute(rows) for rows in torch.arange(num_samples).split(500)])


# ---- contenders


class Concatenation(nn.Module):
    """AutoGluon's fusion: a linear map of the mean features of each modality, concatenation, an MLP with a hidden layer.

    Args:
        hidden: width of the hidden layer.
    """

    def __init__(self, *, hidden: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(CHANNELS, CHANNELS) for name in MODALITIES})
        self.single = nn.ModuleDict({name: nn.Linear(CHANNELS, CLASSES) for name in MODALITIES})
        width = CHANNELS * len(MODALITIES)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.LeakyReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(B, classes)` of features `(B, C, *grid)` by modality."""
        means = {name: inputs[name].flatten(2).mean(dim=2) for name in MODALITIES}
        logits: Tensor = self.head(self.mlp(torch.cat([self.maps[name](mean) for name, mean in means.items()], dim=1)))
        return logits

    def auxiliary_loss(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the sum of the losses of classifiers of single modalities."""
        means = {name: inputs[name].flatten(2).mean(dim=2) for name in MODALITIES}
        return torch.stack([F.cross_entropy(self.single[name](mean), labels) for name, mean in means.items()]).sum()


def perceiver_of_maps() -> Perceiver:
    """Return a Perceiver whose tokens are the places of the feature maps."""
    adapters = {
        "audio": Backbone(
            network=DescribedNetwork(module=nn.Identity(), channels=CHANNELS, strides=(1,)),
            axes=Times(step_seconds=0.08, duration_seconds=1.0),
            position=Fourier(num_bands=4, resolution=(13,)),
            frozen=False,  # the features are computed already
        ),
        "image": Backbone(
            network=DescribedNetwork(module=nn.Identity(), channels=CHANNELS, strides=(1, 1)),
            axes=RowsAndColumns(),
            position=Fourier(num_bands=2, resolution=(4, 4)),
            frozen=False,
        ),
    }
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    encoder = Encoder(
        token_channels=fusion.channels,
        num_latents=8,
        latent_channels=CHANNELS,
        num_layers_per_block=2,
        num_self_heads=4,
        dropout=0.1,
    )
    head = PooledHead(latent_channels=CHANNELS, num_classes=CLASSES)
    return Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion)


def parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def concatenation_of_size(target: int) -> Concatenation:
    """Return a `Concatenation` whose number of parameters is close to `target`."""
    first, second = parameters(Concatenation(hidden=1)), parameters(Concatenation(hidden=2))
    return Concatenation(hidden=max(1, round((target - first) / (second - first)) + 1))


@dataclass(frozen=True)
class Contender:
    """A model and what it gets for an absent modality.

    Args:
        build: returns the model.
        absent: placeholder, zeros or masks.
    """

    build: Callable[[], nn.Module]
    absent: str


def contenders() -> dict[str, Contender]:
    """Return the contenders by name."""
    size = parameters(perceiver_of_maps())
    return {
        "placeholder, MLP": Contender(lambda: concatenation_of_size(size), "placeholder"),
        "zeros, MLP": Contender(lambda: concatenation_of_size(size), "zeros"),
        "placeholder, Perceiver": Contender(perceiver_of_maps, "placeholder"),
        "masks, Perceiver (ours)": Contender(perceiver_of_maps, "masks"),
    }


def given(
    absent: str, maps: Mapping[str, Tensor], present: Tensor, placeholders: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return inputs and masks of a batch.

    Args:
        absent: see `Contender`.
        maps: features by modality, `(B, C, *grid)`.
        present: `(B, modalities)`.
        placeholders: features by modality, `(C, *grid)`.
    """
    if absent == "masks":
        return dict(maps), {name: present[:, number] for number, name in enumerate(MODALITIES)}
    inputs = {}
    for number, name in enumerate(MODALITIES):
        has = present[:, number].reshape(-1, *[1] * (maps[name].ndim - 1))
        inputs[name] = torch.where(has, maps[name], placeholders[name] if absent == "placeholder" else torch.zeros(()))
    return inputs, {}


def train(contender: Contender, features: Features, *, lr: float, steps: int, seed: int) -> nn.Module:
    """Train a contender on the pairs with missing modalities."""
    torch.manual_seed(seed)
    model, pairs = contender.build().train(), features.splits["train"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    for rows in batches(len(pairs.labels), steps=steps, generator=torch.Generator().manual_seed(seed)):
        maps = {name: values[rows] for name, values in pairs.maps.items()}
        inputs, masks = given(contender.absent, maps, pairs.present[rows], features.placeholders)
        labels = pairs.labels[rows]
        loss = F.cross_entropy(model(inputs, masks) if masks else model(inputs), labels)
        if isinstance(model, Concatenation):
            loss = loss + AUXILIARY * model.auxiliary_loss(inputs, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, absent: str, pairs: Pairs, present: Tensor, placeholders: Mapping[str, Tensor]) -> float:
    """Return the accuracy in percent on pairs with these modalities present."""
    correct = 0
    for rows in torch.arange(len(pairs.labels)).split(500):
        maps = {name: values[rows] for name, values in pairs.maps.items()}
        inputs, masks = given(absent, maps, present[rows], placeholders)
        logits = model(inputs, masks) if masks else model(inputs)
        correct += int((logits.argmax(dim=1) == pairs.labels[rows]).sum())
    return 100 * correct / len(pairs.labels)


def cases(pairs: Pairs) -> dict[str, Tensor]:
    """Return which modalities are present in each test."""
    every = torch.ones_like(pairs.present)
    alone = {title: every & torch.tensor([other == name for other in MODALITIES]) for name, title in ALONE.items()}
    return {"50% missing": pairs.present, "none missing": every, **alone}


# ---- comparison


@dataclass(frozen=True)
class Result:
    """Test accuracies in percent by case, one per seed, of a contender at the learning rate chosen on validation."""

    name: str
    parameters: int
    lr: float
    validation: Mapping[str, float]
    test: Mapping[str, Sequence[float]]


def compare(
    features: Features, *, seeds: Sequence[int], steps: int, rates: Sequence[float] = LEARNING_RATES
) -> list[Result]:
    """Train every contender at every rate with the first seed, choose on validation, and test with all seeds."""
    results = []
    validation, test, placeholders = features.splits["val"], features.splits["test"], features.placeholders
    first, *others = seeds
    for name, contender in contenders().items():
        models = {lr: train(contender, features, lr=lr, steps=steps, seed=first) for lr in rates}
        scores = {
            lr: accuracy(model, contender.absent, validation, validation.present, placeholders)
            for lr, model in models.items()
        }
        best = max(scores, key=lambda lr: scores[lr])
        made = [models[best], *(train(contender, features, lr=best, steps=steps, seed=seed) for seed in others)]
        tested = {
            case: [accuracy(model, contender.absent, test, present, placeholders) for model in made]
            for case, present in cases(test).items()
        }
        by_rate = {f"{lr:g}": score for lr, score in scores.items()}
        results.append(Result(name, parameters(made[0]), best, by_rate, tested))
        print(
            f"validation {', '.join(f'{lr}: {score:.2f}' for lr, score in by_rate.items())}\n{row(results[-1])}", flush=True
        )
    return results


def row(result: Result) -> str:
    """Return a row of the table: mean and standard deviation over the seeds."""
    cells = [
        f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"
        for values in result.test.values()
    ]
    return f"| {result.name} | {result.parameters:,} | {result.lr:g} | {' | '.join(cells)} |"


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    titles = list(results[0].test)
    lines = [f"| | parameters | learning rate | {' | '.join(titles)} |", "| --- " * (3 + len(titles)) + "|"]
    return "\n".join([*lines, *(row(result) for result in results)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the features, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PERCEIVER_DATA", "data"), metavar="DIR")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--features", type=Path, metavar="FILE", help="file that keeps the features")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    start, facts = time.perf_counter(), machine()
    announce(facts)
    features = kept_features(options.features, lambda: frozen_features(options.data))
    print(
        f"features of {len(features.splits['train'].labels)} training pairs: {time.perf_counter() - start:.0f} s", flush=True
    )
    results = compare(features, seeds=options.seeds, steps=options.steps)
    print(f"test accuracy in percent, mean ± standard deviation over {len(options.seeds)} seeds, {options.steps} steps")
    print(table(results))
    print(f"{time.perf_counter() - start:.0f} s in all")
    if options.json is not None:
        write_json(options.json, facts, [vars(result) for result in results], steps=options.steps)


if __name__ == "__main__":
    main()
