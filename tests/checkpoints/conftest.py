"""A small valid config, and packages that exist only while a test runs, one of which leaves a mark when imported."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TRUSTED = '''
import os
import os as system_module
import functools
from torch import nn
from torch.nn import Linear as Renamed
from perceiver.adapters import ImagePixels

calls = []
make = functools.partial(nn.Linear, 3)

def function(**arguments):
    calls.append("function")

class Counted(nn.Module):
    def __init__(self, *, channels: int = 3, inner: object = None) -> None:
        calls.append("Counted")
        super().__init__()
        self.channels = channels

    def method(self):
        calls.append("method")

    class Nested(nn.Module):
        channels = 2

class Plain:
    def __init__(self, **arguments):
        calls.append("Plain")

class Liar(nn.Module):
    pass

Liar.__module__ = "plugin_of_tests"

class Failing(nn.Module):
    def __init__(self, *, size: int) -> None:
        raise ValueError(f"Failing.size: expected at least 1, got {size}.")

class NoChannels(nn.Module):
    pass

class Narrow(nn.Module):
    """A head that takes nothing."""
    def __init__(self) -> None:
        super().__init__()

def local():
    class Local(nn.Module):
        channels = 1
    return Local

Local = local()
alias = Counted
'''


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`plugin_of_tests` (with the module `parts`), and `plugin_of_tests_evil` and `evil_of_tests`, which leave the file
    IMPORTED when they are imported, and EXECUTED when their function is called."""
    for name in ("plugin_of_tests_evil", "evil_of_tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"import pathlib\nfrom torch import nn\npathlib.Path({str(tmp_path)!r}, 'IMPORTED').touch()\n"
            f"class Adapter(nn.Module):\n    channels = 1\n"
            f"def run(**arguments):\n    pathlib.Path({str(tmp_path)!r}, 'EXECUTED').touch()\n"
        )
    plugin = tmp_path / "plugin_of_tests"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("from plugin_of_tests.parts import Counted\n")
    (plugin / "parts.py").write_text(TRUSTED)
    (plugin / "broken.py").write_text("import not_a_package_of_anybody\n")
    (plugin / "failing.py").write_text("raise RuntimeError('no licence')\n")
    (plugin / "__main__.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path)!r}, 'EXECUTED').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0].endswith("_of_tests")]:
        del sys.modules[name]
    sys.modules.pop("plugin_of_tests_evil", None)


@pytest.fixture
def config() -> dict[str, Any]:
    """A tiny model of 8 x 8 images, spelled as YAML spells it."""
    return {
        "_target_": "perceiver.Perceiver",
        "adapters": {
            "image": {
                "_target_": "perceiver.adapters.ImagePixels",
                "image_channels": 1,
                "position": {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [8, 8]},
            }
        },
        "encoder": {
            "_target_": "perceiver.Encoder",
            "num_latents": 3,
            "latent_channels": 8,
            "num_layers_per_block": 1,
            "num_self_heads": 2,
        },
        "head": {"_target_": "perceiver.PooledHead", "num_classes": 4},
    }
