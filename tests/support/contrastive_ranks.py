"""One of two processes that compute the contrastive loss of half a batch each."""

import importlib.util
from pathlib import Path


def main(file: str) -> None:
    path = Path(__file__).resolve().parents[1] / "objectives/self_supervised/test_contrastive.py"
    spec = importlib.util.spec_from_file_location("test_contrastive", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.gradients(file)
