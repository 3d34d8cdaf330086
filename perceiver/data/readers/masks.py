"""Segmentation masks and the classes of their pixels: numbers, palettes, or colours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perceiver.data.readers.images import ImageFileError
from perceiver.modalities.media.framing import image_formats

Color = tuple[int, int, int]
"""Red, green and blue, from 0 to 255."""

_SEPARATOR = r"[\s,;:]+"
_RGB = _SEPARATOR.join([r"(25[0-5]|2[0-4]\d|1?\d?\d)"] * 3)
_NAME_AND_COLOR = re.compile(rf"(?P<name>.*?\S){_SEPARATOR}{_RGB}")
_COLOR_AND_NAME = re.compile(rf"{_RGB}{_SEPARATOR}(?P<name>.*\S)")


def read_mask(path: Path) -> Image.Image:
    """Read a mask whose pixels are the numbers in the file.

    Raises:
        ImageFileError: the file is not an image, is damaged, or has colours instead of numbers.
    """
    mask, levels = _opened(path)
    if mask.mode not in ("1", "L", "P", "I", "I;16"):
        raise ImageFileError(
            f"{path}: expected class numbers, one channel of 8 or 16 bits or a palette, got an image of mode {mask.mode}. "
            "If its colours are classes, give them with data.mask_colors."
        )
    if levels is not None:
        return mask.point(lambda value: value * levels // 255)
    # A single bit is a class number too, but resampling supports only 8 and 32 bits.
    return mask.convert("L", dither=None).point(lambda value: min(value, 1)) if mask.mode == "1" else mask


def read_color_mask(path: Path, *, colors: Sequence[Color], ignored: Sequence[Color]) -> Image.Image:
    """Read a mask whose colours are classes, as class numbers of 32 bits; ignored pixels have the number of classes.

    Raises:
        ImageFileError: the file is not an image, is damaged, or has another colour.
    """
    mask, _ = _opened(path)
    if mask.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageFileError(f"{path}: expected colours of 8 bits per channel, got an image of mode {mask.mode}.")
    if mask.mode == "P":
        mask = mask.convert("RGBA")  # conversion of some palettes with transparency to RGB fails
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB")).astype(np.int32), -1, 0)
    found = red << 16 | green << 8 | blue
    known = np.array([r << 16 | g << 8 | b for r, g, b in (*colors, *ignored)], dtype=np.int32)
    order = np.argsort(known, kind="stable")
    places = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
    wrong = known[places] != found
    if wrong.any():
        row, column = (int(place[0]) for place in wrong.nonzero())
        color = (int(red[row, column]), int(green[row, column]), int(blue[row, column]))
        raise ImageFileError(
            f"{path}: expected a colour of data.mask_colors or data.ignored in each pixel, got {list(color)} in row {row}, "
            f"column {column}. Add it there, or save the mask without compression losses and smoothing."
        )
    return Image.fromarray(np.minimum(places, len(colors)).astype(np.int32))


def parse_colors(given: Any, *, names: Sequence[str], setting: str = "data.mask_colors") -> list[Color]:
    """Return a colour per class.

    Args:
        given: colours in class order, or by class name; each is [red, green, blue] or "#rrggbb".
        names: names of the classes.
        setting: name of the setting, for messages.

    Raises:
        ValueError: a colour is invalid or repeated, or classes have no colour.
    """
    if isinstance(given, Mapping):
        if set(map(str, given)) != set(names):
            raise ValueError(f"{setting}: expected the classes {', '.join(names)}, got {', '.join(map(str, given))}.")
        by_name = {str(name): color for name, color in given.items()}
        given = [by_name[name] for name in names]
    colors = [parse_color(color, setting=setting) for color in given]
    if len(colors) != len(names) or len(set(colors)) < len(colors):
        found = [list(color) for color in colors]
        raise ValueError(f"{setting}: expected {len(names)} different colours, one per class, got {found}.")
    return colors


def parse_color(given: Any, *, setting: str) -> Color:
    """Return a colour, given as [red, green, blue] or "#rrggbb".

    Raises:
        ValueError: it is neither.

    Examples:
        >>> from perceiver.data.readers.masks import parse_color
        >>> parse_color("#8040ff", setting="data.mask_colors")
        (128, 64, 255)
    """
    values = given
    if isinstance(given, str):
        values = list(bytes.fromhex(given[1:])) if re.fullmatch(r"#[0-9a-fA-F]{6}", given) else []
    try:
        red, green, blue = (int(value) for value in values)
    except (TypeError, ValueError):
        red = -1
    if red < 0 or not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"{setting}: expected [red, green, blue], 0 to 255 each, or '#rrggbb', got {given!r}.")
    return red, green, blue


def read_classes(path: Path) -> tuple[list[str], list[Color] | None]:
    """Read class names, one per line, in the order of the class numbers, and their colours if all lines have one.

    A colour is three numbers from 0 to 255 after the name, or before it.

    Raises:
        ValueError: there are fewer than two names, an empty line between names, or a repeated name or colour.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    for form in (_NAME_AND_COLOR, _COLOR_AND_NAME):
        found = [form.fullmatch(line) for line in lines]
        if all(found):
            lines = [one["name"].strip() for one in found if one]
            first = 2 if form is _NAME_AND_COLOR else 1
            given = [[int(one[first + channel]) for channel in range(3)] for one in found if one]
            return _checked(lines, path), parse_colors(given, names=lines, setting=str(path))
    return _checked(lines, path), None


def _checked(names: list[str], path: Path) -> list[str]:
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected two names or more, one per line and all different, got {names}.")
    return names


def _opened(path: Path) -> tuple[Image.Image, int | None]:
    try:
        with Image.open(path, formats=image_formats()) as mask:
            levels = _stretched_levels(mask)
            mask.load()
            return mask, levels
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise ImageFileError(f"{path}: not a valid image ({type(error).__name__}: {error}). Replace the file.") from error


def _stretched_levels(mask: Image.Image) -> int | None:
    """Return the largest number of a 2-bit or 4-bit grey image, which decoding stretches to 255; None for other images."""
    given = [tile[3] for tile in getattr(mask, "tile", ())]
    arguments = [part for one in given for part in (one if isinstance(one, tuple) else (one,))]
    return next((2**bits - 1 for bits in (2, 4) if f"L;{bits}" in arguments), None)
