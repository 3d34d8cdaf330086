"""The command `perceiver-demo` and the parts of its page, without a browser."""

import socket
import sys
from pathlib import Path

import exported_models
import numpy as np
import pytest

from perceiver.plots.attention.explanation import words_html
from perceiver.serving.demo.main import main
from perceiver.serving.demo.result import result_of


def error_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints to stderr, in one line, before it exits with 1."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def free_port() -> str:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    port = ("--port", free_port())
    assert "exports have no attention to show" in error_of("model.onnx", *port, capsys=capsys)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = str(other.getsockname()[1])
        assert f"--port: cannot use 127.0.0.1:{used}" in error_of(str(tmp_path), "--port", used, capsys=capsys)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'perceiver-multimodal[demo]'" in error_of(str(tmp_path), *port, capsys=capsys)


def test_a_run_without_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    line = error_of(str(tmp_path), "--port", free_port(), capsys=capsys)
    assert "expected a run directory with checkpoints/best.ckpt" in line


def test_the_result_of_every_kind() -> None:
    model = exported_models.classifier("pixels", "row", "text", "mel", "points", "series")
    generator = np.random.default_rng(0)
    raw = {
        "pixels": generator.integers(0, 256, (6, 7)).astype(np.uint8),
        "row": {"age": 30, "colour": "red"},
        "text": "cat and dog",
        "mel": (generator.normal(size=800) / 9, 8000),
        "points": generator.normal(size=(20, 4)),
        "series": {"values": np.ones((5, 2)), "times": np.arange(5.0)},
    }
    result = result_of(model, raw)
    [expected] = model.predict(raw)
    assert result.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert set(result.shares) == set(result.looks) == set(raw)
    assert all(isinstance(look, str) == (name == "text") for name, look in result.looks.items())
    assert set(result_of(model, {"text": "cat"}).looks) == {"text"}
    with pytest.raises(ValueError, match="names a file"):
        result_of(model, {"pixels": "/etc/passwd"})


def test_the_result_of_a_model_that_generates_texts() -> None:
    result = result_of(exported_models.text_generating_model(), {"text": "a cat"})
    assert result.text is not None
    assert result.shares == {"text": pytest.approx(1)}
    assert set(result.looks) == {"text"}


def test_words_get_the_contributions_of_their_tokens() -> None:
    """Tokens are bytes; an accent takes two, and what is beyond the last token is grey."""
    found = words_html("é <i> zz", np.array([1.0, 1.0, 0.0, 0.5, 0.0, 0.0], dtype=np.float32), spec={"kind": "text"})
    assert found == (
        '<span style="background:rgba(249,115,22,0.90)">é</span> '
        '<span style="background:rgba(249,115,22,0.23)">&lt;i&gt;</span> <span style="opacity:0.4">zz</span>'
    )
