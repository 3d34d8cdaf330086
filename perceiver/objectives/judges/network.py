"""The network of a judge: a small convolutional classifier, and its training on real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.runtime.files import atomic_write
from perceiver.runtime.full_precision import full_precision
from perceiver.runtime.progress import progress

FEATURES = 128
"""Channels of the features."""

CANVAS = 40
"""Images of this size and larger have several objects, or one that may be anywhere, and get more layers."""

VERSION = 1
"""Version of the file of a judge; higher after a change of the network."""


class JudgeNetwork(nn.Module):
    """Convolutions, one layer of features, and a linear classifier for each question.

    Args:
        image_channels: channels of the images.
        size: height and width of the images.
        questions: number of answers of each question.
    """

    def __init__(self, *, image_channels: int, size: int, questions: Mapping[str, int]) -> None:
        super().__init__()
        # On a canvas, a unit of the last layer has to see a whole digit, wherever it is.
        large = size >= CANVAS
        widths = (image_channels, 16, 32, 32, 64, *((96, 96) if large else ()))
        strides = (1, 2, 1, 2, *((2, 1) if large else ()))
        layers: list[nn.Module] = []
        side = size
        for (before, after), stride in zip(pairwise(widths), strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            side = ceil(side / stride)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, FEATURES), nn.ReLU())
        self.answers = nn.ModuleDict({name: nn.Linear(FEATURES, count) for name, count in questions.items()})

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features `(B, F)` and logits for each question, of images in [0, 1]."""
        features = self.layers(2 * images - 1)
        return features, {name: layer(features) for name, layer in self.answers.items()}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a judge is trained on, written into its file.

    Args:
        name: name of the data and the question, such as "mnist".
        image_channels: channels of the images.
        size: height and width of the images.
        questions: number of answers of each question.
        images: number of training images of an epoch.
        epochs: number of epochs.
        seed: seed of weights and order.
    """

    name: str
    image_channels: int
    size: int
    questions: Mapping[str, int]
    images: int
    epochs: int
    seed: int = 0


Draw = Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""Takes numbers `(B,)` of training images and returns images in [0, 1] and answers `(B,)`, -1 where a question has none."""


def trained(lesson: Lesson, draw: Draw, *, batch_size: int = 128, rate: float = 4e-3) -> JudgeNetwork:
    """Train a judge, with shifts of up to a fourteenth of the size; the result depends on the lesson alone.

    Args:
        lesson: what to train.
        draw: returns training images; random draws come from torch's global generator, which is seeded.
        batch_size: images of a step.
        rate: largest learning rate of the one-cycle schedule.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.inference_mode(False), full_precision("cpu"):
        torch.manual_seed(lesson.seed)
        network = JudgeNetwork(image_channels=lesson.image_channels, size=lesson.size, questions=lesson.questions).train()
        steps = -(-lesson.images // batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=lesson.epochs * steps, pct_start=0.2
        )
        batches = (part for _ in range(lesson.epochs) for part in torch.randperm(lesson.images).split(batch_size))
        for numbers in progress(batches, total=lesson.epochs * steps, title=f"judge {lesson.name}", unit="steps"):
            images, answers = draw(numbers)
            _, logits = network(_shifted(images, most=max(1, lesson.size // 14)))
            losses = [
                F.cross_entropy(logits[name], answers[name], ignore_index=-1, label_smoothing=0.05)
                for name in lesson.questions
                if bool((answers[name] >= 0).any())
            ]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return network.eval().requires_grad_(False)


def judge_network(lesson: Lesson, draw: Draw, *, file: Path | None) -> JudgeNetwork:
    """Return the trained network of a lesson: from its file, if that exists; otherwise train it and write the file.

    Args:
        lesson: what to train.
        draw: see `trained`.
        file: file of the network; None: train, and write nothing.

    Raises:
        ValueError: the file is no judge, or one of another lesson.
    """
    if file is None:
        return trained(lesson, draw)
    if not file.is_file():
        network = trained(lesson, draw)
        content = {"version": VERSION, "lesson": asdict(lesson), "weights": network.state_dict()}
        with atomic_write(file) as stream:
            torch.save(content, stream)
        return network
    remedy = "Delete the file to train the judge again, or name another."
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        version, stored = content["version"], content["lesson"]
    except Exception as error:
        raise ValueError(f"{file}: expected the file of a judge, got {type(error).__name__}: {error}. {remedy}") from error
    wanted: dict[str, Any] = asdict(lesson)
    if version != VERSION or stored != wanted:
        raise ValueError(f"{file}: expected a judge of {wanted}, version {VERSION}; got {stored}, {version}. {remedy}")
    with full_precision("cpu"):
        network = JudgeNetwork(image_channels=lesson.image_channels, size=lesson.size, questions=lesson.questions)
    network.load_state_dict(content["weights"])
    return network.eval().requires_grad_(False)


def _shifted(images: Tensor, *, most: int) -> Tensor:
    """Shift each image by up to `most` pixels, with its edge repeated."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4, mode="replicate")
    down, right = torch.randint(2 * most + 1, (2, count, 1, 1))
    rows = down + torch.arange(height)[:, None]
    columns = right + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
