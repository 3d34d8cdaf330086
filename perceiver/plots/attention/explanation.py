"""What a prediction depends on, for a person: each modality with the contributions of its tokens, texts as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.texts.tokenizers import tokenizer_of
from perceiver.plots.drawings import drawing_of
from perceiver.plots.rendering import literal_texts

_SCALE = 2.2


@literal_texts()
def draw_contributions(
    x: Any, mask: Tensor | None, contributions: NDArray[np.float32], *, spec: ModalitySpec, adapter: nn.Module | None
) -> Figure:
    """Draw a sample of one modality with the contributions of its tokens.

    Args:
        x: input of the adapter, without the batch axis, in the units before normalisation.
        mask: `(*raw grid)`, True is valid; None: all valid.
        contributions: contribution of each token, `(*grid)`; signs are left out.
        spec: spec of the modality.
        adapter: adapter of the modality.
    """
    if spec.get("kind") == "table":
        return _columns([*spec.get("numbers", ()), *spec.get("categories", {})], np.abs(contributions))
    drawing = drawing_of(spec, adapter)
    width, height = drawing.size
    figure = Figure(figsize=(_SCALE * width, _SCALE * height), layout="tight", dpi=110)
    axes = figure.add_subplot(projection=drawing.projection)
    drawing.attention(axes, x, mask, torch.from_numpy(np.abs(contributions)))
    return figure


def _columns(names: Sequence[str], contributions: NDArray[np.float32]) -> Figure:
    values = contributions.ravel()[: len(names)]
    figure = Figure(figsize=(5, 0.6 + 0.35 * len(values)), layout="tight", dpi=110)
    axes = figure.add_subplot()
    axes.barh(range(len(values)), values.tolist(), color="tab:orange")
    axes.set_yticks(range(len(values)), [name[:24] for name in names[: len(values)]])
    axes.invert_yaxis()
    axes.set(xticks=[])
    return figure


def words_html(text: str, contributions: NDArray[np.float32], *, spec: ModalitySpec) -> str:
    """Return a text as HTML, with each word on a background as strong as the contributions of its tokens.

    Args:
        text: the text; parts beyond its tokens are grey.
        contributions: contribution of each token, `(L,)`.
        spec: spec of the modality, with its tokenizer.

    Examples:
        >>> import numpy as np
        >>> words_html("<b>", np.array([0.0, 0.0, 2.0], dtype=np.float32), spec={"kind": "text"})
        '<span style="background:rgba(249,115,22,0.90)">&lt;b&gt;</span>'
    """
    shares = _characters(text, np.abs(contributions), spec)
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    sums = [float(shares[start:end].sum()) for start, end in words]
    largest = max(sums, default=0.0) or 1.0
    pieces, place = [], 0
    for (start, end), total in zip(words, sums, strict=True):
        pieces.append(html.escape(text[place:start]))
        if start >= len(shares):
            pieces.append(f'<span style="opacity:0.4">{html.escape(text[start:end])}</span>')
        else:
            colour = f"background:rgba(249,115,22,{0.9 * total / largest:.2f})"
            pieces.append(f'<span style="{colour}">{html.escape(text[start:end])}</span>')
        place = end
    return "".join(pieces) + html.escape(text[place:])


def _characters(text: str, contributions: NDArray[np.float32], spec: ModalitySpec) -> NDArray[np.float64]:
    """Return the contribution of each character up to the last token's."""
    tokenizer = tokenizer_of(spec.get("tokenizer"))
    ids = tokenizer.encode(text)[: len(contributions)]
    shares = np.zeros(len(text))
    end = 0
    for count, contribution in enumerate(contributions[: len(ids)].tolist(), start=1):
        start, end = end, max(end, min(len(text), len(tokenizer.decode(ids[:count]))))
        # A token within a character adds none: the character was counted with its first token.
        own = slice(start, end) if end > start else slice(max(start - 1, 0), max(start, 1))
        shares[own] += contribution / max(end - start, 1)
    return shares[:end]
