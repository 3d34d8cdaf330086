"""A manifest of emoji: pictures of one hand and names in one language, each missing at random, and their Unicode block.

    python benchmarks/emoji.py FOLDER [--source DIR] [--hand noto] [--language en] [--missing 0.3] [--parquet]

DIR holds `names.tsv` (a column `emoji`, and a column of names per language) and `noto64.npz` or `twemoji64.npz` (`images`,
`(emoji, 64, 64, 3)` uint8, in the same order); without --source it is $PERCEIVER_DATA/emoji. Rebuild them from the font Noto
Color Emoji (Debian: fonts-noto-color-emoji) or Twemoji (npm: @twemoji/svg), and the names in the package `emoji` (of CLDR).

The target is the Unicode block of the first character; small blocks together are "other". Emoji with the same first
character, such as the professions of women, are in the same split: 70% of the characters for training, 15% each for
validation and test. No row lacks both picture and name. Pictures are PNG files; with `--parquet` they are bytes in a Parquet
file, as `datasets` writes them. The script prints the command that trains on the result.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BLOCKS = {
    "symbols": (0x2600, 0x26FF),
    "enclosed characters and flags": (0x1F100, 0x1F1FF),
    "pictographs": (0x1F300, 0x1F5FF),
    "faces": (0x1F600, 0x1F64F),
    "transport and maps": (0x1F680, 0x1F6FF),
    "supplemental pictographs": (0x1F900, 0x1F9FF),
    "pictographs, extended": (0x1FA70, 0x1FAFF),
}
"""First and last code point of the larger blocks, under short names."""


def block_of(emoji: str) -> str:
    """Return the block of the first character."""
    return next((name for name, (first, last) in BLOCKS.items() if first <= ord(emoji[0]) <= last), "other")


def rows_of(names: Path, *, language: str, missing: float, seed: int) -> list[dict[str, str]]:
    """Return the rows of the manifest, in the order of the file: id, name, photo, label, split, and the first character.

    Args:
        names: table of names.
        language: column of the names.
        missing: share of pictures and of names that are missing.
        seed: seed of what is missing and of the splits.
    """
    with names.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    random = np.random.RandomState(seed)
    firsts = sorted({row["emoji"][0] for row in found})
    place = dict(zip(random.permutation(firsts).tolist(), np.arange(len(firsts)) / len(firsts), strict=True))
    rows = []
    for number, row in enumerate(found):
        keep = random.rand(2) >= missing
        keep[random.randint(2)] |= not keep.any()
        at = place[row["emoji"][0]]
        rows.append(
            {
                "id": "-".join(f"{ord(character):x}" for character in row["emoji"]),
                "photo": f"images/{number:04}.png" if keep[0] else "",
                "name": row[language] if keep[1] else "",
                "label": block_of(row["emoji"]),
                "first": f"{ord(row['emoji'][0]):x}",
                "split": "train" if at < 0.7 else "val" if at < 0.85 else "test",
            }
        )
    return rows


def write_files(folder: Path, rows: Sequence[dict[str, str]], images: np.ndarray) -> Path:
    """Write pictures as PNG files, and the manifest; return its path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row, image in zip(rows, images, strict=True):
        if row["photo"]:
            Image.fromarray(image).save(folder / row["photo"])
    path = folder / "emoji.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(folder: Path, rows: Sequence[dict[str, str]], images: np.ndarray) -> Path:
    """Write the manifest with pictures as bytes; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = []
    for row, image in zip(rows, images, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        content.append({**row, "photo": {"bytes": file.getvalue(), "path": row["photo"]} if row["photo"] else None})
    path = folder / "emoji.parquet"
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the manifest and print the command."""
    options = _options(arguments)
    rows = rows_of(options.source / "names.tsv", language=options.language, missing=options.missing, seed=options.seed)
    with np.load(options.source / f"{options.hand}64.npz", allow_pickle=False) as file:
        images = file["images"]
    path = (write_parquet if options.parquet else write_files)(options.folder, rows, images)
    blocks = Counter(row["label"] for row in rows)
    splits = Counter(row["split"] for row in rows)
    empty = {column: sum(not row[column] for row in rows) for column in ("photo", "name")}
    print(f"{path}: {', '.join(f'{count} {split}' for split, count in splits.items())} rows")
    print(f"missing: {', '.join(f'{count} of {column}' for column, count in empty.items())}")
    print(f"blocks: {', '.join(f'{name} {count}' for name, count in blocks.most_common())}")
    print(f"python train.py experiment=manifest data.manifest={path} 'data.modalities={{photo: image, name: text}}'")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the manifest and its files")
    parser.add_argument("--source", type=Path, default=Path(os.environ.get("PERCEIVER_DATA", "data")) / "emoji")
    parser.add_argument("--hand", default="noto", choices=("noto", "twemoji"))
    parser.add_argument("--language", default="en")
    parser.add_argument("--missing", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parquet", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
