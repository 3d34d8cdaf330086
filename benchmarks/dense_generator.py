"""An interface against a dense diffusion transformer of equal size, trained for equal processor time on the same recipe.

    python benchmarks/dense_generator.py --minutes 30 --directory OUT [--distance MODULE:FUNCTION] experiment=NAME [OVERRIDE]

The dense model attends from all patches to all patches (DiT: Peebles and Xie 2022, arXiv:2212.09748), with the time by
adaptive layer norms and the conditions by cross-attention. `--channels` and `--layers` set its size: choose them so that the
number of parameters is about that of the interface. Each model trains in a process of its own; a short pilot measures how
many steps the processor time allows, so that the learning rate is annealed to its end.

Prints parameters, steps, processor seconds, peak resident memory of training, validation loss, and the seconds to generate
`--samples` images for conditions of the validation split, which are saved as `samples.pt` in the run directory.
`--distance` names a function of samples and real images, both `(B, C, H, W)` in [0, 1], that returns a number, such as a
Frechet distance.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn

import perceiver
from perceiver import Fourier, Tokens
from perceiver.attention import CrossAttention
from perceiver.attention.projection import lecun_linear, merge_heads, split_heads
from perceiver.encoders.interface import Interface, Interfaced
from perceiver.generation.flow import generate
from perceiver.run.assembly.data import make_data
from perceiver.run.configuration.literal import released

CONTENDERS = ("interface", "dense")


class DenseTransformer(Interface):
    """A diffusion transformer in the place of an `Interface`: every token of the state attends to all of them.

    `Perceiver` and `generate` take it for an interface, of which it has nothing but the class.

    Args:
        token_channels: C of the fused tokens.
        channels: width d.
        num_layers: layers of self-attention, cross-attention to the conditions, and feed-forward.
        num_heads: attention heads.
        widening: hidden channels of the feed-forward layer per channel.
        time_bands: frequencies of the Fourier features of time.
    """

    def __init__(
        self,
        *,
        token_channels: int,
        channels: int = 128,
        num_layers: int = 6,
        num_heads: int = 4,
        widening: int = 4,
        time_bands: int = 8,
    ) -> None:
        nn.Module.__init__(self)
        self.token_channels = token_channels
        self.state_channels = self.latent_channels = channels
        self.num_latents = self.num_blocks = 1
        self.previous = None
        self.time = Fourier(num_bands=time_bands, resolution=(4 * time_bands,))
        self.embed = lecun_linear(token_channels, channels)
        self.embed_time = nn.Sequential(
            lecun_linear(self.time.channels, channels), nn.SiLU(), lecun_linear(channels, channels), nn.SiLU()
        )
        self.layers = nn.ModuleList(
            _Layer(token_channels=token_channels, channels=channels, num_heads=num_heads, widening=widening)
            for _ in range(num_layers)
        )

    def forward(
        self,
        tokens: Sequence[Tokens],
        reads: Any = None,
        *,
        state: int,
        time: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Interfaced:
        """See `Interface.forward`."""
        own = tokens[state]
        others = [block for place, block in enumerate(tokens) if place != state]
        if not others:
            # One masked token, so that all weights get gradients.
            nothing = torch.zeros(1, 1, self.token_channels, device=own.device)
            others = [Tokens(parts=(nothing,), mask=torch.zeros(1, 1, dtype=torch.bool, device=own.device))]
        time = torch.ones(1, device=own.device) if time is None else time
        (features,) = self.time(((2 * time.float() - 1)[:, None],))
        modulation = self.embed_time(features)
        x: Tensor = self.embed(own.dense())
        mask = own.dense_mask()
        for layer in self.layers:
            x = layer(x, modulation, others, None if mask is None else mask[:, None, None])
        return Interfaced(state=x.unflatten(1, own.grid), latents=x.mean(dim=1, keepdim=True))

    def latent_layers(self) -> list[nn.Module]:
        """Return nothing: there are no latents."""
        return []

    def explain_attention(self, tokens: Sequence[Tokens]) -> str:
        """Describe attention for the summary of a run."""
        return f"dense, of {max(block.num_tokens for block in tokens)} tokens to each other"


class _Layer(nn.Module):
    def __init__(self, *, token_channels: int, channels: int, num_heads: int, widening: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.qkv = lecun_linear(channels, 3 * channels)
        self.output = lecun_linear(channels, channels)
        self.cross = CrossAttention(
            query_channels=channels,
            token_channels=token_channels,
            num_heads=num_heads,
            qk_channels=channels,
            attention="dense",
        )
        self.expand = lecun_linear(channels, widening * channels)
        self.contract = lecun_linear(widening * channels, channels)
        # Shift, scale and gate of attention and feed-forward; gates start at zero (adaLN-Zero).
        self.modulate = nn.Linear(channels, 6 * channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, modulation: Tensor, others: Sequence[Tokens], mask: Tensor | None) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulate(modulation)[:, None].chunk(6, dim=-1)
        normed = self.norm(x) * (1 + scale) + shift
        query, key, value = (split_heads(part, self.num_heads) for part in self.qkv(normed).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + gate * self.output(merge_heads(attended))
        x = x + self.cross(x, others)
        hidden = F.gelu(self.expand(self.norm(x) * (1 + scale2) + shift2))
        out: Tensor = x + gate2 * self.contract(hidden)
        return out


class Processor(Callback):
    """Write the processor time of the training steps, without the first ones, to a file."""

    def __init__(self, *, file: str) -> None:
        self.file = file
        self.started = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start after three steps."""
        if trainer.global_step == 3:
            self.started = time.process_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write seconds and steps."""
        found = {"seconds": time.process_time() - self.started, "steps": trainer.global_step - 3}
        Path(self.file).write_text(json.dumps(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, generate and print, one contender after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time for each")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--only", choices=CONTENDERS)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--pilot", type=int, default=20, help="steps of the pilot")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--distance")
    options, overrides = parser.parse_known_args(arguments)
    if options.only is None:
        for name in CONTENDERS:
            again = sys.argv[1:] if arguments is None else list(arguments)
            subprocess.run([sys.executable, __file__, "--only", name, *again], check=True)
        return
    torch.set_num_threads(1)
    compete(options, overrides)


def compete(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train one contender for its processor time, generate samples, and print a line."""
    size = f"channels: {options.channels}, num_layers: {options.layers}"
    encoder = [] if options.only == "interface" else ["~model.encoder", f"+model.encoder={{_target_: {_PATH}, {size}}}"]
    common = [
        *encoder, *overrides, "trust=[dense_generator]", "callbacks.figures=null", "callbacks.report=null",
        "callbacks.attention_by_modality=null", "logger=csv", "test=false", "trainer.max_epochs=100000",
    ]  # fmt: skip
    pilot, run = options.directory / f"{options.only}_pilot", options.directory / options.only
    for directory, steps in ((pilot, options.pilot + 3), (run, None)):
        if steps is None:
            measured = json.loads((pilot / "processor.json").read_text())
            steps = max(1, round(60 * options.minutes * measured["steps"] / measured["seconds"]))
        directory.mkdir(parents=True, exist_ok=True)
        limit = f"+callbacks.processor={{_target_: dense_generator.Processor, file: '{directory / 'processor.json'}'}}"
        _train([*common, limit, f"+trainer.max_steps={steps}", f"hydra.run.dir={directory}"])
    model = perceiver.load(run, trust=["dense_generator"])
    real, samples, seconds = _generated(run, model, options)
    torch.save({"samples": samples, "real": real}, run / "samples.pt")
    found = {
        "model": options.only,
        "parameters": sum(one.numel() for one in model.parameters()),
        **json.loads((run / "processor.json").read_text()),
        "peak_megabytes": round(_peak_megabytes()),
        "validation_loss": json.loads((run / "metrics.json").read_text()).get("val/loss"),
        "generation_seconds": round(seconds, 2),
    }
    if options.distance:
        module, _, function = options.distance.partition(":")
        found["distance"] = float(getattr(importlib.import_module(module), function)(samples, real))
    print(json.dumps(found), flush=True)


