"""Small models, batches and folders with a target on their grid."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver import (
    Encoder,
    Fourier,
    InputQueries,
    Perceiver,
    PooledHead,
    PositionalQueries,
    QueryDecoder,
)
from perceiver.adapters import FrameSurroundings, ImagePixels
from perceiver.data.readers.flow_files import write_flow
from perceiver.samples.batch import Batch

HEIGHT, WIDTH = 6, 7


def plane() -> Fourier:
    """Positions of their own for each model: models that share a module share its training mode, too."""
    return Fourier(num_bands=2, resolution=(HEIGHT, WIDTH))


def decoded(adapter: Any, *, name: str, queries: Any, outputs: int, spec: Any = None, **settings: Any) -> Perceiver:
    encoder = Encoder(
        num_latents=4,
        latent_channels=16,
        token_channels=adapter.channels,
        num_blocks=1,
        num_layers_per_block=1,
        num_self_heads=2,
    )
    head = QueryDecoder(
        latent_channels=16, queries=queries, output_channels=outputs, token_channels=adapter.channels, **settings
    )
    return Perceiver(adapters={name: adapter}, encoder=encoder, head=head, spec=spec)


def segmenting(*, classes: int = 3, positions: bool = False, spec: Any = None, **settings: Any) -> Perceiver:
    """From images `(B, 2, H, W)` of any size, or of 6 x 7 pixels."""
    queries = PositionalQueries(position=plane(), grid=[HEIGHT, WIDTH]) if positions else InputQueries(modality="image")
    adapter = ImagePixels(image_channels=2, position=plane())
    return decoded(adapter, name="image", queries=queries, outputs=classes, spec=spec, query_residual=True, **settings)


def flowing(*, spec: Any = None, **settings: Any) -> Perceiver:
    """From frames `(B, 1, 2, H, W)` of any size."""
    adapter = FrameSurroundings(video_channels=1, position=plane(), embedding_channels=8)
    queries = InputQueries(modality="frames")
    return decoded(adapter, name="frames", queries=queries, outputs=2, spec=spec, query_residual=True, **settings)


def pooled() -> Perceiver:
    """A classifier."""
    adapter = ImagePixels(image_channels=2, position=plane())
    encoder = Encoder(num_latents=4, latent_channels=16, token_channels=adapter.channels, num_self_heads=2)
    return Perceiver(adapters={"image": adapter}, encoder=encoder, head=PooledHead(latent_channels=16, num_classes=3))


def batch_of(modality: str, x: Tensor, target: Tensor, mask: Tensor | None = None) -> Batch:
    return Batch(inputs={modality: x}, target=target, target_mask=mask, ids=[f"sample/{number}" for number in range(len(x))])


def images(size: int = 3) -> Tensor:
    return torch.randn(size, 2, HEIGHT, WIDTH)


def frames(size: int = 3) -> Tensor:
    return torch.randn(size, 1, 2, HEIGHT, WIDTH)


def segmentation_set(root: Path) -> None:
    """Images and masks of three classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).save(root / split / "images" / f"{number}.jpg")
            Image.fromarray(random.integers(0, 3, (12, 16), np.uint8)).save(root / split / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("a\nb\nc\n")


def flow_set(root: Path) -> None:
    """Frames whose second is the first moved by three columns and one row; the flow of a corner is not known."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for part in ("first", "second", "flow"):
            (root / split / part / "scene").mkdir(parents=True)
        for number in range(count):
            frame = random.integers(0, 256, (12, 16, 3), np.uint8)
            flow = np.broadcast_to(np.array([3.0, 1.0])[:, None, None], (2, 12, 16)).copy()
            flow[:, :2, :2] = 2e9
            Image.fromarray(frame).save(root / split / "first" / "scene" / f"{number}.png")
            Image.fromarray(np.roll(frame, (1, 3), axis=(0, 1))).save(root / split / "second" / "scene" / f"{number}.png")
            write_flow(root / split / "flow" / "scene" / f"{number}.flo", flow)


def write_kitti(path: Path, flow: np.ndarray) -> None:
    """A PNG of 16 bits by hand, from KITTI's description; Pillow writes no such file."""
    known = np.abs(flow).max(axis=0) < 1e9
    values = np.where(known, np.round(np.where(known, flow, 0) * 64) + 2**15, 0)
    pixels = np.moveaxis(np.stack([*values, known]), 0, -1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
        )
    )


def write_pfm(path: Path, flow: np.ndarray, *, big: bool = False) -> None:
    """Rows from the bottom to the top, and a third channel of zeros."""
    pixels = np.moveaxis(np.concatenate([flow, 0 * flow[:1]]), 0, -1)[::-1]
    head = f"PF\n{flow.shape[2]} {flow.shape[1]}\n{'1' if big else '-1.0'}\n".encode()
    path.write_bytes(head + pixels.astype(">f4" if big else "<f4").tobytes())
