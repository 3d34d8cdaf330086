"""Check the results of sweeps and clusters: small trainings of digits on the CPU through every launcher.

    python benchmarks/launchers.py                      # all launchers, several minutes
    python benchmarks/launchers.py joblib torchrun

joblib: two parallel jobs, with one process each and with two (DDP). submitit: two jobs through submitit's local executor,
and a job that receives SIGUSR2, writes a checkpoint, is restarted and ends like an uninterrupted job. torchrun: two agents,
as on two machines, with a process each. optuna: four trials, two at a time, through joblib. Prints a line for each check;
exits with 1 if any fails. SLURM is mocked in tests/run/test_slurm.py.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = (
    "data=digits", "model.encoder.num_latents=4", "model.encoder.latent_channels=16", "model.encoder.num_self_heads=2",
    "model.encoder.num_blocks=1", "model.encoder.num_cross_attends=1", "model.encoder.num_layers_per_block=1",
    "trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.accelerator=cpu", "logger=csv", "test=false",
    "callbacks.samples=null", "callbacks.attention=null", "callbacks.attention_modalities=null",
)  # fmt: skip
ONE, TWO = ("trainer.devices=1",), ("trainer=ddp", "trainer.devices=2")

failed: list[str] = []


def check(right: bool, what: str, found: object = "") -> None:
    """Print and record the result of a check, with the actual value if it failed."""
    print(f"  {'ok    ' if right else 'WRONG '} {what}{'' if right else f': {found}'}", flush=True)
    if not right:
        failed.append(what)


def command(*overrides: str) -> list[str]:
    """Return the command of a training."""
    return [sys.executable, str(REPOSITORY / "train.py"), *SMALL, *overrides]


def environment() -> dict[str, str]:
    """Return the environment without rank variables, with the package of this clone."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def train(*overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a training to its end, with the repository as the working directory."""
    return subprocess.run(command(*overrides), cwd=REPOSITORY, env=environment(), capture_output=True, text=True)


