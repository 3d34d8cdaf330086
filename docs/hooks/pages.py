"""Pages made from the repository: API reference, configuration groups, notebooks.

The reference has one page per public module or package of `perceiver`, which mkdocstrings fills from the docstrings. The
configuration has one page per group in `conf/`; the comments of its files document the keys.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, CONF = ROOT / "perceiver", ROOT / "conf"
# Internal to the command line and the runtime: their names may change at any time.
PRIVATE = {"run", "runtime", "zero_gradients", "conf"}
# The modules below its folders are as many as those of all other packages: its page has the exported names.
EXPORTS_ONLY = {"data"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the section Reference of the navigation."""
    api = ["reference/index.md", *({f"perceiver.{name}": f"reference/{name}.md"} for name in _modules())]
    groups = [{group: f"reference/conf/{group}.md"} for group in _groups()]
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"] = [*api, {"Configuration": ["reference/conf/index.md", *groups]}]
    return config


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {"reference/index.md": _index_page()}
    pages |= {f"reference/{name}.md": _api_page(name) for name in _modules()}
    pages["reference/conf/index.md"] = _primary_page()
    pages |= {f"reference/conf/{group}.md": _group_page(group) for group in _groups()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in (*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("benchmarks/*.png")):
        files.append(File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def _modules() -> list[str]:
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if _is_module(path)}
    return sorted(name for name in found if not name.startswith("_") and name not in PRIVATE)


def _is_module(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def _groups() -> list[str]:
    folders = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/**/*.yaml")}
    return sorted(folders - {"hydra/help"})


def _index_page() -> str:
    """Return a page of all public names, with the first line of their docstrings.

    Names from private packages, which have no pages, are documented below the table.
    """
    package = griffe.load("perceiver", search_paths=[ROOT])
    rows, sections = [], []
    for name, module in sorted(_imports(PACKAGE / "__init__.py").items()):
        if module.split(".")[1] in PRIVATE:
            options = "{heading_level: 2, show_root_heading: true, show_root_full_path: false}"
            sections += ["", f"::: {module}.{name}", f"    options: {options}"]
        docstring = package[f"{module.removeprefix('perceiver.')}.{name}"].docstring
        first = "" if docstring is None else docstring.value.partition("\n")[0].replace("|", "\\|")
        rows.append(f"| [`{name}`][{module}.{name}] | {first} |")
    return "\n".join(
        ["# Public names", "", "`from perceiver import …`", "", "| name | |", "| --- | --- |", *rows, *sections]
    )


def _api_page(name: str) -> str:
    """Return a page of the names that a package exports, then of modules without exported names."""
    folder, module = PACKAGE / name, f"perceiver.{name}"
    parts = [f"# `{module}`\n\n"]
    exported = _imports(folder / "__init__.py") if folder.is_dir() else {}
    if exported or not folder.is_dir():
        parts.append(f"::: {module}\n\n")
    for path in sorted(folder.glob("[!_]*.py") if name in EXPORTS_ONLY else folder.rglob("[!_]*.py")):
        part = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if part not in exported.values():
            parts.append(f"## `{part}`\n\n::: {part}\n    options: {{heading_level: 3}}\n\n")
    return "".join(parts)


def _imports(file: Path) -> dict[str, str]:
    """Map the names that a package exports to the modules of `perceiver` that define them."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    return {
        alias.name: node.module for node in nodes if (node.module or "").startswith("perceiver.") for alias in node.names
    }


def _primary_page() -> str:
    return "\n".join(
        [
            "# Configuration",
            "",
            "`python train.py` composes `conf/train.yaml` with one file per group. YAML keys are constructor parameters, so",
            "the [API reference](../index.md) documents them too. `python train.py --cfg job` prints the result.",
            "",
            *_fenced(CONF / "train.yaml"),
        ]
    )


def _group_page(group: str) -> str:
    files = sorted((CONF / group).glob("*.yaml"))
    rows = [f"| [`{file.stem}`](#{file.stem}) | {_summary(file)} |" for file in files]
    sections = [line for file in files for line in (f"## {file.stem} {{#{file.stem}}}", "", *_fenced(file), "")]
    return "\n".join([f"# `{group}`", "", "| choice | |", "| --- | --- |", *rows, "", *sections])


def _summary(file: Path) -> str:
    """Return the first comment of a file, without instructions to Hydra."""
    comments: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comments.append(line.removeprefix("#").strip())
    return " ".join(comments).replace("|", "\\|")


def _fenced(file: Path) -> Iterator[str]:
    yield f'```yaml title="{file.relative_to(ROOT).as_posix()}"'
    yield file.read_text().rstrip()
    yield "```"
