"""Prediction over a large table: rows per second, growth of memory, and kills.

    python benchmarks/batch_inference.py [--rows 200000] [--processes 1 2] [--kills 3] [--mode predict]

Writes a synthetic Parquet table of eight numbers per row, trains a tiny model on a few thousand rows, and runs train.py with
`mode=predict` (or `embed`) over it in parts: with one and two processes, and as a job that is killed (SIGKILL to all its
processes) at random moments and started again. Prints the rate over the whole command, start of Python included; the memory
of all processes (anonymous and shared pages, not files) when a tenth of the parts is complete, and its peak after that; and
whether the rows are those of the table, each once and in order, with the same numbers in all tables. Exits with 1 if not.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[1]
COLUMNS = [f"x{number}" for number in range(8)]
MODALITIES = f"{{row: {{kind: table, columns: [{', '.join(COLUMNS)}]}}}}"
TINY = (
    "experiment=manifest", "model.encoder.num_latents=4", "model.encoder.latent_channels=16",
    "model.encoder.num_self_heads=2", "model.encoder.num_blocks=1", "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1", "trainer.max_epochs=1", "trainer.limit_train_batches=50", "test=false",
    "callbacks.report=null", "callbacks.figures=null", "logger=none",
)  # fmt: skip
CPU = ("trainer.accelerator=cpu", "data.num_workers=0", "data.batch_size=256")
FILES = {"predict": "predictions.parquet", "embed": "embeddings.parquet"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows-per-part", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--mode", choices=list(FILES), default="predict")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = make_table(folder / "rows.parquet", rows=options.rows)
        make_table(folder / "training.parquet", rows=4000)
        data = f"data.modalities={MODALITIES}"
        command(*TINY, *CPU, f"data.manifest={folder / 'training.parquet'}", data, f"hydra.run.dir={folder / 'run'}")
        predict = [
            f"mode={options.mode}", f"ckpt_path={folder / 'run'}", f"data.manifest={table}", *CPU,
            f"rows_per_part={options.rows_per_part}",
        ]  # fmt: skip
        wrong = []
        reference = None
        for processes in options.processes:
            to = folder / f"{processes}"
            devices = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else ["trainer=single"]
            seconds, early, peak = measured([*predict, *devices, f"hydra.run.dir={to}"], to / FILES[options.mode])
            print(
                f"{processes} process(es): {options.rows:,} rows in {seconds:.1f} s, {options.rows / seconds:,.0f} rows/s; "
                f"memory {early:.0f} MiB after a tenth, peak {peak:.0f} MiB",
                flush=True,
            )
            found = pq.read_table(to / FILES[options.mode])
            reference = found if reference is None else reference
            wrong += [f"{processes} processes: {problem}" for problem in differences(found, reference, rows=options.rows)]
        if options.kills:
            to = folder / "killed"
            devices = ["trainer=ddp", "trainer.devices=2", f"hydra.run.dir={to}"]
            moments = killed([*predict, *devices], to / FILES[options.mode], times=options.kills, seed=options.seed)
            print(f"killed with {moments} parts complete, then continued to the end", flush=True)
            found = pq.read_table(to / FILES[options.mode])
            wrong += [f"killed: {problem}" for problem in differences(found, reference or found, rows=options.rows)]
        print("\n".join(wrong) or "every row once, in order, with the same numbers")
    sys.exit(1 if wrong else 0)


def make_table(path: Path, *, rows: int) -> Path:
    """Write a table of `rows` rows, in groups of 10,000."""
    generator = np.random.default_rng(0)
    schema = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in COLUMNS), ("label", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, 10_000):
            count = min(10_000, rows - first)
            x = generator.normal(size=(count, len(COLUMNS))).astype(np.float32)
            columns = {name: x[:, number] for number, name in enumerate(COLUMNS)}
            labels = np.where(x[:, 0] > x[:, 1], "a", "b")
            ids = [f"row-{number}" for number in range(first, first + count)]
            writer.write_table(pa.table({"id": ids, **columns, "label": labels}, schema=schema))
    return path


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start train.py in a new process group."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )


def command(*arguments: str) -> None:
    """Run train.py to the end."""
    process = start(arguments)
    if process.wait():
        raise RuntimeError(f"train.py {' '.join(arguments)} exited with {process.returncode}")


def measured(arguments: Sequence[str], parts: Path) -> tuple[float, float, float]:
    """Return seconds, and memory in MiB when a tenth of the parts is complete and at most after that."""
    began = time.monotonic()
    process = start(arguments)
    early = peak = 0.0
    while process.poll() is None:
        time.sleep(0.5)
        done, total = complete(parts)
        if total and 10 * done >= total:
            memory = memory_of(process.pid)
            early = early or memory
            peak = max(peak, memory)
    if process.returncode:
        raise RuntimeError(f"train.py {' '.join(arguments)} exited with {process.returncode}")
    return time.monotonic() - began, early, peak


def killed(arguments: Sequence[str], parts: Path, *, times: int, seed: int) -> list[int]:
    """Kill a job at random moments after its first new part, then let it end; return the parts complete at each kill."""
    draw = random.Random(seed)
    moments = []
    for _ in range(times):
        before = complete(parts)[0]
        process = start(arguments)
        while process.poll() is None and complete(parts)[0] <= before:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 1.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        moments.append(complete(parts)[0])
    command(*arguments)
    return moments


def complete(parts: Path) -> tuple[int, int]:
    """Return the number of complete parts, and that of all."""
    names = [file.name for file in parts.glob("part-*.parquet")]
    return len(names), int(names[0][14:19]) if names else 0


def memory_of(root: int) -> float:
    """Return the memory of a process group in MiB without files, shared pages divided among the processes."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == root:
                found = re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", (entry / "smaps_rollup").read_text(), flags=re.MULTILINE)
                total += sum(map(int, found))
        except OSError:
            continue
    return total / 1024


def differences(table: pa.Table, reference: pa.Table, *, rows: int) -> list[str]:
    """Return how a table differs from all rows in order, and from another table."""
    found = []
    if table["id"].to_pylist() != [f"row-{number}" for number in range(rows)]:
        found.append("its ids are not those of the rows, each once and in order")
    for name in table.column_names[1:]:
        column, other = table[name].combine_chunks(), reference[name].combine_chunks()
        if not column.equals(other):
            found.append(f"its column {name} has other values")
    return found


if __name__ == "__main__":
    main()
