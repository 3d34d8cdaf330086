"""The processes of a job: starting the other ranks of this machine, watching them, and cleaning up after them.

Lightning starts the other ranks with the command line of this process. Under Hydra's multirun that is the command line of
the whole sweep, so they would replay the sweep. The variables it sets in the environment would also keep the next job from
starting its ranks. Here the ranks get the command line of this single job, with its run directory, and the environment is
restored afterwards. If another program started the ranks (torchrun, SLURM), it also watches them, and this module does
nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import DictConfig

from perceiver.run.configuration.command_line import rank_command
from perceiver.run.exceptions import FULL_ERROR, RankDiedError
from perceiver.run.processes.lost_rank import explained, is_stopped

VARIABLES = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that Lightning sets for the processes of a job."""

PARENT = "PERCEIVER_PARENT"
"""Environment variable with the id of the process that started this process; not set in the first."""

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0

# One job at a time runs in a process.
_launchers: list[RankLauncher] = []


@contextmanager
def ranks_of_one_job() -> Iterator[None]:
    """Context for a job. On exit, the ranks that it started are stopped and the environment is restored.

    Raises:
        RankDiedError: another rank died; replaces the resulting error in this process.
        LostRankError: another rank hangs, or is gone and was not started by this process.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    parent = os.environ.get(PARENT)
    if parent is not None:
        _StopWithParent(int(parent)).start()
    try:
        yield
    except BaseException as error:
        lost = explained(error, hanging=[state for launcher in _launchers for state in launcher.states()])
        for launcher in _launchers:
            # Communication with a dead rank fails before its death is noticed.
            died = launcher.first_dead(wait=2.0 if isinstance(error, RuntimeError) else 0.0)
            launcher.stop()
            if died is not None and not isinstance(error, KeyboardInterrupt):
                raise RankDiedError(died) from error
        if lost is None:
            raise
        if parent is not None and is_stopped(int(parent)):
            # A stopped parent cannot end by itself. It is killed at exit, after this process has reported the cause.
            atexit.register(os.kill, int(parent), signal.SIGKILL)
        raise lost from error
    finally:
        for launcher in _launchers:
            launcher.finish()
        if _launchers:
            _leave_process_group()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        _launchers.clear()


def start_ranks_by_job(trainer: Trainer, directory: Path) -> None:
    """Let a trainer start its other ranks through `RankLauncher`, if it starts any.

    Args:
        trainer: trainer before its first run.
        directory: the run directory shared by all ranks.

    Raises:
        ValueError: several machines are configured without an address at which they meet.
    """
    strategy = trainer.strategy
    if isinstance(strategy.launcher, _SubprocessScriptLauncher) and HydraConfig.initialized():
        _require_other_machines(strategy.launcher)
        launcher = RankLauncher(
            environment=strategy.launcher.cluster_environment,
            num_processes=strategy.launcher.num_processes,
            num_nodes=strategy.launcher.num_nodes,
            command=rank_command(cast(DictConfig, HydraConfig.get()), directory),
        )
        strategy._launcher = launcher


class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks of this machine with a given command line, and stops all ranks when any of them dies.

    Args:
        environment: provides addresses and ranks.
        num_processes: number of processes on this machine, including this process.
        num_nodes: number of machines.
        command: command line of the other ranks.
    """

    def __init__(
        self, *, environment: ClusterEnvironment, num_processes: int, num_nodes: int, command: Sequence[str]
    ) -> None:
        super().__init__(environment, num_processes, num_nodes)
        self.command = list(command)
        self._finished = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start the ranks, unless they are already running, and call `function`.

        Raises:
            OSError: the port at which the ranks meet is taken.
            ValueError: an external launcher started another number of ranks.
        """
        try:
            self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        except ValueError as error:
            raise ValueError(f"trainer.devices={self.num_processes} trainer.num_nodes={self.num_nodes}: {error}") from error
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        return function(*args, **kwargs)

    def first_dead(self, *, wait: float = 0.0) -> str | None:
        """Return the first rank that failed, and how; None if all run or ended normally. Waits up to `wait` seconds."""
        until = time.monotonic() + wait
        while True:
            for local_rank, process in enumerate(self.procs, start=1):
                if process.poll():
                    return f"{_rank_name(local_rank)} (process {process.pid}) {_ending(process.returncode)}"
            if time.monotonic() >= until:
                return None
            time.sleep(0.1)

    def states(self) -> list[str]:
        """Return the name and state (stopped or running) of each other rank of this machine that has not ended."""
        return [
            f"{_rank_name(local_rank)} (process {process.pid}) is {'stopped' if is_stopped(process.pid) else 'running'}"
            for local_rank, process in enumerate(self.procs, start=1)
            if process.poll() is None
        ]

    def stop(self) -> None:
        """End all other ranks."""
        for process in self.procs:
            with contextlib.suppress(OSError):
                process.terminate()
        until = time.monotonic() + 2.0
        for process in self.procs:
            try:
                process.wait(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # it waits for the others in a collective, and ignores SIGTERM

    def finish(self) -> None:
        """Wait for the other ranks, which are also about to end; stop those that do not."""
        self._finished.set()
        until = time.monotonic() + _GRACE_SECONDS
        for process in self.procs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, until - time.monotonic()))
        self.stop()

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        _launchers.append(self)
        environment = self.cluster_environment
        if environment.node_rank() == 0:
            _require_free(environment.main_address, environment.main_port)
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "LOCAL_RANK": str(environment.local_rank()),
            "LOCAL_WORLD_SIZE": str(self.num_processes),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        theirs = {
            **os.environ,
            PARENT: str(os.getpid()),
            "HYDRA_FULL_ERROR": os.environ.get(FULL_ERROR, "0"),
        }
        if self.num_processes > 1 and "OMP_NUM_THREADS" not in os.environ:
            threads = max(1, len(os.sched_getaffinity(0)) // self.num_processes)
            torch.set_num_threads(threads)
            theirs["OMP_NUM_THREADS"] = str(threads)
        for local_rank in range(1, self.num_processes):
            self.procs.append(subprocess.Popen(self.command, env={**theirs, "LOCAL_RANK": str(local_rank)}))
        if self.procs:
            threading.Thread(target=self._watch, daemon=True, name="watch-ranks").start()

    def _watch(self) -> None:
        """End this process if another process died and this process hangs in a collective that cannot complete."""
        while not self._finished.wait(_POLL_SECONDS):
            died = self.first_dead()
            if died is None:
                continue
            if self._finished.wait(_GRACE_SECONDS):
                return  # this process has noticed by itself and reports the error
            sys.stderr.write(f"error: {died}\n")
            sys.stderr.flush()
            for process in self.procs:
                process.kill()
            os._exit(1)


class _StopWithParent(threading.Thread):
    """Ends this process when its parent is gone, for which it would otherwise wait in a collective."""

    def __init__(self, parent: int) -> None:
        super().__init__(daemon=True, name="watch-parent")
        self.parent = parent

    def run(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)


def _require_other_machines(launcher: _SubprocessScriptLauncher) -> None:
    started = launcher.cluster_environment.creates_processes_externally
    if launcher.num_nodes > 1 and not started and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"trainer.num_nodes={launcher.num_nodes}: no launcher has started this command on {launcher.num_nodes} "
            "machines or set their meeting address. Start it with torchrun --nnodes or SLURM (cluster=slurm, or srun "
            "in a batch script). Or start it on each machine yourself, with MASTER_ADDR and MASTER_PORT of the first "
            "machine and NODE_RANK=0, 1, …"
        )


def _require_free(address: str, port: int) -> None:
    with socket.socket() as probe:
        # As torch's server does: a port in the state TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise OSError(
                f"MASTER_PORT={port}: {address}:{port}, the meeting address of this job's processes, is in use "
                f"({error.strerror}). Set MASTER_PORT to a free port, or unset it to choose one automatically."
            ) from error


def _leave_process_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _rank_name(local_rank: int) -> str:
    node = int(os.environ.get("NODE_RANK", 0))
    return f"rank {local_rank}" if node == 0 else f"rank {local_rank} of node {node}"


def _ending(status: int) -> str:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    return (
        f"{how}, so all processes of this job stop. Its error message, if any, is above or in error.rank*.log of the "
        "run directory. Checkpoints are intact: continue with the same overrides and ckpt_path=DIR."
    )
