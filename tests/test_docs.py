"""The documentation: it builds without network, its commands compose, its Python and the examples in docstrings run."""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

import perceiver
import perceiver.adapters
import perceiver.decoders
import perceiver.tokens.positions
from perceiver.run.configuration.command_line import of_adapters, present_override, with_new_adapters
from perceiver.run.configuration.folder import conf_directory

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
# Their Python stands on its own; other pages use models and files of the reader's.
EXECUTED = [page for page in PAGES if page.parent.name in ("concepts", "extend")]
PUBLIC = {"perceiver": perceiver, "adapters": perceiver.adapters, "decoders": perceiver.decoders}
FLAGS = ("-m", "--help", "--cfg", "job", "--resolve")


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page, without the indentation that tabs and admonitions add."""
    found = re.findall(rf"^( *)```{language}[^\n]*\n(.*?)^ *```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `python train.py` and `perceiver-train` of a page, in blocks and in the text."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    lines += re.findall(r"`((?:python train\.py|perceiver-train)[^`]*)`", prose)
    for line in lines:
        words = shlex.split(line, comments=True)
        for program in ("train.py", "perceiver-train"):
            if program in words:
                yield [word for word in words[words.index(program) + 1 :] if word not in FLAGS]


@cache
def check_composes(*arguments: str) -> None:
    """Raises unless the groups, choices and keys of a command are there; commands recur on several pages."""
    overrides = [present_override(argument.replace("experiment=NAME", "experiment=mnist")) for argument in arguments]
    # The run directory names its data set.
    if any(one.startswith("ckpt_path=") for one in overrides) and any("data.manifest" in one for one in overrides):
        overrides.insert(0, "data=manifest")
    if any(one.startswith("data.path=") for one in overrides) and not any(one.startswith("data=") for one in overrides):
        overrides.insert(0, "data=hf")
    words: list[str] | None = of_adapters(overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_directory())):
        while words is not None:
            try:
                GlobalHydra.instance().config_loader().load_configuration("train", words, run_mode=RunMode.MULTIRUN)
                break
            except ConfigCompositionException as error:
                words = with_new_adapters(words, error)
                if words is None:
                    raise


def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "notebooks/quickstart/index.html", "reference/adapters/index.html"):
        html = (tmp_path / page).read_text()
        assert re.findall(r"<(?:script|img|iframe)[^>]* src=\"https?://", html) == []
        assert re.findall(r"<link[^>]* rel=\"stylesheet\"[^>]* href=\"https?://", html) == []
    reference = (tmp_path / "reference/adapters/index.html").read_text()
    assert all(f"perceiver.adapters.{name}" in reference for name in perceiver.adapters.__all__)


@pytest.mark.parametrize("page", [README, *EXECUTED], ids=name_of)
def test_python_of_pages_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # pickle looks classes up there
    for block in blocks(page, "python"):
        exec(compile(block, name_of(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in EXECUTED], ids=name_of)
def test_python_of_pages_imports_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), name_of(page), "exec"), {})
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "perceiver":
                assert hasattr(perceiver, node.attr), f"perceiver.{node.attr}"


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_commands_compose(page: Path) -> None:
    for arguments in commands(page):
        if "--config-dir" not in arguments:
            check_composes(*arguments)


@pytest.mark.parametrize("page", [README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"], ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text())
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


@pytest.mark.parametrize("package", PUBLIC.values(), ids=PUBLIC.keys())
def test_public_names_have_examples(package: ModuleType) -> None:
    without = [name for name in package.__all__ if ">>>" not in (getattr(package, name).__doc__ or "")]
    assert without == []


def modules_with_examples() -> list[str]:
    """All modules of the package in whose source an example stands."""
    names = [info.name for info in pkgutil.walk_packages(perceiver.__path__, "perceiver.")]
    files = {name: REPOSITORY / f"{name.replace('.', '/')}" for name in names}
    sources = {name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for name, path in files.items()}
    return sorted(name for name, source in sources.items() if ">>>" in source.read_text())


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name: str) -> None:
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, "see the captured output"
