"""The spec of a checkpoint, given to the data of a run."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule

from perceiver.run.assembly.spec import use_stored_spec


@pytest.mark.parametrize("spec", [{}, {"modalities": {}}, {"target": {"kind": "classes", "names": ["a", "b"]}}])
def test_a_stored_spec_without_modalities_is_one_clear_error(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ckpt_path: x\.ckpt: spec\.modalities: expected one modality or more, got none"):
        use_stored_spec(LightningDataModule(), spec, file=Path("x.ckpt"))


def test_a_stored_spec_is_set() -> None:
    data, spec = LightningDataModule(), {"modalities": {"x": {"kind": "image", "shape": [1, 2, 2]}}}
    assert use_stored_spec(data, spec, file=Path("x.ckpt")) == spec
    assert getattr(data, "spec") == spec  # noqa: B009  (Lightning's base class has no spec)
