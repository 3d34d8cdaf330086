"""The command line: `python train.py` in a clone, `perceiver-train` where the package is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from perceiver.run.configuration.command_line import remember_program
from perceiver.run.configuration.data_choice import data_of_checkpoint
from perceiver.run.configuration.folder import MAIN_FILE, conf_directory
from perceiver.run.configuration.resolvers import register_resolvers
from perceiver.run.errors import interrupted, report_error, stopped
from perceiver.run.exceptions import FULL_ERROR, JobFailedError, TrainingStopped
from perceiver.run.processes.one_directory import require_one_directory

__all__ = ["conf_directory", "job", "main"]

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def job(config: DictConfig) -> float | None:
    """One job of Hydra's: run it, and report an error in one line where it happens, so that a sweep can go on.

    Returns:
        The validation metric of the best epoch, for sweepers; None if there was no validation.
    """
    register_resolvers()  # launchers run jobs in processes that have not come through `main`
    directory = Path(config.run_dir)
    try:
        require_one_directory(cast(DictConfig, HydraConfig.get()))
        # Imported here: Lightning takes seconds, and `--help` or a mistyped override should not.
        from perceiver.run.job import run

        return run(config)
    except TrainingStopped as stop:
        stopped(stop, directory)
        if stop.requeue is not None:
            stop.requeue()
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        interrupted(directory)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        report_error(error, directory=directory)
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(EXIT_ERROR)
        raise JobFailedError(str(directory)) from error  # the sweep goes on to its other jobs, and fails in the end


def main() -> None:
    """Compose the configuration from the command line and run the job or the sweep; exits with 1 after any error."""
    register_resolvers()
    remember_program()
    if choice := data_of_checkpoint(sys.argv[1:], conf_directory()):
        sys.argv.append(choice)
    # Hydra would print and exit on its own; raised, its errors are reported like all others.
    chosen = os.environ.get("HYDRA_FULL_ERROR")
    os.environ[FULL_ERROR] = chosen or "0"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(conf_directory()), config_name=MAIN_FILE)(job)()
    except JobFailedError:
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        report_error(error, directory=None, conf=conf_directory())
        sys.exit(EXIT_ERROR)
    finally:
        if chosen is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = chosen


if __name__ == "__main__":
    main()
