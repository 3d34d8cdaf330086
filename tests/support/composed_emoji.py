"""A tiny set of emoji in the files of the original."""

from pathlib import Path

import numpy as np

from perceiver.data.datasets.emoji_prompts import VARIANTS

NAMES = [f"{first} {rest}" for rest in ("artist", "pilot", "heart", "square") for first in VARIANTS[:3]] + ["cat", "red car"]


def composed_emoji(root: Path) -> Path:
    """Fourteen emoji of coarse random colours by both hands, one darker, with English and German names."""
    root.mkdir(parents=True, exist_ok=True)
    rows = ["emoji\ten\tde", *(f"{chr(97 + number)}\t{name}\t{name} auf deutsch" for number, name in enumerate(NAMES))]
    (root / "names.tsv").write_text("\n".join(rows) + "\n")
    colours = np.random.default_rng(0).integers(60, 200, (len(NAMES), 4, 4, 3))
    pictures = colours.repeat(16, axis=1).repeat(16, axis=2)
    for hand, darker in (("noto", 0), ("twemoji", 20)):
        np.savez_compressed(root / f"{hand}64.npz", images=(pictures - darker).astype(np.uint8))
    return root
