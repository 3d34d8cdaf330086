"""Make the files of `data=emoji` from a font, a folder of SVG files and a Python package.

    pip install emoji cairosvg
    apt-get download fonts-noto-color-emoji && dpkg -x fonts-noto-color-emoji_*.deb font
    npm pack @twemoji/svg && tar xzf twemoji-svg-*.tgz
    python rebuild.py --font font/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf --svg package --out data/emoji

Pillow needs libraqm, which its wheels contain: it joins sequences such as flags into one picture.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "ja", "zh", "ko", "fa", "id", "ru", "tr", "ar")
SIDE = 64
CANVAS = 136  # width of the font's bitmaps, which are 128 high
FULLY_QUALIFIED = 2  # the package's number for emoji in their recommended form
SKIN_TONES = range(0x1F3FB, 0x1F400)
VARIATION, JOINER = "\ufe0f", "\u200d"
PEOPLE = {"\U0001f466", "\U0001f467", "\U0001f468", "\U0001f469"}  # boy, girl, man, woman


def name_of(alias: str) -> str:
    """Return the name in an alias: ":1st_place_medal:" is "1st place medal".

    >>> name_of(":1st_place_medal:")
    '1st place medal'
    """
    return " ".join(alias.strip(":").replace("_", " ").split())


def names_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the names of every emoji that has one in each language, by emoji, without skin tones and families of people.

    >>> entry = {"status": 2, **{language: ":a_cat:" for language in LANGUAGES}}
    >>> sorted(names_of({"🐈": entry, "👍🏽": entry, "🐕": {"status": 2, "en": ":dog:"}}))
    ['🐈']
    """
    found = {}
    for emoji, entry in entries.items():
        toned = any(ord(character) in SKIN_TONES for character in emoji)
        family = JOINER in emoji and set(emoji) <= {*PEOPLE, JOINER}
        named = all(entry.get(language) for language in LANGUAGES)
        if entry.get("status") == FULLY_QUALIFIED and named and not toned and not family:
            found[emoji] = [name_of(entry[language]) for language in LANGUAGES]
    return found


def svg_names(emoji: str) -> list[str]:
    """Return the possible names of Twemoji's file: code points in hexadecimal, with and without variation selectors.

    >>> svg_names("❤️")
    ['2764-fe0f.svg', '2764.svg']
    """
    forms = (emoji, emoji.replace(VARIATION, ""))
    return ["-".join(f"{ord(character):x}" for character in form) + ".svg" for form in dict.fromkeys(forms)]


def squared(picture: Image.Image) -> np.ndarray[Any, Any]:
    """Return a picture in the middle of a white square, `(64, 64, 3)` uint8."""
    square = Image.new("RGBA", (CANVAS, CANVAS), "white")
    square.alpha_composite(picture, ((CANVAS - picture.width) // 2, (CANVAS - picture.height) // 2))
    return np.asarray(square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def of_font(emoji: str, font: ImageFont.FreeTypeFont) -> np.ndarray[Any, Any] | None:
    """Return the picture of an emoji in a bitmap font; None if the font does not join it into one."""
    left, top, right, bottom = font.getbbox(emoji)
    width, height = int(right - left), int(bottom - top)
    if not 0 < width <= CANVAS or not 0 < height <= CANVAS:
        return None
    picture = Image.new("RGBA", (width, height))
    ImageDraw.Draw(picture).text((-left, -top), emoji, font=font, embedded_color=True)
    return squared(picture) if picture.getbbox() else None


def of_svg(folder: Path, emoji: str) -> np.ndarray[Any, Any] | None:
    """Return Twemoji's picture of an emoji; None if there is no file."""
    found = [folder / name for name in svg_names(emoji) if (folder / name).is_file()]
    if not found:
        return None
    import cairosvg  # needs the library cairo

    content = cairosvg.svg2png(url=str(found[0]), output_width=2 * SIDE, output_height=2 * SIDE)
    return squared(Image.open(io.BytesIO(content)).convert("RGBA"))


def main() -> None:
    """Write `names.tsv`, `noto64.npz` and `twemoji64.npz`."""
    import emoji

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for option, meaning in (("font", "NotoColorEmoji.ttf"), ("svg", "folder of Twemoji's files"), ("out", "new folder")):
        parser.add_argument(f"--{option}", type=Path, required=True, help=meaning)
    options = parser.parse_args()
    emoji.config.load_language(list(LANGUAGES))
    font = ImageFont.truetype(str(options.font), 109)  # the size of its bitmaps
    rows, pictures = [], []
    for character, names in names_of(emoji.EMOJI_DATA).items():
        both = of_font(character, font), of_svg(options.svg, character)
        if both[0] is not None and both[1] is not None:
            rows.append("\t".join((character, *names)))
            pictures.append(both)
    options.out.mkdir(parents=True, exist_ok=True)
    header = "\t".join(("emoji", *LANGUAGES))
    (options.out / "names.tsv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    for place, hand in enumerate(("noto", "twemoji")):
        np.savez_compressed(options.out / f"{hand}{SIDE}.npz", images=np.stack([both[place] for both in pictures]))


if __name__ == "__main__":
    main()
