"""Files made to run code, to leave their folder, or to exhaust memory: each function writes one, small on disk.

Where code could run, a function takes `marker`: a path that comes into being if it does.
"""

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from containers_written import write_container
from PIL import Image


class _Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def touching_pickle(marker: Path) -> bytes:
    """A pickle that makes `marker` when it is loaded."""
    return pickle.dumps(_Touch(marker))


def touching_module(folder: Path, marker: Path, *, name: str = "touching") -> Path:
    """A module that makes `marker` when it is imported."""
    path = folder / f"{name}.py"
    path.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n\n\ndef made():\n    return 0\n")
    return path


# ----- shards: each changes a folder that `write_shards` made


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def write_chunk(path: Path, items: list[bytes]) -> None:
    """A file of litdata's with these items, each with its size before it."""
    sized = [struct.pack("<I", len(item)) + item for item in items]
    head = 4 * (len(items) + 2)
    places = [head + sum(map(len, sized[:number])) for number in range(len(sized) + 1)]
    path.write_bytes(struct.pack(f"<{len(places) + 1}I", len(items), *places) + b"".join(sized))


def replace_records(split: Path, items: list[bytes]) -> None:
    """A split of one shard with these records, and an index that says so; its number of samples must be that before."""
    for file in split.glob("*.bin"):
        file.unlink()
    write_chunk(split / "shard-000000.bin", items)
    chunk = {
        "chunk_bytes": (split / "shard-000000.bin").stat().st_size,
        "chunk_size": len(items),
        "dim": None,
        "filename": "shard-000000.bin",
    }
    edit_json(split / "index.json", lambda index: index.update(chunks=[chunk]))


def pickled_shards(shards: Path, marker: Path) -> None:
    """The items of the validation split are pickles, and the index says so."""
    count = json.loads((shards / "shards.json").read_text())["samples"]["val"]
    replace_records(shards / "val", [touching_pickle(marker)] * count)
    edit_json(shards / "val" / "index.json", lambda index: index["config"].update(data_format=["pickle"]))


def importing_shards(shards: Path, *, module: str = "touching", name: str = "made") -> None:
    """The structure of the samples of the validation split names a module to import."""
    context = {"default_factory_module": module, "default_factory_name": name, "dict_context": ["x"]}
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    spec = [1, {"type": "collections.defaultdict", "context": context, "children_spec": [leaf]}]
    edit_json(shards / "val" / "index.json", lambda index: index["config"].update(data_spec=json.dumps(spec)))


def arrow_shard(split: Path, *, samples: int) -> None:
    """A shard whose last record ends in a table of Arrow's: litdata would read that table's rows, not the records."""
    sink = pa.BufferOutputStream()
    table = pa.table({"x": [0] * samples})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    footer = content + struct.pack("<I", len(content)) + b"LDARW01\0"
    replace_records(split, [b"x"] * (samples - 1) + [footer])


def record(head: Any, blobs: bytes = b"", *, head_size: int | None = None) -> bytes:
    """A record with a head that is JSON, or text."""
    text = head.encode() if isinstance(head, str) else json.dumps(head).encode()
    return struct.pack("<I", len(text) if head_size is None else head_size) + text + blobs


# ----- files that claim or expand to far more than they hold


def deep_json(depth: int = 100_000) -> str:
    """A list in a list in a list and so on."""
    return "[" * depth + "]" * depth


def claiming_npy(path: Path, *, rows: int = 10**11) -> Path:
    """An array file whose header claims `rows` rows, and which holds one."""
    np.save(path, np.zeros((1, 3)))
    content = path.read_bytes()
    claim = b"(%d, 3)" % rows
    head = content.replace(b"(1, 3)", claim).replace(b" " * (len(claim) - 6) + b"\n", b"\n", 1)
    assert len(head) == len(content)
    path.write_bytes(head)
    return path


def pickled_npy(path: Path, marker: Path) -> Path:
    """An array file of objects, which are pickled."""
    np.save(path, np.array([_Touch(marker)], dtype=object), allow_pickle=True)
    return path


def odd_wav(path: Path, *, rate: int, count: int = 4000) -> Path:
    """A tone of 8 kB with a sample rate that may have nothing in common with a model's."""
    soundfile.write(path, 0.3 * np.sin(np.arange(count) / 5), rate, subtype="PCM_16")
    return path


def claiming_flac(path: Path) -> Path:
    """A recording of 4000 samples whose header claims 2**36 - 1."""
    soundfile.write(path, 0.3 * np.sin(np.arange(4000) / 5), 8000, format="FLAC")
    content = bytearray(path.read_bytes())
    # The last 36 bits of bytes 18 to 25 of the stream's facts, which begin at byte 8.
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    return path


def huge_png(path: Path, *, size: int = 60_000) -> Path:
    """An image whose header claims `size` x `size` pixels."""
    Image.new("RGB", (4, 4), (200, 0, 0)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", size, size)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return path


def repeating_parquet(path: Path, *, rows: int = 200, value_bytes: int = 2**20, groups: int = 1) -> Path:
    """A text of `value_bytes`, written once for all `rows` rows of each row group; and labels."""
    table = pa.table({"note": ["a" * value_bytes] * rows, "label": [str(row % 2) for row in range(rows)]})
    with pq.ParquetWriter(path, table.schema, use_dictionary=True, dictionary_pagesize_limit=2**30) as writer:
        for _ in range(groups):
            writer.write_table(table)
    return path


def long_animation(path: Path, *, frames: int = 40) -> Path:
    """A GIF whose frames all differ."""
    images = [Image.new("RGB", (8, 8), (6 * number, 0, 0)) for number in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=10, loop=0)
    return path


def claiming_ply(path: Path, *, points: int = 3 * 10**7) -> Path:
    """A PLY file whose header claims `points` points, and which holds one."""
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {points}\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    path.write_bytes(header.encode() + struct.pack("<3f", 1, 2, 3))
    return path


def pcd_bomb(path: Path, *, points: int = 3 * 10**7) -> Path:
    """A compressed PCD file of `points` points whose data, a few bytes, would expand to zeros without end."""
    header = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
    header += f"WIDTH {points}\nHEIGHT 1\nPOINTS {points}\nDATA binary_compressed\n"
    packed = b"\x00\x00" + b"\xe0\xff\x00" * 1000
    path.write_bytes(header.encode() + struct.pack("<II", len(packed), 12 * points) + packed)
    return path


def flac_bomb(path: Path, *, seconds: int) -> Path:
    """Silence of `seconds` in FLAC, in Ogg if the suffix says so: two orders of magnitude smaller than its samples."""
    silence = np.zeros((2, seconds * 48000), np.float32)
    if path.suffix == ".ogg":
        return write_container(path, silence, rate=48000, codec="flac", form="ogg")
    soundfile.write(path, silence.T, 48000, format="FLAC")
    return path


def truncated_m4a(path: Path) -> Path:
    """A recording whose second half is missing."""
    write_container(path, np.zeros((1, 48000), np.float32), rate=48000, codec="aac", form="ipod")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def playlist(path: Path, *, secret: Path) -> Path:
    """A list of files that FFmpeg would open, called a recording."""
    path.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    return path
