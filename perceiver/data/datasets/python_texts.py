"""Real English text in every Python installation, without download: the language reference and docstrings.

Source: the Python Software Foundation, PSF licence. Texts differ slightly between versions of Python.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

from perceiver.data.readers.texts.source import TextSource
from perceiver.data.readers.texts.windows import Document
from perceiver.runtime.progress import progress

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "turtledemo"}


class PythonTexts(TextSource):
    """Windows of the language reference (`help("if")`) and of the standard library's docstrings; see `TextSource`.

    Python 3.11 has 79 topics, 465 kB, and 1.2 MB of long docstrings. Documents are the topics, and the joined docstrings of
    each module.

    Args:
        docstrings: also use docstrings, which takes some seconds: all modules are parsed, but not executed. `training`: for
            training alone; validation and test consist of topics.
        max_length, cut_at, split_by, validation_fraction, test_fraction, split_seed: see `TextSource`.

    Raises:
        FileNotFoundError: if this Python lacks the sources of its standard library.
    """

    def __init__(
        self,
        *,
        docstrings: bool | Literal["training"] = False,
        max_length: int = 256,
        cut_at: Literal["word", "line"] = "word",
        split_by: Literal["auto", "document", "stretch"] = "auto",
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            max_length=max_length,
            cut_at=cut_at,
            split_by=split_by,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        if docstrings not in (True, False, "training"):
            raise ValueError(f"data.docstrings: expected true, false or training, got {docstrings!r}.")
        self.docstrings = docstrings

    def documents(self) -> list[Document]:
        """Return the topics in alphabetical order, then the modules."""
        found = [Document(name=f"topics/{name}", text=topics[name]) for name in sorted(topics)]
        return found + (docstrings_of_modules() if self.docstrings is True else [])

    def training_documents(self) -> list[Document]:
        """Return the modules, with `docstrings: training`."""
        return docstrings_of_modules() if self.docstrings == "training" else []


def docstrings_of_modules(*, at_least: int = 200) -> list[Document]:
    """Return the docstrings of each module of the standard library of `at_least` characters or more, without duplicates.

    Raises:
        FileNotFoundError: if the sources are absent.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))
    if not files:
        raise FileNotFoundError(
            f"data.docstrings: this Python lacks the sources of its standard library in {root}; set data.docstrings=false."
        )
    seen: set[str] = set()
    documents = []
    for path in progress(files, total=len(files), title="Reading docstrings"):
        own = [text for text in _docstrings(path) if len(text) >= at_least and text not in seen]
        seen.update(own)
        if own:
            documents.append(Document(name=path.relative_to(root).as_posix(), text="\n\n".join(dict.fromkeys(own))))
    return documents


def _docstrings(path: Path) -> list[str]:
    """Return the docstrings of a module, its classes and functions, without indentation; empty if it cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old sources
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    named = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, named))
    texts = (inspect.cleandoc(text) for text in found if text)
    return [text for text in texts if not any("\ud800" <= character <= "\udfff" for character in text)]
