"""Explanations of torch's errors when another process of the job did not start, hangs, or is gone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from perceiver.run.exceptions import LostRankError

_SECONDS = re.compile(r"[Tt]imed out (?:waiting|after) (\d+)\s?(ms|seconds)")
_NOT_MET = re.compile(r"(\d+)/(\d+) clients joined")
_GONE = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe|Connection refused")
# Errors of torch.distributed: its collectives, the store at which processes meet, and the watchdog of NCCL.
_DISTRIBUTED = re.compile(r"gloo|NCCL|TCPStore|clients joined|collective|recv operation|send operation|[Bb]arrier")

_CONTINUE = "Checkpoints are intact: continue with the same overrides and ckpt_path=DIR."


def explained(error: BaseException, *, hanging: Sequence[str] = ()) -> LostRankError | None:
    """Return the error with the cause and the remedy; None for errors of any other kind.

    Args:
        error: the exception raised by a collective or at the first meeting of the processes.
        hanging: names and states of the other processes that are stopped or still run.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or not _DISTRIBUTED.search(text):
        return None
    if seconds := _SECONDS.search(text):
        waited = f"{int(seconds[1]) / (1000 if seconds[2] == 'ms' else 1):g} seconds (trainer.strategy.timeout)"
        if met := _NOT_MET.search(text):
            return LostRankError(
                f"only {met[1]} of {met[2]} processes connected within {waited}. Check that all trainer.num_nodes x "
                "trainer.devices processes were started, with the same MASTER_ADDR and MASTER_PORT. If they only "
                "start slowly, increase trainer.strategy.timeout.minutes."
            )
        who = f" Other processes: {', '.join(hanging)}." if hanging else ""
        return LostRankError(
            f"another process made no progress for {waited}, so this one stops.{who} {_CONTINUE} If that process is "
            "only slow, increase trainer.strategy.timeout.minutes."
        )
    if _GONE.search(text):
        return LostRankError(f"another process ended, so this one stops. See the error message of that process. {_CONTINUE}")
    return None


def is_stopped(process: int) -> bool:
    """Whether a process of this machine is stopped (SIGSTOP, or a debugger); False if /proc has no information."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")
