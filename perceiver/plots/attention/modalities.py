"""Figure of each modality's share of the latents' attention, in each cross-attend."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from matplotlib.figure import Figure

from perceiver.model import Perceiver
from perceiver.plots.evaluation import on_device
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch

_GROUP = 0.8  # width of all bars of a cross-attend, as a share of its slot


class AttentionModalities:
    """Figure with a bar per cross-attend and modality: the modality's share of the latents' attention.

    Shares are means over samples; the share of a missing modality is 0.

    Args:
        num_samples: approximate number of samples, from the start of the data: batches are not split.
    """

    def __init__(self, *, num_samples: int = 256) -> None:
        if num_samples < 1:
            raise ValueError(f"AttentionModalities.num_samples: expected 1 or more, got {num_samples}.")
        self.num_samples = num_samples

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"attention_modalities": …}`; an empty dict for a model of a single modality.

        Args:
            model: any model.
            batches: batches as in training, read only as far as needed.
        """
        names = list(model.adapters)
        if len(names) < 2:
            return {}
        sums, seen = torch.zeros(()), 0
        with evaluating(model):
            for batch in on_device(model, batches):
                steps = model.attention_by_modality(batch.inputs, batch.masks)
                shares = [[float(step[name].sum()) if name in step else 0.0 for name in names] for step in steps]
                sums, seen = sums + torch.tensor(shares), seen + batch.size
                if seen >= self.num_samples:
                    break
        if not seen:
            return {}
        return {"attention_modalities": _figure((sums / seen).tolist(), names, seen)}


@literal_texts()
def _figure(shares: list[list[float]], names: list[str], samples: int) -> Figure:
    """Draw a group of bars for each cross-attend, with a bar for each modality."""
    width = _GROUP / len(names)
    figure = Figure(figsize=(min(2.5 + 0.45 * len(shares) * len(names), 14.0), 3.4), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        offset = (place - (len(names) - 1) / 2) * width
        bars = axes.bar([step + offset for step in range(len(shares))], [own[place] for own in shares], width, label=name)
        axes.bar_label(bars, labels=[f"{own[place]:.0%}" for own in shares], fontsize=7)
    axes.set_xticks(range(len(shares)), [str(step + 1) for step in range(len(shares))])
    axes.set(xlabel="cross-attend", ylabel="share of the latents' attention", ylim=(0.0, 1.05))
    axes.set_title(f"attention by modality: means over {samples} samples", fontsize=9)
    axes.legend(fontsize=8, ncols=min(len(names), 4), loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    return figure
