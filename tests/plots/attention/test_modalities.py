"""Bars of the attention that each modality gets: the numbers against `Perceiver.attention_weights`."""

from typing import Any

import pytest
import torch
from plots_cases import MODALITIES, batch, model

from perceiver.model import Perceiver
from perceiver.plots import AttentionModalities
from perceiver.samples.batch import Batch


def heights(figure: Any) -> dict[str, list[float]]:
    """For each modality in the legend the height of its bars."""
    [axes] = figure.axes
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}


def test_bars_are_means_over_samples() -> None:
    perceiver, some = model(), batch()
    figure = AttentionModalities()(perceiver, [some, some])["attention_modalities"]
    with torch.no_grad():
        weights = perceiver.attention_weights(some.inputs, some.masks)
    bars = heights(figure)
    assert set(bars) == set(MODALITIES)
    for name, own in bars.items():
        assert own == pytest.approx([float(step[name].flatten(3).sum(-1).mean()) for step in weights], abs=1e-5)
    assert [sum(own) for own in zip(*bars.values(), strict=True)] == pytest.approx([1.0, 1.0], abs=1e-5)
    [axes] = figure.axes
    assert "means over 8 samples" in axes.get_title()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    figure.canvas.draw()


def test_what_is_absent_or_not_read_has_no_height() -> None:
    perceiver = model("image", "points", "sound")
    perceiver = Perceiver(
        adapters=dict(perceiver.adapters.items()),
        encoder=perceiver.encoder,
        head=perceiver.head,
        fusion=perceiver.fusion,
        reads=[["image"], ["points", "sound"]],
    )
    own = batch("image", "points")
    full = Batch(inputs=own.inputs, target=own.target)
    bars = heights(AttentionModalities()(perceiver, [full])["attention_modalities"])
    assert bars == {"image": pytest.approx([1.0, 0.0]), "points": pytest.approx([0.0, 1.0]), "sound": [0.0, 0.0]}


def test_a_single_modality_or_no_data_draws_nothing() -> None:
    class Untouched:
        def __iter__(self) -> Any:
            raise AssertionError("no batch is taken")

    assert AttentionModalities()(model("image"), Untouched()) == {}  # type: ignore[arg-type]
    assert AttentionModalities()(model("image", "points"), []) == {}


def test_no_more_batches_are_taken_than_needed_and_the_mode_stays() -> None:
    perceiver, taken = model("image", "points").train(), []

    def batches() -> Any:
        while True:
            taken.append(1)
            yield batch("image", "points")

    AttentionModalities(num_samples=5)(perceiver, batches())
    assert len(taken) == 2
    assert perceiver.training
    with pytest.raises(ValueError, match="num_samples: expected 1 or more"):
        AttentionModalities(num_samples=0)
