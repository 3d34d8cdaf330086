"""Time to generate images: 64 of 28 x 28 pixels in 12 Euler steps with guidance, on one core.

    python benchmarks/generate.py [--run RUN] [--samples 64] [--steps 12] [--guidance 3] [--rounds 5] [--threads 1]

Without `--run`, a model of the size of `experiment=mnist_generation` with random weights, for labels as conditions. Prints
the processor time of each round, as median and range, and the share of each kind of operation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import announce, machine
from torch.profiler import ProfilerActivity, profile

import perceiver
from perceiver import Fourier, Fusion, Interface, Perceiver, VelocityHead
from perceiver.adapters import ImagePatches, Vector
from perceiver.generation.flow import generate


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run directory of a model of images with the condition `label`")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    announce(machine())
    torch.manual_seed(0)
    model = perceiver.load(options.run) if options.run else random_model()
    classes = int(model.adapters["label"].channels)  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "conditions": {"label": torch.eye(classes)[torch.arange(options.samples) % classes]},
        "shape_of": None if options.run else (1, 28, 28),
        "steps": options.steps,
        "guidance": options.guidance,
    }
    generate(model, **settings)  # warms up
    seconds = []
    for _ in range(options.rounds):
        start = time.process_time()
        generate(model, **settings)
        seconds.append(time.process_time() - start)
    print(f"{sum(one.numel() for one in model.parameters()):,} parameters")
    print(
        f"{options.samples} images, {options.steps} steps, guidance {options.guidance:g}: {statistics.median(seconds):.2f} "
        f"s of processor time ({min(seconds):.2f} to {max(seconds):.2f})"
    )
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        generate(model, **{**settings, "steps": 1})
    found = sorted(measured.key_averages(), key=lambda one: -one.self_cpu_time_total)
    total = sum(one.self_cpu_time_total for one in found)
    for one in found[:10]:
        print(f"{one.self_cpu_time_total / total:6.1%}  {one.count:5d} calls  {one.key}")


def random_model() -> Perceiver:
    """Return a model of the recipe's size with random weights."""
    image = ImagePatches(image_channels=1, patch=2, embed_channels=16, position=Fourier(num_bands=4, resolution=(14, 14)))
    adapters: dict[str, Any] = {"image": image, "label": Vector(vector_channels=10)}
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    encoder = Interface(
        token_channels=fusion.channels,
        num_latents=16,
        latent_channels=128,
        state_channels=64,
        local_kernel=[3, 3],
        num_layers_per_block=1,
        modulation_channels=128,
    )
    head = VelocityHead(state_channels=64, adapters=adapters, modality="image", condition_dropout=0.1)
    return Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion).eval()


if __name__ == "__main__":
    main()
