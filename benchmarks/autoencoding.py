"""What a multimodal autoencoder's PSNR is worth: the same data by its mean, by silence and black, and by PCA.

    python benchmarks/autoencoding.py RUN_DIR --values 256 512 1024 --split val

RUN_DIR is a run of experiment=dialed_digits. PCA sees video and sound together, both in standard deviations, and keeps as
many numbers of a clip as are given; as many as the model has latents times channels is the strictest comparison: PCA is the
best linear autoencoder in mean squared error. It is fitted on clips of the training split, drawn anew as in training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf


def clips(loader: Any, *, at_least: int = 0) -> dict[str, Any]:
    """Flat video and sound, normalised, `(clips, values)` each; the loader's epochs until there are enough."""
    found: dict[str, list[Any]] = {"audio": [], "video": []}
    count = 0
    while count == 0 or count < at_least:
        for batch in loader:
            for name, own in found.items():
                own.append(batch.inputs[name].flatten(1).numpy())
            count += batch.size
    return {name: np.concatenate(own) for name, own in found.items()}


def psnr(said: Any, true: Any, *, std: float) -> float:
    """As `MultimodalAutoencodingTask` has it, peak 1: the mean over clips, in decibels."""
    error = np.square((said - true) * std).mean(axis=1)
    return float((-10 * np.log10(np.maximum(error, 1e-10))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--values", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--training-clips", type=int, default=10000)
    given = parser.parse_args()
    config: Any = OmegaConf.to_container(OmegaConf.load(given.run / "config.yaml"))
    data = instantiate(config["data"], _convert_="all")
    data.spec = config["spec"]
    data.setup("fit")
    data.setup("test")
    facts = config["spec"]["modalities"]
    training = clips(data.train_dataloader(), at_least=given.training_clips)
    true = clips(data.val_dataloader() if given.split == "val" else data.test_dataloader())
    silence = {name: -facts[name]["mean"][0] / facts[name]["std"][0] for name in true}
    mean = {name: np.broadcast_to(x.mean(axis=0), true[name].shape) for name, x in training.items()}
    rows = [
        ("silence, black", {name: np.full_like(x, silence[name]) for name, x in true.items()}),
        ("mean of the training clips", mean),
    ]
    together, wanted = (np.concatenate([x["audio"], x["video"]], axis=1).astype(np.float64) for x in (training, true))
    middle = together.mean(axis=0)
    # All components at once: scikit-learn would decompose anew for every number of them.
    _, axes = np.linalg.eigh(np.cov(together, rowvar=False))
    edge = true["audio"].shape[1]
    for count in given.values:
        kept = axes[:, ::-1][:, :count]
        said = (wanted - middle) @ kept @ kept.T + middle
        rows.append((f"PCA, {count} values", {"audio": said[:, :edge], "video": said[:, edge:]}))
    file = given.run / "metrics.json"
    metrics = json.loads(file.read_text()) if file.exists() else {}
    encoder = config["model"]["encoder"]
    bottleneck = encoder["num_latents"] * encoder["latent_channels"]
    print(f"{given.split}: {len(wanted)} clips of {wanted.shape[1]} values; {len(together)} training clips for PCA")
    print(f"{'':40} {'video dB':>9} {'audio dB':>9}")
    for name, said in rows:
        scores = {key: psnr(said[key], true[key], std=facts[key]["std"][0]) for key in true}
        print(f"{name:40} {scores['video']:9.2f} {scores['audio']:9.2f}")
    if f"{given.split}/psnr/video" in metrics:
        label = f"{encoder['num_latents']} x {encoder['latent_channels']} = {bottleneck} values of latents"
        own = {key: metrics[f"{given.split}/psnr/{key}"] for key in true}
        accuracy = metrics.get(f"{given.split}/accuracy", float("nan"))
        print(f"{label:40} {own['video']:9.2f} {own['audio']:9.2f}   label {accuracy:.2%}")


if __name__ == "__main__":
    main()
