"""Pointing: does a decoder attend to the place of a phrase when it predicts the phrase?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.modalities.texts.tokenizers import Tokenizer
from perceiver.samples.grounding import Phrase

POINTING = ("pointing_accuracy", "mass_in_box")
"""Measures of maps: the share of phrases whose map is largest inside the box, and the share of the map inside the box."""


def steps_of(phrase: Phrase, ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Return the numbers of the ids whose text overlaps a phrase.

    Args:
        phrase: part of the text of `ids`.
        ids: ids of a text, without its start.
        tokenizer: from ids to text.
    """
    steps, start = [], 0
    for number in range(len(ids)):
        end = len(tokenizer.decode(ids[: number + 1]))
        if start < phrase.end and end > phrase.start:
            steps.append(number)
        start = end
    return steps


def inside(box: Sequence[tuple[float, float]], *, grid: Sequence[int], extent: Sequence[float]) -> Bool[Tensor, "*grid"]:
    """Return which cells of a token grid have their middle in a box; if none has, those nearest to the middle of the box.

    Args:
        box: (first, one past the last) raw element along each axis.
        grid: cells along each axis.
        extent: raw elements that the grid covers along each axis.
    """
    found = torch.ones(tuple(grid), dtype=torch.bool)
    for axis, ((first, end), cells, whole) in enumerate(zip(box, grid, extent, strict=True)):
        middles = (torch.arange(cells) + 0.5) * whole / cells
        own = (middles >= first) & (middles < end)
        if not bool(own.any()):
            own = torch.arange(cells) == (middles - (first + end) / 2).abs().argmin()
        found &= own.view([-1 if axis == other else 1 for other in range(len(grid))])
    return found


def pointing(
    maps: Mapping[str, Float[Tensor, "length *grid"]],
    grounding: Sequence[Phrase],
    ids: Sequence[int],
    *,
    tokenizer: Tokenizer,
    shapes: Mapping[str, Sequence[int]],
) -> list[tuple[float, float]]:
    """Return, for each phrase, whether its map is largest inside its box (1 or 0), and the share of the map inside.

    Phrases of absent modalities, without a map or with zeros, are left out.

    Args:
        maps: by modality, the attention with which each id was predicted, for one sample.
        grounding: phrases and their boxes.
        ids: ids of the true text, without its start.
        tokenizer: tokenizer of the text.
        shapes: shape of the input of each modality; its last axes, one for each of a box, are the raw grid.
    """
    found = []
    for phrase in grounding:
        steps = steps_of(phrase, ids, tokenizer)
        if phrase.modality not in maps or not steps:
            continue
        attended = maps[phrase.modality][steps].mean(dim=0)
        total = float(attended.sum())
        if total == 0:
            continue
        extent = shapes[phrase.modality][-len(phrase.box) :]
        box = inside(phrase.box, grid=attended.shape, extent=extent).to(attended.device)
        found.append((float(box.flatten()[attended.argmax()]), float(attended[box].sum()) / total))
    return found
