"""The page in a real browser, headless Chromium: it uploads, reads the answer, leaves modalities out, loads nothing else."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

if find_spec("gradio") is None:  # importing it takes seconds, which only the page's own process needs
    pytest.skip("Gradio is not installed", allow_module_level=True)
pytest.importorskip("playwright")

from exported_models import MODALITIES, NAMES
from PIL import Image
from playwright.sync_api import sync_playwright

import perceiver
from perceiver.checkpoints.build import build_model
from perceiver.model import Perceiver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
WORDS = "a small <b>cat</b>"
FOURIER = {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [8, 8]}
TABLE = {"_target_": "perceiver.LearnedTable", "grid": [16], "channels": 4}
MODEL: dict[str, Any] = {
    "_target_": "perceiver.Perceiver",
    "adapters": {
        "pixels": {"_target_": "perceiver.adapters.ImagePixels", "image_channels": 1, "position": FOURIER},
        "row": {"_target_": "perceiver.adapters.Table", "num_numbers": 2, "category_sizes": [3, 2], "embedding_channels": 5},
        "text": {
            "_target_": "perceiver.adapters.TextTokens", "vocabulary_size": 262, "embedding_channels": 6, "position": TABLE,
        },
    },
    "encoder": {
        "_target_": "perceiver.Encoder", "num_latents": 4, "latent_channels": 16, "num_layers_per_block": 1,
        "num_self_heads": 2,
    },
    "head": {"_target_": "perceiver.PooledHead", "num_classes": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained model whose name would be HTML."""
    torch.manual_seed(0)
    spec = {
        "modalities": {name: MODALITIES[name] for name in ("pixels", "row", "text")},
        "target": {"kind": "classes", "names": NAMES},
        "num_classes": 3,
    }
    return perceiver.save(build_model(MODEL, spec=spec), tmp_path_factory.mktemp("run") / "model & <b>.ckpt")


@pytest.fixture(scope="module")
def model(run: Path) -> Perceiver:
    return perceiver.load(run)


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """The address of `perceiver-demo`, which runs until the end of these tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "perceiver.serving.demo.main", str(run), "--port", str(port), "--max-pixels", "10000"]
    log = run.with_suffix(".log")
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        for _ in range(1200):
            assert server.poll() is None, log.read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert "Traceback" not in log.read_text()


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Any]:
    """A tab of a browser with a fresh profile; it has the hosts that were asked."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as started:
        context = started.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1280, "height": 1000}
        )
        tab = context.new_page()
        tab.asked = set()
        tab.on("request", lambda request: tab.asked.add(urlsplit(request.url)._replace(path="", query="", fragment="")))
        yield tab
        context.close()


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    Image.fromarray((np.arange(64).reshape(8, 8) * 4).astype(np.uint8)).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def predict(tab: Any) -> None:
    """Press the button, and wait for what comes."""
    tab.click("#predict")
    tab.wait_for_function("() => !document.querySelector('.generating, .pending')")


def test_a_digit_is_uploaded_and_removed(tab: Any, address: str, model: Perceiver, digit: Path, tmp_path: Path) -> None:
    tab.goto(address)
    assert tab.locator("h1").inner_text() == "model & <b>.ckpt"
    predict(tab)
    error = tab.locator("#message .error")
    error.wait_for()
    assert "expected one or more of the modalities ['pixels', 'row', 'text']" in error.inner_text()

    tab.set_input_files("input[type=file] >> nth=0", str(digit))
    tab.get_by_role("textbox", name="text").fill(WORDS)
    tab.get_by_role("textbox", name="age").fill("30")
    predict(tab)
    prediction = tab.locator("#prediction")
    prediction.wait_for()
    [expected] = model.predict({"pixels": Image.open(digit), "text": WORDS, "row": {"age": "30"}})
    assert tab.locator("#prediction h2").inner_text() == expected.label
    assert f"{expected.probability:.0%}" in prediction.inner_text()
    assert {"pixels", "text", "row"} <= set(tab.locator("#shares").inner_text().split())
    assert tab.get_by_text("Where the model looks: pixels").is_visible()
    assert tab.locator(".words").inner_text() == WORDS
    assert tab.locator(".words b").count() == 0  # the text is no HTML
    assert len(tab.screenshot(path=str(tmp_path / "page.png"), full_page=True)) > 10_000

    tab.get_by_label("Clear", exact=True).or_(tab.get_by_label("Remove")).first.click()
    predict(tab)
    tab.get_by_text("Where the model looks: pixels").wait_for(state="hidden")
    assert "pixels" not in tab.locator("#shares").inner_text().split()
    [without] = model.predict({"text": WORDS, "row": {"age": "30"}})
    assert f"{without.probability:.0%}" in prediction.inner_text()

    tab.get_by_role("textbox", name="age").fill("old")
    predict(tab)
    error.wait_for()
    assert "modality 'row', column 'age'" in error.inner_text()
    assert "Traceback" not in tab.content()
    hosts = {one.hostname for one in tab.asked if one.scheme in ("http", "https", "ws", "wss")}
    assert hosts == {"127.0.0.1"}


def test_a_large_image_is_refused(tab: Any, address: str, tmp_path: Path) -> None:
    Image.new("L", (101, 100)).save(tmp_path / "large.png")
    tab.goto(address)
    tab.set_input_files("input[type=file] >> nth=0", str(tmp_path / "large.png"))
    predict(tab)
    error = tab.locator("#message .error")
    error.wait_for()
    assert "expected at most 10,000 pixels in an image, got 10,100" in error.inner_text()
