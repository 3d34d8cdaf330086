"""Samples with predicted and true target, mistakes first."""

from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from plots_cases import NAMES, batch, model

from perceiver.plots import SampleGrid
from perceiver.samples.batch import Batch


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_the_worst_mistakes_come_first() -> None:
    perceiver = model("image")
    torch.manual_seed(2)
    batches = [Batch(inputs={"image": torch.randn(10, 3, 9, 8)}, target=torch.randint(3, (10,))) for _ in range(3)]
    with torch.no_grad():
        probabilities = torch.cat([perceiver(one.inputs) for one in batches]).softmax(dim=1)
    truth = torch.cat([one.target for one in batches])  # type: ignore[misc]
    own = probabilities.gather(1, truth[:, None])[:, 0]
    right = probabilities.argmax(dim=1) == truth
    assert 0 < int(right.sum()) < 30
    order = sorted(range(30), key=lambda n: (bool(right[n]), float(own[n])))
    expected = [
        f"{NAMES[int(probabilities[n].argmax())]} ({float(probabilities[n].max()):.0%})\n{NAMES[int(truth[n])]}"
        for n in order
    ]
    whole = SampleGrid(num_samples=30)(perceiver, batches)["samples"]
    assert titles(whole) == expected
    assert titles(SampleGrid(num_samples=4)(perceiver, batches)["samples"]) == expected[:4]
    colours = [axes.title.get_color() for axes in whole.axes]
    assert colours == ["black" if right[n] else "firebrick" for n in order]
    assert f"({30 - int(right.sum())} shown)" in whole.get_suptitle()
    assert plt.get_fignums() == [], "no window is left open"


def test_only_so_many_samples_are_compared() -> None:
    perceiver = model("image")
    torch.manual_seed(2)
    batches = (Batch(inputs={"image": torch.randn(10, 3, 9, 8)}, target=torch.randint(3, (10,))) for _ in range(3))
    SampleGrid(num_samples=5, num_compared=15)(perceiver, batches)
    assert len(list(batches)) == 1


def test_modalities_side_by_side_and_what_is_absent() -> None:
    figure = SampleGrid(num_samples=4)(model(), [batch()])["samples"]
    figure.canvas.draw()
    assert len(figure.axes) == 4 * 4
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sorted(texts) == ["no points", "no points", "no readings", "no sound"]


def test_labels_and_values() -> None:
    perceiver = model("image")
    x = {"image": torch.randn(2, 3, 9, 8)}
    perceiver.spec = {**perceiver.spec, "target": {"kind": "labels", "names": ["a", "b", "c"]}}  # type: ignore[dict-item]
    targets = torch.tensor([[True, True, True], [False, False, False]])
    figure = SampleGrid()(perceiver, [Batch(inputs=x, target=targets)])["samples"]
    assert {title.split("\n")[1] for title in titles(figure)} == {"a, b, c", "none"}
    values = {"kind": "values", "names": ["x", "y", "z"], "mean": [10.0, 0.0, 0.0], "std": [2.0, 1.0, 1.0]}
    perceiver.spec = {**perceiver.spec, "target": values}
    with torch.no_grad():
        near = perceiver(x) * torch.tensor([2.0, 1.0, 1.0]) + torch.tensor([10.0, 0.0, 0.0])
    figure = SampleGrid()(perceiver, [Batch(inputs=x, target=near + torch.tensor([[0.0], [5.0]]))])["samples"]
    farthest = titles(figure)[0].split("\n")[1]
    assert farthest == ", ".join(f"{number + 5:.3g}" for number in near[1].tolist())
    assert "largest error first" in figure.get_suptitle()


@pytest.mark.parametrize("target", [None, {"kind": "boxes", "names": []}])
def test_nothing_where_nothing_can_be_compared(target: dict[str, Any] | None) -> None:
    perceiver = model("image")
    assert SampleGrid()(perceiver, [Batch(inputs=batch("image").inputs)]) == {}, "no targets"
    perceiver.spec = {**perceiver.spec, "target": target}  # type: ignore[dict-item]
    assert SampleGrid()(perceiver, [batch("image")]) == {}


def test_long_names_are_cut() -> None:
    perceiver = model("image")
    names = ["a name that is far too long for a title", "b", "c"]
    perceiver.spec = {**perceiver.spec, "target": {"kind": "classes", "names": names}}  # type: ignore[dict-item]
    figure = SampleGrid()(perceiver, [batch("image")])["samples"]
    assert max(len(line) for title in titles(figure) for line in title.split("\n")) <= 22


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="1 <= num_samples <= num_compared, got 9 and 8"):
        SampleGrid(num_samples=9, num_compared=8)
