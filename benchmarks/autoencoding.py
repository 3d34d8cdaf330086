"""PSNR of a multimodal autoencoder against baselines: silence and black, the mean clip, and PCA.

    python benchmarks/autoencoding.py RUN_DIR --values 256 512 1024 --split val

RUN_DIR is a run of experiment=dialed_digits. PCA gets video and sound together, both standardised, and keeps the
given number of values per clip. The strictest comparison keeps latents times channels of the model, since PCA is the best
linear autoencoder in mean squared error. It is fitted on clips of the training split, drawn as in training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from perceiver.run.assembly.data import make_data


def clips(loader: Any, *, at_least: int = 0) -> dict[str, Any]:
    """Return flat, normalised video and sound, `(clips, values)` each, from as many epochs of the loader as needed."""
    found: dict[str, list[Any]] = {"audio": [], "video": []}
    count = 0
    while count == 0 or count < at_least:
        for batch in loader:
            for name, pieces in found.items():
                pieces.append(batch.inputs[name].flatten(1).numpy())
            count += batch.size
    return {name: np.concatenate(pieces) for name, pieces in found.items()}


def psnr(predicted: Any, true: Any, *, std: float) -> float:
    """Return the mean PSNR over clips in decibels, with peak 1, as `MultimodalAutoencodingTask` computes it."""
    error = np.square((predicted - true) * std).mean(axis=1)
    return float((-10 * np.log10(np.maximum(error, 1e-10))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--values", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--training-clips", type=int, default=10000)
    given = parser.parse_args()
    config: Any = OmegaConf.to_container(OmegaConf.load(given.run / "config.yaml"))
    data = make_data(config["data"])
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
    # All components at once, because scikit-learn would repeat the decomposition for every number of components.
    _, axes = np.linalg.eigh(np.cov(together, rowvar=False))
    edge = true["audio"].shape[1]
    for count in given.values:
        kept = axes[:, ::-1][:, :count]
        predicted = (wanted - middle) @ kept @ kept.T + middle
        rows.append((f"PCA, {count} values", {"audio": predicted[:, :edge], "video": predicted[:, edge:]}))
    file = given.run / "metrics.json"
    metrics = json.loads(file.read_text()) if file.exists() else {}
    encoder = config["model"]["encoder"]
    bottleneck = encoder["num_latents"] * encoder["latent_channels"]
    print(f"{given.split}: {len(wanted)} clips of {wanted.shape[1]} values; {len(together)} training clips for PCA")
    print(f"{'':40} {'video dB':>9} {'audio dB':>9}")
    for name, predictions in rows:
        scores = {key: psnr(predictions[key], true[key], std=facts[key]["std"][0]) for key in true}
        print(f"{name:40} {scores['video']:9.2f} {scores['audio']:9.2f}")
    if f"{given.split}/psnr/video" in metrics:
        label = f"{encoder['num_latents']} x {encoder['latent_channels']} = {bottleneck} values of latents"
        reached = {key: metrics[f"{given.split}/psnr/{key}"] for key in true}
        accuracy = metrics.get(f"{given.split}/accuracy", float("nan"))
        print(f"{label:40} {reached['video']:9.2f} {reached['audio']:9.2f}   label {accuracy:.2%}")


if __name__ == "__main__":
    main()
