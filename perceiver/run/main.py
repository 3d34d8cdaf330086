"""The command line: `python train.py` in a clone, `perceiver-train` if the package is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from perceiver.run.configuration.folder import MAIN_FILE, conf_directory
from perceiver.run.processes.start_up import EXIT_INTERRUPTED, quiet_interrupt, raise_interrupts

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Other imports are inside functions that handle Ctrl+C: importing Hydra takes a fraction of a second and Lightning seconds,
# and `--help` or a mistyped override should need neither.

__all__ = ["conf_directory", "job", "main"]

EXIT_ERROR = 1


def job(config: DictConfig) -> float | None:
    """Run a single Hydra job, and report an error in one line at once, so that a sweep can continue.

    Returns:
        The validation metric of the best epoch, for sweepers; None without validation.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from perceiver.run.configuration.resolvers import register_resolvers
    from perceiver.run.errors import interrupted, report_error, stopped
    from perceiver.run.exceptions import JobFailedError, TrainingStopped
    from perceiver.run.processes.one_directory import require_one_directory

    register_resolvers()  # launchers run jobs in processes that did not call `main`
    directory = Path(config.run_dir)
    try:
        require_one_directory(cast("DictConfig", HydraConfig.get()))
        from perceiver.run.job import run

        raise_interrupts()
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
        raise JobFailedError(str(directory)) from error  # the sweep continues with its other jobs and fails at the end


def main() -> None:
    """Compose the configuration from the command line and run the job or the sweep; exit with 1 after any error."""
    try:
        with quiet_interrupt():
            _main()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _main() -> None:
    import hydra
    from hydra.errors import ConfigCompositionException

    from perceiver.run.configuration.command_line import (
        of_adapters,
        present_override,
        remember_program,
        with_new_adapters,
    )
    from perceiver.run.configuration.data_choice import data_of_checkpoint
    from perceiver.run.configuration.resolvers import register_resolvers
    from perceiver.run.errors import report_error
    from perceiver.run.exceptions import FULL_ERROR, JobFailedError

    register_resolvers()
    remember_program()
    sys.argv[1:] = of_adapters([present_override(word) for word in sys.argv[1:]])
    if choice := data_of_checkpoint(sys.argv[1:], conf_directory()):
        sys.argv.append(choice)
    # Otherwise Hydra would print its errors and exit. Raised, they are reported like all others.
    chosen = os.environ.get("HYDRA_FULL_ERROR")
    os.environ[FULL_ERROR] = chosen or "0"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        run = hydra.main(version_base="1.3", config_path=str(conf_directory()), config_name=MAIN_FILE)(job)
        while True:
            try:
                run()
                break
            except ConfigCompositionException as error:
                words = with_new_adapters(sys.argv[1:], error)
                if words is None:
                    raise
                sys.argv[1:] = words
    except JobFailedError:
        sys.exit(EXIT_ERROR)
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
