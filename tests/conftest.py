"""What every test shares: shape checks, one thread per worker, fixed seeds, the place of real data."""

import fcntl
import gc
import os
import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with a thread per core each would only wait for one another. Child processes read it too.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
# Without bytecode, each of the dozens of processes compiles all sources again, the workers their assertions, too.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples on every machine and in every run; a first compilation may take longer than any deadline.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

gc.disable()

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Turn on the checks of shapes, in modules that state some: in all others, they take up to a third of the time.

    The process that only hands tests out is spared the imports.
    """
    if getattr(config.option, "numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        return
    import torch
    from jaxtyping import install_import_hook

    if any(name == "perceiver" or name.startswith("perceiver.") for name in sys.modules):
        raise RuntimeError("perceiver was imported before tests/conftest.py could turn its shape checks on")
    sources = ((path, path.read_text()) for path in (REPOSITORY / "perceiver").rglob("*.py"))
    modules = [path for path, source in sources if "from jaxtyping import" in source]
    checked = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in modules]
    # An int is welcome where a float is expected, as everywhere in Python and YAML.
    install_import_hook(checked, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """One worker at a time imports a test file; the other then finds the bytecode of all that it imports."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not isinstance(collector, pytest.Module):
        return (yield)
    with collector.path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return (yield)


def pytest_collection_finish() -> None:
    """Collect garbage from here on only: what was imported and collected so far stays until the end anyway."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # rarely: tests leave little behind
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def composed_in_parts() -> Iterator[None]:
    """Compositions of the configuration share what they have in common: each takes a tenth of a second otherwise."""
    from compositions import parts_kept

    with parts_kept():
        yield


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    import torch

    random.seed(0)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the state that third-party code draws from)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Turns the shape and type checks of the import hook off, for tests of what production says to a wrong type."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: $PERCEIVER_DATA, else ../shared/data; tests of real data skip without."""
    candidates = [REPOSITORY.parent / "shared" / "data"]
    if configured := os.environ.get("PERCEIVER_DATA"):
        candidates = [Path(configured).resolve()]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    pytest.skip(f"no real data at {candidates[0]}; set PERCEIVER_DATA to a folder that holds MNIST/raw")