def left_over(folder: Path) -> list[str]:
    """Return the command lines of processes that contain a folder's name."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and str(os.getpid()) != file.parent.name:
            found.append(line)
    return found


def check_sweep(done: subprocess.CompletedProcess[str], sweep: Path, jobs: int) -> None:
    """Check that each job has a directory with metrics, the best job is recorded, and no process is left."""
    check(done.returncode == 0, "exit status 0", done.stderr.strip()[-800:])
    expected = [sweep / str(job) for job in range(jobs)]
    runs = sorted(file.parent for file in sweep.rglob("metrics.json"))
    check(runs == expected, f"{jobs} run directories, each with metrics.json", runs)
    check(all((run / "checkpoints" / "last.ckpt").is_file() for run in runs), "a checkpoint in each")
    values = [json.loads((run / "metrics.json").read_text()).get("val/loss") for run in runs]
    check(len(set(values)) == jobs, "each job trained with different settings", values)
    best = json.loads((sweep / "best.json").read_text()) if (sweep / "best.json").exists() else {}
    reported = [json.loads((run / "job.json").read_text())["value"] for run in runs if (run / "job.json").exists()]
    check(bool(reported) and best.get("value") == max(reported), "best.json has the best value", (best, reported))
    check("python" in best.get("command", "") and "train.py" in best.get("command", ""), "best.json has its command line")
    check(not (left := left_over(sweep)), "no process is left", left)


def joblib(folder: Path) -> None:
    """Run parallel jobs on this machine."""
    for name, devices in (("one process each", ONE), ("two processes each", TWO)):
        print(f"joblib, two jobs at a time, {name}")
        sweep = folder / f"joblib{len(devices)}"
        check_sweep(train("cluster=joblib", *devices, "seed=0,1", f"hydra.sweep.dir={sweep}"), sweep, 2)


def optuna(folder: Path) -> None:
    """Run a search through joblib."""
    print("optuna, four trials, two at a time")
    sweep = folder / "optuna"
    done = train("hparams_search=optuna", "cluster=joblib", "hydra.sweeper.n_trials=4", *ONE, f"hydra.sweep.dir={sweep}")
    check_sweep(done, sweep, 4)


def submitit(folder: Path) -> None:
    """Run jobs through submitit's local executor, which pickles them for separate processes and restarts them."""
    local = ("hydra.mode=MULTIRUN", "hydra/launcher=submitit_local", "ckpt_path=auto")
    for name, devices in (("one process each", ONE), ("two processes each", TWO)):
        print(f"submitit's local executor, two jobs, {name}")
        sweep = folder / f"submitit{len(devices)}"
        check_sweep(train(*local, *devices, "seed=0,1", f"hydra.sweep.dir={sweep}"), sweep, 2)

    print("submitit's local executor, a job that receives SIGUSR2 after some epochs")
    long = (*ONE, "trainer.max_epochs=60", "callbacks.last.every_n_epochs=60", "seed=0")
    alone = folder / "alone"
    check(train(*long, f"hydra.run.dir={alone}").returncode == 0, "the same job without interruption")
    sweep = folder / "interrupted"
    job = subprocess.Popen(
        command(*local, *long, f"hydra.sweep.dir={sweep}"), cwd=REPOSITORY, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(lambda: (sweep / "0" / "checkpoints" / "best.ckpt").exists(), job)
    for process in tasks_of(sweep):
        os.kill(process, signal.SIGUSR2)
    output, _ = job.communicate()
    check(job.returncode == 0, "exit status 0", output[-800:])
    log = "\n".join(file.read_text() for file in (sweep / ".submitit").rglob("*_log.*"))
    check("stopped by SIGUSR2" in log and "Requeued job" in log, "it stopped with a checkpoint and was restarted")
    differences = compare(alone, sweep / "0")
    check(differences == [], "weights, optimizer, metrics and table equal those of the uninterrupted job", differences)


def tasks_of(sweep: Path) -> list[int]:
    """Return the ids of processes in which submitit runs jobs of a sweep."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "submitit.core._submit" in line and str(sweep) in line:
            found.append(int(file.parent.name))
    return found


def torchrun(folder: Path) -> None:
    """Run two agents that rendezvous at a port of this machine."""
    print("torchrun, two agents with a process each, as on two machines")
    run = folder / "torchrun"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=benchmark", str(REPOSITORY / "train.py"),
    ]  # fmt: skip
    overrides = ("trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", f"hydra.run.dir={run}")
    agents = [
        subprocess.Popen(
            [*launcher, *SMALL, *overrides], cwd=REPOSITORY, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [agent.communicate()[0] for agent in agents]
    check([agent.returncode for agent in agents] == [0, 0], "exit status 0 for both", outputs[0][-800:])
    check([file.parent for file in folder.glob("torchrun*/metrics.json")] == [run], "one run directory")
    check(sum(output.count("Run directory") for output in outputs) == 1, "only one process reports")
    check("2 processes of 32" in "".join(outputs), "they train together")
    check(not (left := left_over(run)), "no process is left", left)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.05)


def compare(one: Path, other: Path) -> list[str]:
    """Compare two runs with `kills.compare` in a separate process, because it imports torch."""
    code = "import sys; from kills import compare, Path; print(*compare(*map(Path, sys.argv[1:])), sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(one), str(other)], cwd=REPOSITORY / "benchmarks", env=environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    return [done.stderr[-500:]] if done.returncode else [name for name in done.stdout.strip().split("|") if name]


LAUNCHERS = {"joblib": joblib, "submitit": submitit, "torchrun": torchrun, "optuna": optuna}


def main() -> int:
    """Run the requested launchers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("launchers", nargs="*", help=f"any of {', '.join(LAUNCHERS)}; default: all")
    parser.add_argument("--directory", type=Path, default=None)
    settings = parser.parse_args()
    if unknown := set(settings.launchers) - set(LAUNCHERS):
        parser.error(f"launchers: expected some of {', '.join(LAUNCHERS)}, got {', '.join(sorted(unknown))}")
    folder = settings.directory or Path(tempfile.mkdtemp(prefix="launchers_"))
    for name in settings.launchers or LAUNCHERS:
        LAUNCHERS[name](folder)
    print(f"{len(failed)} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
