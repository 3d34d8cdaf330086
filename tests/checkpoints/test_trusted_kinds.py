"""Kinds that a stranger's spec names: only classes of trusted packages by their own spelling; nothing else is imported."""

import sys
from pathlib import Path
from typing import Any

import pytest

from perceiver.checkpoints.trusted_classes import TargetError
from perceiver.checkpoints.trusted_kinds import import_kinds
from perceiver.modalities.kinds import kind_of


def spec(kind: Any, **spec: Any) -> dict[str, Any]:
    return {"modalities": {"x": {"kind": kind, **spec}}}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that leaves a trace where it is imported."""
    (tmp_path / "stranger_kinds.py").write_text(
        "from os import path\nfrom perceiver.modalities import Modality\n"
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "class Signal(Modality):\n    channel_axis = 0\n"
        "Alias = Signal\nclass Other: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_kinds", raising=False)
    return "stranger_kinds"


def test_a_trusted_package_is_imported(package: str) -> None:
    found = spec(f"{package}.Signal")
    import_kinds(found, trust=[package])
    assert type(kind_of(found["modalities"]["x"])).__name__ == "Signal"


def test_without_trust_nothing_is_imported(package: str, tmp_path: Path) -> None:
    message = rf"spec\.modalities\.x\.kind: the checkpoint names {package}\.Signal, outside .* trust=\['{package}'\]"
    with pytest.raises(TargetError, match=message):
        import_kinds(spec(f"{package}.Signal"), trust=["another"])
    assert not (tmp_path / "imported").exists()
    import_kinds(spec(f"{package}.Signal"), trust=[package])
    with pytest.raises(TargetError, match="outside the trusted packages"):
        import_kinds(spec(f"{package}.Signal"), trust=[])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Alias", r"is an alias of .*\.Signal"),
        ("Other", r"not derived from perceiver\.modalities\.modality\.Modality"),
        ("path", "is a module, not a class"),
        ("path.join", "is refused|has no join|neither a module"),
        ("Missing", "has no Missing"),
        ("__loader__.exec_module", "is refused"),
    ],
)
def test_only_kinds_by_their_own_spelling(name: str, message: str, package: str) -> None:
    with pytest.raises(TargetError, match=message):
        import_kinds(spec(f"{package}.{name}"), trust=[package])


@pytest.mark.parametrize(
    "kind", ["os.system", "torch.nn.modules.linear.Linear", "perceiver.samples.batch.Batch", "a." * 400 + "b"]
)
def test_what_is_no_kind_is_refused(kind: str) -> None:
    with pytest.raises(TargetError):
        import_kinds(spec(kind), trust=[])


@pytest.mark.parametrize(
    "found",
    [None, {}, {"modalities": 3}, spec("image"), spec("a.b", channel_axis=0), spec("../x.y"), spec(["a.b"]), spec(None)],
)
def test_words_need_no_trust(found: Any) -> None:
    import_kinds(found, trust=[])
