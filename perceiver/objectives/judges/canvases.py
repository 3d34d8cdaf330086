"""A judge of canvases of `perceiver.data.DigitPrompts`: which digits are where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from perceiver.data.datasets.torchvision_images import TorchvisionImages
from perceiver.data.synthetic.captions.glyphs import LARGE, SMALL, Glyphs
from perceiver.data.synthetic.captions.language import RELATIONS
from perceiver.data.synthetic.prompts.language import PLACES
from perceiver.data.synthetic.prompts.scenes import TRUTH, Canvases, CanvasPainter
from perceiver.objectives.judges.judgement import Judgement
from perceiver.objectives.judges.network import FEATURES, JudgeNetwork, Lesson, judge_network
from perceiver.runtime.user_paths import expanded
from perceiver.samples.batch import Batch

SIDES = ("left", "right", "top", "bottom")
"""The digit whose middle is furthest to each side. A relation holds if the digits on its two sides are those asked for."""

APART = 2.0
"""Pixels by which middles differ if a side has an answer."""

INK = 0.3
"""Fainter pixels are outside a digit's box."""

_OF_RELATION = {"left of": (0, 1), "right of": (1, 0), "above": (2, 3), "below": (3, 2)}


class CanvasJudge:
    """Judges whether canvases show the digits that their prompts ask for, at the place or in the relation; an `ImageJudge`.

    A network answers how many digits there are, which digit is furthest to the left, right, top and bottom, and whether it
    is large. So "a three left of a seven" is right if there are two digits, a three on the left and a seven on the right.
    It is trained on first use on canvases of training digits, drawn anew in every step: with zero to three digits, so that
    a third digit, or a missing one, is an error.

    Measures, of the prompts that ask for them: `prompt_accuracy`, the digits and their relation or place;
    `digit_accuracy`, the digits alone; `size_accuracy`, the sizes of all digits whose size is named.

    Args:
        source: images of digits, such as `perceiver.data.MNIST`.
        canvas: height and width in pixels.
        num_digits: number of digits that prompts ask for, 1 or 2.
        file: file of the network, written on first use; None: train in each run.
        images: canvases of an epoch.
        epochs: number of epochs.
        seed: seed of the network; not the training seed.
    """

    channels = FEATURES
    measures: Sequence[str] = ("prompt_accuracy", "digit_accuracy", "size_accuracy")

    def __init__(
        self,
        *,
        source: TorchvisionImages,
        canvas: int,
        num_digits: int = 2,
        file: str | Path | None = None,
        images: int = 32000,
        epochs: int = 6,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.canvas = canvas
        self.num_digits = num_digits
        self.file = None if file is None else expanded(file, setting="judge.file")
        self.images = images
        self.epochs = epochs
        self.seed = seed

    def __call__(self, images: Tensor, batch: Batch) -> Judgement:
        """See `ImageJudge`."""
        target = batch.target
        if target is None or target.ndim != 2 or target.shape[1] != len(TRUTH):
            got = "none" if target is None else str(tuple(target.shape))
            raise ValueError(f"judge: expected a target (batch, {len(TRUTH)}) of data=digit_prompts, got {got}.")
        features, logits = self.network.to(images.device)(images)
        found = {name: one.argmax(dim=1) for name, one in logits.items()}
        truth = dict(zip(TRUTH, target.to(images.device).unbind(dim=1), strict=True))
        asked_digits = torch.stack([truth["first"], truth["second"]], dim=1)
        asked_sizes = torch.stack([truth["first_size"], truth["second_size"]], dim=1)
        counted = found["count"] == (asked_digits >= 0).sum(dim=1)
        digits, sizes = self._in_order(found, truth["relation"])
        placed = counted & ((digits == asked_digits) | (asked_digits < 0)).all(dim=1)
        right_sizes = counted & ((sizes == asked_sizes) | (asked_sizes < 0)).all(dim=1)
        in_place = placed & ((truth["place"] < 0) | (places_of(images) == truth["place"]))
        # The digits in any order: sorted, those on the two sides along one of the axes are those asked for.
        both = [torch.stack([found[one], found[other]], dim=1).sort(dim=1).values for one, other in (SIDES[:2], SIDES[2:])]
        wanted = torch.where(asked_digits < 0, asked_digits[:, :1], asked_digits).sort(dim=1).values
        present = counted & torch.stack([(one == wanted).all(dim=1) for one in both]).any(dim=0)
        return Judgement(
            features=features,
            right={"prompt_accuracy": in_place, "digit_accuracy": present, "size_accuracy": placed & right_sizes},
            asked={"size_accuracy": (asked_sizes >= 0).any(dim=1)},
        )

    def training_images(self) -> Tensor:
        """Return 20,000 canvases of training digits."""
        generator = torch.Generator().manual_seed(self.seed)
        painter = self._painters[self.num_digits - 1]
        return painter.images(painter.draw(20_000, held_out_share=0.0, generator=generator))

    def _in_order(self, found: Mapping[str, Tensor], relation: Tensor) -> tuple[Tensor, Tensor]:
        """Return digits and sizes `(B, 2)` in the order of the prompts; a single digit is first, on the left."""
        sides = torch.tensor([_OF_RELATION[name] for name in RELATIONS] + [(0, 1)], device=relation.device)
        chosen = sides[torch.where(relation < 0, len(RELATIONS), relation)]
        digits = torch.stack([found[name] for name in SIDES], dim=1)
        large = torch.stack([found[f"{name}_large"] for name in SIDES], dim=1)
        return digits.gather(1, chosen), large.gather(1, chosen)

    @cached_property
    def _painters(self) -> tuple[CanvasPainter, CanvasPainter]:
        self.source.prepare()
        glyphs = Glyphs.of(self.source.read_training()[0])
        one, two = (CanvasPainter(glyphs=glyphs, canvas=self.canvas, num_digits=number) for number in (1, 2))
        return one, two

    @cached_property
    def network(self) -> JudgeNetwork:
        """The trained network."""
        lesson = Lesson(
            name=f"canvases of {self.canvas} pixels",
            image_channels=1,
            size=self.canvas,
            questions={"count": 4, **dict.fromkeys(SIDES, 10), **{f"{name}_large": 2 for name in SIDES}},
            images=self.images,
            epochs=self.epochs,
            seed=self.seed,
        )
        one, two = self._painters

        def draw(numbers: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
            return crowded(one, two, len(numbers))

        return judge_network(lesson, draw, file=self.file)


def crowded(one: CanvasPainter, two: CanvasPainter, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw canvases of zero to three digits and the answers about them; two digits half the time.

    Args:
        one, two: painters of one and of two digits.
        count: number of canvases.
    """
    # All pairs of digits, those that prompts hold out, too: the judge has to know what the model does not.
    pairs = two.draw(count, held_out_share=0.1, generator=None)
    singles = one.draw(count, held_out_share=0.0, generator=None)
    images, alone = two.images(pairs), one.images(singles)
    kind = torch.multinomial(torch.tensor([0.05, 0.3, 0.5, 0.15]), count, replacement=True)
    shape = (-1, 1, 1, 1)
    drawn = torch.where((kind == 1).view(shape), alone, torch.where((kind == 0).view(shape), 0.0, images))
    drawn = torch.where((kind == 3).view(shape), torch.maximum(images, alone), drawn)
    answers: dict[str, Tensor] = {"count": kind}
    own, other = _sides(one, singles, single=True), _sides(two, pairs, single=False)
    for name in own:
        answers[name] = torch.where(kind == 1, own[name], torch.where(kind == 2, other[name], -1))
    return drawn, answers


def _sides(painter: CanvasPainter, canvases: Canvases, *, single: bool) -> dict[str, Tensor]:
    """Return the digit on each side, and whether it is large; -1 where two digits are as far to it."""
    labels = painter.glyphs.labels[canvases.numbers]
    side = torch.where(canvases.large, LARGE, SMALL)
    found: dict[str, Tensor] = {}
    for names, corner in ((SIDES[:2], canvases.left), (SIDES[2:], canvases.top)):
        middle = corner + side / 2
        ahead = middle[:, 0] - middle[:, 1]
        for name, sign in zip(names, (1, -1), strict=True):
            chosen = (sign * ahead > 0).long()
            clear = ahead.abs() > APART
            if single:
                chosen, clear = torch.zeros_like(chosen), torch.ones_like(clear)
            for key, values in ((name, labels), (f"{name}_large", canvases.large.long())):
                found[key] = torch.where(clear, values.gather(1, chosen[:, None])[:, 0], -1)
    return found


def places_of(images: Tensor) -> Tensor:
    """Return the place, in `PLACES`, of the middle of the box of each canvas's ink; -1 without ink."""
    inked = images.mean(dim=1) > INK
    numbers = []
    for axis in (2, 1):
        along = inked.any(dim=axis).int()
        size = along.shape[1]
        middle = (along.argmax(dim=1) + size - along.flip(1).argmax(dim=1)) / 2
        numbers.append((middle * 3 / size).long().clamp(max=2))
    return torch.where(inked.flatten(1).any(dim=1), 3 * numbers[0] + numbers[1], -1).clamp(max=len(PLACES) - 1)
