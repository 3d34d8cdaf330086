"""Small manifests for tests: coloured images, tones, series, points, texts and tables that tell cats from dogs."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

RATE = 8000


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """None becomes an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def animals(folder: Path, count: int = 24) -> list[dict[str, Any]]:
    """Files in `folder`, and the rows of a manifest that names them; every row has a photo or a sound."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        dog = number % 2
        pixels = random.integers(0, 100, (12 + number % 3, 14, 3), dtype=np.uint8)
        pixels[..., dog] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")
        seconds = np.arange(800 + 40 * (number % 5)) / RATE
        soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * (300 + 900 * dog) * seconds), RATE)
        lines = [
            f"{step / 2},{60 + 20 * dog + random.normal():.3f},{120 if step % 3 else ''}" for step in range(4 + number % 3)
        ]
        (folder / f"{number}.csv").write_text("\n".join(["time,pulse,pressure", *lines]) + "\n")
        np.save(folder / f"{number}.npy", random.normal(size=(5 + number % 3, 3)))
        rows.append(
            {
                "id": f"a{number}",
                "photo": None if number % 4 == 3 else f"{number}.png",
                "sound": None if number % 4 == 2 else f"{number}.wav",
                "vitals": f"{number}.csv",
                "cloud": f"{number}.npy",
                "note": f"Ein {'Hund' if dog else 'Kätzchen'}, {number}",
                "age": number if number % 6 else None,
                "sex": "fm"[number // 2 % 2],
                "label": ("cat", "dog")[dog],
            }
        )
    return rows


MODALITIES: dict[str, Any] = {
    "photo": "image",
    "sound": "audio",
    "vitals": "timeseries",
    "cloud": "points",
    "note": "text",
    "patient": {"kind": "table", "columns": ["age", "sex"]},
}
