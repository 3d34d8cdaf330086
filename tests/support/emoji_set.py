"""A small set of emoji in the files of the data set: blots of a colour and a place, by two hands, with names."""

from pathlib import Path

import numpy as np

COLOURS = ("red", "green", "blue", "black")


def emoji_set(folder: Path, *, count: int = 40) -> Path:
    """Write `names.tsv`, `noto64.npz` and `twemoji64.npz`; Noto's blots are large, Twemoji's small and paler."""
    folder.mkdir(parents=True, exist_ok=True)
    shades = np.array([[230, 20, 20], [20, 200, 20], [20, 20, 230], [10, 10, 10]])
    rows, noto, twemoji = ["emoji\ten\tde"], [], []
    for number in range(count):
        across, down = 8 + 12 * (number // 4 % 4), 8 + 12 * (number // 16 % 4)
        for pictures, side, paler in ((noto, 16, 0), (twemoji, 12, 25)):
            picture = np.full((64, 64, 3), 255, dtype=np.uint8)
            picture[down : down + side, across : across + side] = shades[number % 4] + paler
            pictures.append(picture)
        colour, place = COLOURS[number % 4], number // 4
        rows.append(f"{chr(0x1F600 + number)}\t{colour} {place}\t{colour} Fleck {place}")
    (folder / "names.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for hand, pictures in (("noto", noto), ("twemoji", twemoji)):
        np.savez_compressed(folder / f"{hand}64.npz", images=np.stack(pictures))
    return folder
