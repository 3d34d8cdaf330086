"""An ESTIMATE of ImageNet-scale training on several GPUs: communication against compute per step, with its arithmetic.

Counted in this process: parameters of the recipe's model, bytes of its gradients, and floating-point operations of a
forward pass (on shapes, with dense attention, as in the papers), next to the papers' figures. Taken from published
specifications, with sources: peak operations and bandwidths of memory and links. Assumed: the share of the peak that is
reached. Nothing here was run on a GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch._subclasses.fake_tensor import FakeTensorMode

from perceiver.checkpoints.build import build_model
from perceiver.run.configuration.resolve import resolve
from perceiver.run.configuration.resolvers import register_resolvers
from perceiver.run.reporting.console import forward_flops
from perceiver.samples.batch import Batch

CONF = Path(__file__).resolve().parents[1] / "conf"
TRAINING_IMAGES = 1_281_167 - 10_000  # the recipes keep 10,000 for validation
IMAGE = {"kind": "image", "shape": [3, 224, 224], "mean": [0.0] * 3, "std": [1.0] * 3, "range": [0, 255]}
SPEC: dict[str, Any] = {
    "modalities": {"image": IMAGE},
    "target": {"kind": "classes", "names": [str(number) for number in range(1000)]},
    "num_classes": 1000,
}


@dataclass(frozen=True)
class Device:
    """A GPU: peak operations per second (dense bfloat16), and bytes per second of its memory and its links one way."""

    name: str
    peak: float
    memory: float
    link: float
    source: str


# Data sheets give operations with 2:4 sparsity, twice the dense figure, and NVLink bandwidth for both directions together.
# The figures come from the collections named here (November 2026), which quote NVIDIA's documents, not from the originals.
DEVICES = (
    Device(
        "A100 SXM 80 GB", 312e12, 2039e9, 300e9,
        "312 TFLOPS BF16 dense, 2,039 GB/s, NVLink 300 + 300 GB/s: glennklockwood.com/garden/processors/A100, after "
        "NVIDIA's data sheet nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
    ),
    Device(
        "H100 SXM5", 989.4e12, 3350e9, 450e9,
        "989.4 TFLOPS BF16 dense, 3.35 TB/s, NVLink 900 GB/s both ways: glennklockwood.com/garden/processors/h100, after "
        "NVIDIA's Hopper white paper",
    ),
)  # fmt: skip
# NDR, 400 Gb/s per port: docs.nvidia.com/networking/display/ConnectX7VPI/Introduction
INFINIBAND = 50e9
# From the papers: parameters, and operations of a forward pass if given.
PUBLISHED: dict[str, tuple[int, float | None]] = {
    "imagenet_perceiver": (44_900_000, 707e9),
    "imagenet_perceiver_io": (48_440_627, None),
    "imagenet_conv": (48_646_522, None),
}
# LAMB, float32: reads weight, gradient and two moments, writes weight and two moments.
OPTIMIZER_BYTES = 7 * 4


def ring_all_reduce(gradient_bytes: float, devices: int, bandwidth: float) -> float:
    """Return the seconds of a ring all-reduce: each device sends and receives 2 (n - 1) / n of the bytes over its link."""
    return 2 * (devices - 1) / devices * gradient_bytes / bandwidth


def measure(experiment: str) -> tuple[int, int, int, int]:
    """Return parameters, forward operations per image, images per step and epochs of a recipe."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={experiment}", "run_dir=none", "model.encoder.attention=dense"])
        plain = resolve(config, SPEC)
        model = build_model(plain["model"], spec=SPEC).eval()
        with FakeTensorMode(allow_non_fake_inputs=True):  # shapes without data
            batch = Batch(inputs={"image": torch.empty(1, 3, 224, 224)}, masks={}, target=None, ids=["0"])
            flops = forward_flops(model, batch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, flops, 8 * int(plain["data"]["batch_size"]), int(plain["trainer"]["max_epochs"])


def estimate(experiment: str, *, devices: int, utilisation: float) -> None:
    """Print the arithmetic for a recipe."""
    parameters, flops, images, epochs = measure(experiment)
    gradient = 4 * parameters
    published, published_flops = PUBLISHED.get(experiment, (None, None))
    reference = "" if published is None else f"; published {published / 1e6:.1f} M"
    reference_flops = "" if published_flops is None else f"; published {published_flops / 1e9:.0f} GFLOP"
    step_flops = 3 * flops * images / devices
    steps = TRAINING_IMAGES // images
    print(f"\nESTIMATE, not a measurement: experiment={experiment} on {devices} GPUs")
    print(f"  parameters (counted)                {parameters:,}{reference}")
    print(f"  gradients, float32                  4 x {parameters:,} = {gradient / 1e6:.1f} MB")
    print(f"  forward, one image (counted)        {flops / 1e9:.1f} GFLOP, dense attention{reference_flops}")
    total = f"3 x {flops / 1e9:.1f} GFLOP x {images} / {devices} images = {step_flops / 1e12:.1f} TFLOP"
    print(f"  step, one GPU, forward and backward {total}")
    print(f"  steps of an epoch                   {TRAINING_IMAGES:,} / {images} = {steps:,}")
    for device in DEVICES:
        compute = step_flops / (utilisation * device.peak)
        print(f"  {device.name}  ({device.source})")
        speed = f"({utilisation:.0%} x {device.peak / 1e12:.0f} TFLOP/s)"
        print(f"    compute       {step_flops / 1e12:.1f} TFLOP / {speed} = {1e3 * compute:.0f} ms")
        optimizer = OPTIMIZER_BYTES * parameters / device.memory
        moved = f"{OPTIMIZER_BYTES} bytes x {parameters:,} / {device.memory / 1e9:,.0f} GB/s"
        print(f"    optimizer     {moved} = {1e3 * optimizer:.2f} ms, memory-bound")
        for link, bandwidth in (("NVLink", device.link), ("InfiniBand NDR, one port per GPU", INFINIBAND)):
            seconds = ring_all_reduce(gradient, devices, bandwidth)
            print(
                f"    all-reduce    2 x {devices - 1}/{devices} x {gradient / 1e6:.1f} MB / {bandwidth / 1e9:.0f} GB/s = "
                f"{1e3 * seconds:.2f} ms over {link}: {seconds / compute:.2%} of compute, and it overlaps the backward pass"
            )
        slowest = compute + optimizer + ring_all_reduce(gradient, devices, device.link)
        print(f"    epoch         {steps:,} x {1e3 * slowest:.0f} ms = {steps * slowest / 60:.1f} min, without overlap")
        print(f"    {epochs} epochs    {epochs * steps * slowest / 3600:.1f} h; loading and decoding must keep up with "
              f"{images / slowest:,.0f} images/s")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Estimate the recipes of the published ImageNet models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=["imagenet_perceiver_io", "imagenet_perceiver"])
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of the peak reached: an assumption")
    chosen = parser.parse_args(arguments)
    for experiment in chosen.experiments:
        estimate(experiment, devices=chosen.devices, utilisation=chosen.utilisation)


if __name__ == "__main__":
    main()
