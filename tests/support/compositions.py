"""Hydra's compositions of conf/ without what one of them repeats of another: reading, choosing and merging files.

Choices of files and their merged contents are kept by the choices on the command line; what the command line sets in
them, and folders of configurations that a test brings, are done anew each time.
"""

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"


@contextlib.contextmanager
def parts_kept() -> Iterator[None]:
    """Each part is made once, and loaded from its pickle afterwards, which is several times faster than a deep copy."""
    kept: dict[Any, bytes] = {}
    load, choose, refer = OmegaConf.load, defaults_list._create_defaults_list, defaults_list._create_interpolation_map
    merge = ConfigLoaderImpl._compose_config_from_defaults_list

    def loaded(file: Any) -> Any:
        name = Path(getattr(file, "name", file))
        if not name.is_relative_to(CONF):
            return load(file)
        if name not in kept:
            kept[name] = pickle.dumps(load(file))
        return pickle.loads(kept[name])

    def chosen(repo: Any, config_name: str | None, overrides: Any, *, prepend_hydra: bool, skip_missing: bool) -> Any:
        choices = {name: value for name, value in vars(overrides).items() if name != "config_overrides"}
        key = pickle.dumps((config_name, prepend_hydra, skip_missing, choices, places(repo)))
        if key not in kept or brought(repo):
            made = choose(repo, config_name, overrides, prepend_hydra=prepend_hydra, skip_missing=skip_missing)
            kept[key] = pickle.dumps((made, {name: getattr(overrides, name) for name in choices}))
            return made
        made, choices = pickle.loads(kept[key])
        vars(overrides).update(choices)
        return made

    def referred(overrides: Any, defaults: Any, self_added: bool) -> Any:
        """What references in a list of defaults refer to, which few lists have."""
        return refer(overrides, defaults, self_added) if any(one.is_interpolation() for one in defaults) else None

    def merged(self: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
        key = pickle.dumps((defaults, places(repo)))
        if key not in kept or brought(repo):
            kept[key] = pickle.dumps(merge(self, defaults, repo))
        config: DictConfig = pickle.loads(kept[key])
        return config

    with (
        mock.patch.object(OmegaConf, "load", loaded),
        mock.patch.object(defaults_list, "_create_defaults_list", chosen),
        mock.patch.object(defaults_list, "_create_interpolation_map", referred),
        mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", merged),
    ):
        yield


def places(repo: Any) -> list[str]:
    """Where a repository of Hydra looks for files."""
    return [source.path for source in repo.get_sources()]


def brought(repo: Any) -> bool:
    """A folder of files is not that of this repository."""
    paths = [place.removeprefix("file://") for place in places(repo) if place.startswith("file://")]
    return any(Path(path).resolve() != CONF for path in paths)
