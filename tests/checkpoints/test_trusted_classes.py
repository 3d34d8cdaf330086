"""Which names lead to classes, for the caller's own config and for a stranger's."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import perceiver
from perceiver.checkpoints.moved import MOVED, present_name
from perceiver.checkpoints.trusted_classes import (
    TargetError,
    check_allowed,
    check_trust,
    resolve,
    resolve_trusted,
    spelling,
)

PATH = "model.x._target_"
PARTS = "plugin_of_tests.parts"


def test_own_config_may_use_public_names() -> None:
    assert resolve("perceiver.adapters.ImagePixels", path=PATH) is resolve("perceiver.adapters.image.ImagePixels", path=PATH)
    assert resolve("torch.nn.Linear", path=PATH) is nn.Linear
    assert spelling(nn.Linear) == "torch.nn.modules.linear.Linear"


def test_a_strangers_config_must_use_the_classs_own_spelling() -> None:
    assert resolve_trusted("perceiver.model.Perceiver", trust=(), path=PATH) is perceiver.Perceiver
    assert resolve_trusted("torch.nn.modules.linear.Linear", trust=(), path=PATH) is nn.Linear
    with pytest.raises(
        TargetError, match=r"perceiver\.Perceiver is an alias of perceiver\.model\.Perceiver; .*module that defines"
    ):
        resolve_trusted("perceiver.Perceiver", trust=(), path=PATH)


def test_every_layer_of_torch_can_be_saved_and_loaded() -> None:
    layers = [value for value in vars(nn).values() if isinstance(value, type) and issubclass(value, nn.Module)]
    layers.remove(nn.DataParallel)
    assert len(layers) > 100
    for layer in layers:
        assert resolve_trusted(spelling(layer), trust=(), path=PATH) is layer


HOSTILE = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "shutil.rmtree",
    "importlib.import_module",
    "torch.load",
    "torch.hub.load",
    "torch.jit.ScriptModule",
    "torch.jit._script.RecursiveScriptModule",
    "torch.utils.cpp_extension.load",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.utils.parametrize.register_parametrization",
    "torch.nn.Linear",
    "torch.nn.Module",
    "torch.nn.functional.relu",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.torch.nn.Linear",
    "torch.nn.modules.module.warnings.sys.modules",
    "torch.nn.modules.module.Module.load_state_dict",
    "torch.nn.modules.module.Module.__subclasses__",
    "torch.nn.modules.module.Module.__init__.__globals__",
    "torch.nn.modules.module.__builtins__",
    "torch.nn.modules.module.register_module_forward_hook",
    "torch.nn.modules.linear.Module",
    "torch.nn.modules.linear.Parameter",
    "torch.nn.modules.Linear",
    "torch.nn.modules_evil.Linear",
    "perceiver",
    "perceiver.",
    "perceiver..os",
    ".perceiver.Perceiver",
    "perceiver.model",
    "perceiver.load",
    "perceiver.checkpoints.load",
    "perceiver.checkpoints.os.system",
    "perceiver.checkpoints.os.replace",
    "perceiver.checkpoints.shutil.rmtree",
    "perceiver.checkpoints.torch.load",
    "perceiver.checkpoints.CheckpointError",
    "perceiver.model.nn.Module",
    "perceiver.model.nn.Linear",
    "perceiver.model.Tokens",
    "perceiver.model.Perceiver.predict",
    "perceiver.model.Perceiver.__class__",
    "perceiver.model.Perceiver.mro",
    "perceiver.__main__.main",
    "perceiver.__loader__.exec_module",
    "perceiver.checkpoints.build.resolve",
    "perceiver_evil.Adapter",
    "perceiver.model.Perceiver ",
    "perceiver.model.Perceiver\n",
    "perceiver.model.Perceiver()",
    "perceiver/model.Perceiver",
    "perceiver.mоdel.Perceiver",  # a Cyrillic letter
    "__main__.Adapter",
    "",
    "x" * 10_000,
    "perceiver." * 1_000 + "x",
]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("trust", [(), ("plugin_of_tests",)])
def test_hostile_names_are_refused(target: str, trust: tuple[str, ...]) -> None:
    before = set(sys.modules)
    with pytest.raises(TargetError, match=r"^model\.x\._target_: ") as caught:
        resolve_trusted(target, trust=trust, path=PATH)
    assert len(str(caught.value)) < 1_500
    assert {name.partition(".")[0] for name in set(sys.modules) - before} <= {"perceiver", "torch"}


@pytest.mark.parametrize("target", [3, None, ["os.system"], {"_target_": "os.system"}, b"os.system"])
def test_a_target_must_be_a_string(target: object) -> None:
    with pytest.raises(TargetError, match="expected the dotted name of a class"):
        resolve_trusted(target, trust=(), path=PATH)
    with pytest.raises(TargetError, match="expected the dotted name of a class"):
        resolve(target, path=PATH)


@pytest.mark.parametrize(
    "target",
    ["evil_of_tests.Adapter", "evil_of_tests.run", "plugin_of_tests_evil.Adapter", "plugin_of_tests_evil.x.Adapter"],
)
def test_an_untrusted_package_is_not_even_imported(target: str, packages: Path) -> None:
    for trust in ((), ("plugin_of_tests",), ("plugin_of_tests.parts",)):
        with pytest.raises(TargetError, match="outside the trusted packages"):
            resolve_trusted(target, trust=trust, path=PATH)
    assert not (packages / "IMPORTED").exists()
    assert "evil_of_tests" not in sys.modules


def test_trust_names_the_package_as_a_whole(packages: Path) -> None:
    assert resolve_trusted(f"{PARTS}.Counted", trust=("plugin_of_tests",), path=PATH).__name__ == "Counted"
    assert resolve_trusted(f"{PARTS}.Counted.Nested", trust=(PARTS,), path=PATH).__name__ == "Nested"
    with pytest.raises(TargetError, match=re.escape("load with trust=['plugin_of_tests']")):
        resolve_trusted(f"{PARTS}.Counted", trust=(), path=PATH)
    with pytest.raises(TargetError, match="outside the trusted packages"):
        resolve_trusted(f"{PARTS}.Counted", trust=("plugin_of",), path=PATH)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("function", "is a function or another callable, not a class"),
        ("make", "is a function or another callable, not a class"),
        ("Plain", "is a class, but not derived from torch.nn.Module"),
        ("os", "is a module, not a class"),
        ("os.system", "is neither a module of that package nor a class"),
        ("system_module.system", "is neither a module of that package nor a class"),
        ("functools.partial", "is neither a module of that package nor a class"),
        ("nn.Linear", "is neither a module of that package nor a class"),
        ("Renamed", "is an alias of torch.nn.modules.linear.Linear"),
        ("ImagePixels", "is an alias of perceiver.adapters.image.ImagePixels"),
        ("alias", "is an alias of plugin_of_tests.parts.Counted"),
        ("Liar", "is an alias of plugin_of_tests.Liar"),
        ("Local", "is an alias of plugin_of_tests.parts.local.<locals>.Local"),
        ("Counted.method", "is a function or another callable, not a class"),
        ("Counted.forward", "has no forward"),
        ("Counted.Nested.channels", "is a int, not a class"),
        ("calls", "is a list, not a class"),
        ("calls.append", "is neither a module of that package nor a class"),
        ("__builtins__.eval", "'__builtins__' is not the name of a class or module"),
        ("__main__.x", "is not the name of a class or module"),
        ("Cuonted", "did you mean Counted?"),
    ],
)
def test_even_a_trusted_package_gives_only_its_own_modules(name: str, message: str, packages: Path) -> None:
    with pytest.raises(TargetError, match=re.escape(message)):
        resolve_trusted(f"{PARTS}.{name}", trust=("plugin_of_tests",), path=PATH)
    assert sys.modules[PARTS].calls == [] if PARTS in sys.modules else True
    assert not (packages / "EXECUTED").exists()


def test_main_modules_are_not_run(packages: Path) -> None:
    with pytest.raises(TargetError, match="'__main__' is not the name of a class or module"):
        resolve_trusted("plugin_of_tests.__main__.X", trust=("plugin_of_tests",), path=PATH)
    assert not (packages / "EXECUTED").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("not_a_package_of_anybody.X", "module not_a_package_of_anybody was not found; is its package installed"),
        ("perceiver.adapters.ImagePixel", "perceiver.adapters has no ImagePixel; did you mean ImagePixels?"),
        ("perceiver.adaptors.ImagePixels", "perceiver has no adaptors; did you mean adapters?"),
        (
            "plugin_of_tests.broken.X",
            "importing plugin_of_tests.broken for plugin_of_tests.broken.X failed: No module named",
        ),
        ("plugin_of_tests.failing.X", "failed: RuntimeError: no licence"),
        ("os.path.join", "is a function or another callable, not a class"),
        ("os.path", "is a module, not a class"),
        ("fractions.Fraction", "is a class, but not derived from torch.nn.Module"),
        ("plugin_of_tests.parts.Local", "canonical name plugin_of_tests.parts.local.<locals>.Local does not refer to it"),
        ("plugin_of_tests.parts.make", "is a function or another callable"),
    ],
)
def test_errors_in_the_callers_own_config(target: str, message: str, packages: Path) -> None:
    with pytest.raises(TargetError, match=re.escape(message)):
        resolve(target, path=PATH)


def test_the_callers_own_renamed_class_is_found(packages: Path) -> None:
    cls = resolve("plugin_of_tests.parts.alias", path=PATH)
    assert spelling(cls) == "plugin_of_tests.parts.Counted"
    assert resolve(f"{PARTS}.Counted.Nested", path=PATH).channels == 2


def test_a_class_that_lies_about_its_place_cannot_be_used(packages: Path) -> None:
    with pytest.raises(TargetError):
        resolve(f"{PARTS}.Liar", path=PATH)


def test_trust_is_a_list_of_packages() -> None:
    assert check_trust(["a", "b.c"]) == ("a", "b.c")
    with pytest.raises(TypeError, match=re.escape("write trust=['my_package']")):
        check_trust("my_package")
    with pytest.raises(TypeError, match="got NoneType"):
        check_trust(None)
    for wrong in ("", "a.", "*", "a/b", 3):
        with pytest.raises(ValueError, match="trust: expected names of packages"):
            check_trust([wrong])


@given(
    st.lists(
        st.sampled_from(
            ["perceiver", "torch", "nn", "modules", "os", "system", "model", "__init__", "linear", "Linear", "a", ""]
        ),
        max_size=6,
    )
)
def test_whatever_is_allowed_lies_in_an_allowed_package(parts: list[str]) -> None:
    target = ".".join(parts)
    try:
        name = check_allowed(target, trust=(), path=PATH)
    except TargetError:
        return
    assert name.split(".")[0] == "perceiver" or name.split(".")[:3] == ["torch", "nn", "modules"]
    assert not any(part.startswith("__") for part in name.split("."))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("perceiver.decoders.ClassificationDecoder", "perceiver.decoders.classification.ClassificationDecoder"),
        ("perceiver.heads.PooledHead", "perceiver.decoders.pooled.PooledHead"),
        ("perceiver.modality_dropout.ModalityDropout", "perceiver.masking.modality_dropout.ModalityDropout"),
    ],
)
def test_older_checkpoints_name_classes_that_have_moved(old: str, new: str) -> None:
    assert spelling(resolve_trusted(old, trust=(), path="model.head")) == new


def test_every_former_module_leads_to_a_present_one() -> None:
    for new in MOVED.values():
        module, _, name = new.rpartition(".")
        try:
            importlib.import_module(new)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), new
        assert present_name(f"{new}.Name") == f"{new}.Name"


def renamed_modules() -> dict[Path, Path]:
    """Return the present file of each file of the package that was ever renamed; empty without a history."""
    command = ["git", "log", "--diff-filter=R", "--name-status", "--format=", "--", "perceiver"]
    root = Path(perceiver.__file__).parents[1]
    try:
        log = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    present: dict[Path, Path] = {}
    for line in log.splitlines():  # the latest first
        _, old, new = line.split("\t")
        if old.endswith(".py"):
            present[root / old] = present.get(root / new, root / new)
    return {
        old: new for old, new in present.items() if new.is_file() and not old.exists() and not old.with_suffix("").exists()
    }


def test_parts_of_models_are_found_under_each_former_name_of_their_module() -> None:
    renamed = renamed_modules()
    if not renamed:
        pytest.skip("no history of renamed files")
    root = Path(perceiver.__file__).parents[1]
    for old, new in renamed.items():
        before, now = (".".join(file.relative_to(root).with_suffix("").parts) for file in (old, new))
        if now.split(".")[1] in ("data", "objectives", "plots", "run", "serving"):  # no parts of models
            continue
        for name, cls in vars(importlib.import_module(now)).items():
            if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == now and not name.startswith("_"):
                assert resolve_trusted(f"{before}.{name}", trust=(), path=PATH) is cls


def test_modules_of_the_present_layout_are_not_renamed() -> None:
    assert present_name("perceiver.data.augmentation.images.Chain") == "perceiver.data.augmentation.images.Chain"
    assert present_name("perceiver.masking.text.ByteWords") == "perceiver.masking.text.ByteWords"