def _train(arguments: Sequence[str]) -> None:
    from perceiver.run.main import main as train

    with mock.patch("sys.argv", ["train.py", *arguments]):
        try:
            train()
        except SystemExit as error:
            if error.code:
                raise


def _generated(run: Path, model: Any, options: argparse.Namespace) -> tuple[Tensor, Tensor, float]:
    """Return validation images, as many samples for their conditions, both in [0, 1], and the seconds of generation."""
    from omegaconf import OmegaConf

    stored = OmegaConf.load(run / "config.yaml")
    data = make_data(stored.data)
    data.setup("fit")
    modality, label = stored.task.modality, released(stored.task.get("label"))
    real, made, seconds = [], [], 0.0
    generator = torch.Generator().manual_seed(0)
    for batch in data.val_dataloader():
        conditions = {
            name: (x, batch.masks[name]) if name in batch.masks else x
            for name, x in batch.inputs.items()
            if name != modality and name in model.adapters
        }
        if label is not None:
            conditions[label] = F.one_hot(batch.target, model.adapters[label].channels).float()
        start = time.process_time()
        made.append(
            generate(
                model,
                conditions,
                shape_of=batch.inputs[modality],
                num_samples=batch.size,
                guidance=options.guidance,
                generator=generator,
            )
        )
        seconds += time.process_time() - start
        real.append(batch.inputs[modality])
        if sum(map(len, real)) >= options.samples:
            break
    spec = model.spec["modalities"][modality]
    mean, std = (torch.tensor(spec[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    images = [(torch.cat(one)[: options.samples] * std + mean).clamp(0, 1) for one in (real, made)]
    return images[0], images[1], seconds


def _peak_megabytes() -> float:
    """Return the high-water mark of this process, which trained one model."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 2**10 if found else float("nan")


_PATH = "dense_generator.DenseTransformer"

if __name__ == "__main__":
    main()
