"""Figures to PNG files, laid out and drawn once: matplotlib's `savefig` lays a figure out and draws it twice."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


def png_of(figure: Figure, *, dpi: float = 120) -> bytes:
    """Return the content of a PNG file of a figure.

    Args:
        figure: the figure.
        dpi: dots per inch.
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    Image.fromarray(pixels).convert("RGB").save(buffer, "png", dpi=(dpi, dpi))
    return buffer.getvalue()
