"""What a process says when another one of its job did not come, hangs, or is gone: torch's errors in other words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from perceiver.run.exceptions import LostRankError

_SECONDS = re.compile(r"[Tt]imed out (?:waiting|after) (\d+)\s?(ms|seconds)")
_NOT_MET = re.compile(r"(\d+)/(\d+) clients joined")
_GONE = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe|Connection refused")
# Of torch.distributed: its collectives, the store by which processes meet, and the watchdog of NCCL.
_DISTRIBUTED = re.compile(r"gloo|NCCL|TCPStore|clients joined|collective|recv operation|send operation|[Bb]arrier")

_CONTINUE = "Checkpoints are intact: continue with the same overrides and ckpt_path=DIR."


def explained(error: BaseException, *, hanging: Sequence[str] = ()) -> LostRankError | None:
    """The same in words that say what to do; None for errors of any other kind.

    Args:
        error: what a collective, or a first meeting, has raised.
        hanging: what is known of the others: names of those that are stopped, or still run.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or not _DISTRIBUTED.search(text):
        return None
    if seconds := _SECONDS.search(text):
        waited = f"{int(seconds[1]) / (1000 if seconds[2] == 'ms' else 1):g} seconds (trainer.strategy.timeout)"
        if met := _NOT_MET.search(text):
            return LostRankError(
                f"only {met[1]} of {met[2]} processes came to the first meeting within {waited}. Were all of "
                "trainer.num_nodes x trainer.devices started, with the same MASTER_ADDR and MASTER_PORT? If they only start "
                "slowly, set trainer.strategy.timeout.minutes higher."
            )
        who = f" Of the others, {', '.join(hanging)}." if hanging else ""
        return LostRankError(
            f"another process has made no progress for {waited}, so this one stops.{who} {_CONTINUE} If that process is "
            "only slow, set trainer.strategy.timeout.minutes higher."
        )
    if _GONE.search(text):
        return LostRankError(f"another process has ended, so this one stops; its own message says why. {_CONTINUE}")
    return None


def is_stopped(process: int) -> bool:
    """Whether a process of this machine is stopped (SIGSTOP, or a debugger); False where /proc does not say."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")
