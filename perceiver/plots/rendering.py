"""Texts of figures, and figures to PNG files.

Files are laid out and drawn once: matplotlib's `savefig` lays a figure out and draws it twice.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


@contextmanager
def literal_texts() -> Iterator[None]:
    """Context or decorator in which new texts of figures are literal, without mathematics between dollar signs.

    Prompts, names and ids may be anything, and matplotlib raises an error for a formula that it cannot read.
    """
    with rc_context({"text.parse_math": False}):
        yield


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
