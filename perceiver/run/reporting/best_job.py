"""Summary of a sweep: the best job, and the command line that trains it again.

Hydra calls this wherever its jobs run: in this process, in another process or on another machine. So results go through
files: each job writes `job.json` to its directory, and the end of the sweep reads these files.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from perceiver.run.configuration.command_line import override_key, typed_command
from perceiver.run.errors import one_line
from perceiver.runtime.files import write_json

JOB, BEST = "job.json", "best.json"


class BestJob(Callback):
    """Prints the best job of a sweep and writes `best.json` to its directory: value, parameters, command line.

    Jobs are compared by their return value, the metric of `callbacks.best.monitor` on validation data, in the direction of
    `callbacks.best.mode`. Failed jobs are listed. Single runs are not affected.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the result of the job to its directory."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        failed = job_return.status == JobStatus.FAILED
        returned = job_return._return_value
        value = None if failed or returned is None else float(returned)
        write_json(
            Path(config.hydra.runtime.output_dir) / JOB,
            {
                "number": int(config.hydra.job.num),
                "overrides": list(job_return.overrides or []),
                # JSON has no NaN.
                "value": value if value is None or math.isfinite(value) else None,
                "error": one_line(returned.__cause__ or returned) if failed else None,
            },
        )

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the best job and the command to train it again."""
        directory = Path(config.hydra.sweep.dir)
        jobs = [json.loads(file.read_text()) for file in directory.glob(f"*/{JOB}")]
        jobs.sort(key=lambda job: int(job["number"]))
        mode = OmegaConf.select(config, "callbacks.best.mode") or "max"
        for line in _failures(jobs):
            _say(line)
        best = best_of(jobs, mode=mode)
        if best is None:
            return
        metric = str(OmegaConf.select(config, "callbacks.best.monitor") or "value")
        fixed = _fixed_keys(list(config.hydra.overrides.task))
        found = {
            "metric": metric,
            "mode": mode,
            "value": best["value"],
            "job": best["number"],
            "directory": str(directory / str(best["number"])),
            "parameters": [word for word in best["overrides"] if override_key(word) not in fixed],
            "command": typed_command(config.hydra, [*best["overrides"], *_choice_of_epoch(config, best["overrides"])]),
        }
        write_json(directory / BEST, found)
        finished = sum(job["error"] is None for job in jobs)
        _say(
            f"Best of {finished} jobs: {metric} {best['value']:.4f} ({mode}), job {best['number']} in {found['directory']}",
            *(f"  {word}" for word in found["parameters"]),
            "To train it again:",
            f"  {found['command']}",
            f"This summary is saved in {directory / BEST}",
        )


def best_of(jobs: Sequence[Mapping[str, Any]], *, mode: str) -> Mapping[str, Any] | None:
    """Return the first job with the greatest value, or the smallest (`mode="min"`); None if no job has a value."""
    sign = -1.0 if mode == "min" else 1.0
    return max((job for job in jobs if job["value"] is not None), key=lambda job: sign * job["value"], default=None)


def _fixed_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the command line of the sweep sets to a single value for all jobs."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.get_key_element() for override in parsed if not override.is_sweep_override()}


def _choice_of_epoch(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that keep the metric of the sweep: alone, a job with a preset may choose another."""
    given = {override_key(word).lstrip("+") for word in overrides}
    if config.get("preset") is None and "preset" not in given:
        return []
    keys = ("callbacks.best.monitor", "callbacks.best.mode")
    found = {key: OmegaConf.select(config, key) for key in keys if key not in given}
    return [f"{key}={value}" for key, value in found.items() if value is not None]


def _failures(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [job for job in jobs if job["error"] is not None]
    without = [job for job in jobs if job["error"] is None and job["value"] is None]
    lines = [f"job {job['number']} failed: {job['error']}" for job in failed]
    return lines + [f"job {job['number']} has no validation metric to compare" for job in without]


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
