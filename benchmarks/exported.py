"""Exported models against the model itself: latency of a sample, agreement on the test split, loss of accuracy in int8.

    python benchmarks/exported.py RUN [RUN …] [--samples 100] [--repetitions 20] [--threads 1]

Each run directory is exported to a temporary folder as ONNX, in float32 and in int8. Latency is that of one prepared sample,
in turn for `model.target_outputs`, in evaluation mode without gradients, and for `ExportedModel.run`; medians over the
repetitions, each a pass over the same samples, and the median of the ratios. Then both predict the whole test split of the
run's data. Last, a fresh process imports `perceiver.exported`, loads the file and computes the outputs of a sample.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import announce, machine
from omegaconf import OmegaConf

import perceiver
from perceiver import checkpoints
from perceiver.exported import ExportedModel, load
from perceiver.run.assembly.data import make_data
from perceiver.samples.batch import Batch

FIRST = """
import time; start = time.perf_counter()
import sys, numpy, perceiver.exported
model = perceiver.exported.load(sys.argv[1], threads=int(sys.argv[2]))
model.run(dict(numpy.load(sys.argv[3])))
print(time.perf_counter() - start)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    announce(machine())
    for run in options.runs:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            _measure(run, Path(folder), options)


def _measure(run: Path, folder: Path, options: argparse.Namespace) -> None:
    recipe = checkpoints.read(run)
    model = perceiver.load(run)
    data: Any = make_data(OmegaConf.create(recipe.config["data"]))
    data.prepare_data()
    data.spec = recipe.spec
    data.setup("test")
    batches = list(data.test_dataloader())
    graphs = {
        "float32": load(perceiver.export(model, folder / "model.onnx"), threads=options.threads),
        "int8": load(perceiver.export(model, folder / "int8.onnx", int8=True), threads=options.threads),
    }
    print(f"{run}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")

    samples = [batch.rows(slice(row, row + 1)) for batch in batches for row in range(batch.size)][: options.samples]
    times: dict[str, list[float]] = {"model": [], **{name: [] for name in graphs}}
    for _ in range(options.repetitions + 1):
        times["model"].append(_seconds(lambda: [model.target_outputs(one.inputs, one.masks) for one in samples]))
        for name, graph in graphs.items():
            prepared = [_arrays(one, graph) for one in samples]
            times[name].append(_seconds(lambda graph=graph, prepared=prepared: [graph.run(one) for one in prepared]))
    for name, taken in times.items():
        ratio = statistics.median(own / base for own, base in zip(taken[1:], times["model"][1:], strict=True))
        milliseconds = [1000 * seconds / len(samples) for seconds in taken[1:]]
        spread = f"{min(milliseconds):.2f} to {max(milliseconds):.2f}"
        print(f"  {name:8} {statistics.median(milliseconds):.2f} ms a sample ({spread}), {ratio:.2f} x the model's")

    truth = np.concatenate([batch.target.numpy() for batch in batches])
    outputs = {"model": np.concatenate([model.target_outputs(batch.inputs, batch.masks).numpy() for batch in batches])}
    for name, graph in graphs.items():
        outputs[name] = np.concatenate([graph.run(_arrays(batch, graph))["output"] for batch in batches])
    for name, found in outputs.items():
        same = float((found.argmax(axis=1) == outputs["model"].argmax(axis=1)).mean())
        accuracy = float((found.argmax(axis=1) == truth).mean())
        largest = float(np.abs(found - outputs["model"]).max())
        print(f"  {name:8} accuracy {accuracy:.2%}, same class {same:.2%} of {len(truth)}, outputs within {largest:.1e}")
    for name, graph in graphs.items():
        print(f"  {name:8} {graph.path.stat().st_size / 2**20:.2f} MiB")
    np.savez(folder / "sample.npz", **_arrays(samples[0], graphs["float32"]))  # type: ignore[arg-type]
    command = [sys.executable, "-c", FIRST, str(folder / "model.onnx"), str(options.threads), str(folder / "sample.npz")]
    first = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    print(f"  import to first outputs: {statistics.median(first):.2f} s ({min(first):.2f} to {max(first):.2f})")


def _arrays(batch: Batch, graph: ExportedModel) -> dict[str, np.ndarray]:
    """The inputs of a batch by the names of the exported file."""
    arrays: dict[str, np.ndarray] = {}
    for name, x in batch.inputs.items():
        if isinstance(x, Mapping):
            arrays |= {f"{name}.{part}": one.numpy() for part, one in x.items()}
        else:
            arrays[name] = x.numpy()
    for name, mask in batch.masks.items():
        arrays[f"{name}.mask"] = mask.numpy()
    return {name: x for name, x in arrays.items() if name in graph.inputs}


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
