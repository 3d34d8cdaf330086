"""Which explanation is faithful: deletion curves of attention rollout, integrated gradients and a random order.

    python benchmarks/deletion.py RUN [RUN …] [--samples 100] [--steps 32] [--threads 1]

For correctly classified samples of the test split, the tokens that an explanation ranks highest are masked, in steps, and
the probability of the class is averaged. Prints the curves and the areas under them, with the standard error over the
samples; the smaller the area, the more faithful the explanation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import announce, machine
from omegaconf import OmegaConf

import perceiver
from perceiver import checkpoints
from perceiver.inspection import attention_rollout, deletion_curve
from perceiver.inspection.deletion import SHARES
from perceiver.inspection.gradients import integrated_gradients
from perceiver.run.assembly.data import make_data


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    announce(machine())
    for run in options.runs:
        _measure(run, options)


def _measure(run: Path, options: argparse.Namespace) -> None:
    recipe, model = checkpoints.read(run), perceiver.load(run)
    data: Any = make_data(OmegaConf.create(recipe.config["data"]))
    data.prepare_data()
    data.spec = recipe.spec
    data.setup("test")
    generator = torch.Generator().manual_seed(0)
    curves: dict[str, list[list[float]]] = {"rollout": [], "integrated gradients": [], "random": []}
    seconds = dict.fromkeys(curves, 0.0)
    for batch in data.test_dataloader():
        for row in range(batch.size):
            one = batch.rows(slice(row, row + 1))
            with torch.no_grad():
                tokens = model.tokens(one.inputs, one.masks)
                predicted = int(model.from_tokens(tokens)[0].argmax())
            if predicted != int(one.target[0]) or len(curves["random"]) == options.samples:
                continue
            for name in curves:
                start = time.perf_counter()
                if name == "rollout":
                    found = {key: value.mean(dim=1) for key, value in attention_rollout(model, tokens).items()}
                elif name == "random":
                    found = {key: torch.rand(1, *block.grid, generator=generator) for key, block in tokens.items()}
                else:
                    found = integrated_gradients(model, tokens, output=predicted, steps=options.steps)
                seconds[name] += time.perf_counter() - start
                curves[name].append(deletion_curve(model, tokens, found, output=predicted))
    print(f"{run}: probability of the class after removing {', '.join(f'{share:.0%}' for share in SHARES)} of the tokens")
    for name, own in curves.items():
        values = np.array(own)
        areas = np.trapezoid(values, SHARES, axis=1) / (SHARES[-1] - SHARES[0])
        shown = " ".join(f"{value:.2f}" for value in values.mean(axis=0))
        error = areas.std() / np.sqrt(len(areas))
        milliseconds = 1000 * seconds[name] / len(own)
        print(f"  {name:21} {shown}  area {areas.mean():.3f} ± {error:.3f}, {milliseconds:.1f} ms a sample")


if __name__ == "__main__":
    main()
