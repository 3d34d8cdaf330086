"""Confusion matrices as figures."""

import matplotlib.pyplot as plt
import torch

from perceiver.plots import confusion_figure


def test_numbers_and_names_are_where_they_belong() -> None:
    confusion = torch.tensor([[5, 0, 1], [0, 7, 0], [2, 0, 4]])
    axes = confusion_figure(confusion, ["cat", "dog", "owl"], title="t").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "5", (2, 0): "1", (1, 1): "7", (0, 2): "2", (2, 2): "4"}, "x is the predicted class"
    assert axes.get_xlabel() == "predicted class"
    assert plt.get_fignums() == [], "no window is left open"


def test_many_classes_go_without_numbers() -> None:
    axes = confusion_figure(torch.eye(100, dtype=torch.long), [], title="t").axes[0]
    assert not axes.texts
