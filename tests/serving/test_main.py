"""The command `perceiver-serve`: errors in one line, and a real server with its processes."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("litserve")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_files

from perceiver.serving.main import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return onnx_files.write(tmp_path / "model.onnx")


def error_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints to stderr, in one line, before it exits with 1."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "example.org"], "error: --host: expected one of localhost, 127.0.0.1, 0.0.0.0, ::, got 'example.org'"),
        (["--port", "80"], "error: --port: expected 1024 to 65535, got 80"),
        (["--workers", "0"], "error: --workers: expected at least 1"),
        (["--batch-wait", "99"], "error: --batch-wait: expected 0 to less than --max-seconds"),
        (["--max-pixels", "0"], "error: pixels: expected a positive number"),
    ],
)
def test_a_bad_option(arguments: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(str(model), *arguments, capsys=capsys).startswith(words)


def test_a_port_in_use(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = error_of(str(model), "--port", port, capsys=capsys)
    assert line.startswith(f"error: --port: cannot use 127.0.0.1:{port} (Address already in use)")


def test_a_model_that_cannot_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = ("--port", str(free_port()))
    (tmp_path / "checkpoints").mkdir()
    assert "expected a run directory with checkpoints/best.ckpt" in error_of(str(tmp_path), *port, capsys=capsys)
    assert "no such file" in error_of(str(tmp_path / "x.onnx"), *port, capsys=capsys)
    other = onnx_files.write(tmp_path / "other.onnx", metadata=onnx_files.with_value("format", 99))
    line = error_of(str(other), *port, capsys=capsys)
    assert "has the format 99" in line
    assert "this version reads format 1" in line
    latents = onnx_files.write(tmp_path / "latents.onnx", metadata=onnx_files.with_value("interpretation", "latents"))
    assert "which are no predictions" in error_of(str(latents), *port, capsys=capsys)


def test_without_litserve(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litserve", None)
    line = error_of(str(model), "--port", str(free_port()), capsys=capsys)
    assert "pip install 'perceiver-multimodal[serve]'" in line


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server(model: Path, tmp_path: Path) -> None:
    """Answers, errors and batches over sockets and through processes; ends without leaving a process."""
    port = free_port()
    command = [sys.executable, "-m", "perceiver.serving.main", str(model), "--port", str(port), "--max-seconds", "20"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait(client, server)
            assert client.get("/spec").json()["target"]["names"] == ["dark", "light"]
            good = client.post("/predict", json={"image": [[9, 9], [9, 9]]})
            assert (good.status_code, good.json()["label"]) == (200, "light")
            assert client.post("/predict", files={"image": ("x", b"no image")}).status_code == 400
            assert client.post("/predict", json={"image": {"bytes": base64.b64encode(b"x").decode()}}).status_code == 400
            assert client.post("/predict", json={"image": [[0, 0], [0, 0]]}).json()["label"] == "dark"
            assert listening(port) == {"127.0.0.1"}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not [path.name for path in tmp_path.iterdir() if path.name not in ("log", "model.onnx")]
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
    assert ended(server.pid)


def listening(port: int) -> set[str]:
    """The IPv4 addresses on which this machine listens at a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address, number in places if int(number, 16) == port}


def ended(group: int) -> bool:
    """Whether all processes of a group end within ten seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def wait(client: httpx.Client, server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server is ready."""
    for _ in range(600):
        assert server.poll() is None
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server is not ready")
