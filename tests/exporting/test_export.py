"""Exported models compute what the model computes, for every adapter and head, with masks, free sizes and any batch."""

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_models import (
    MODALITIES,
    NAMES,
    classifier,
    encoder,
    masked_text_model,
    model_of_all_heads,
    text_generating_model,
)

import perceiver
import perceiver.exporting
from perceiver.exporting.program import program_of
from perceiver.exporting.signature import inputs_of
from perceiver.interop.backbones import Timm
from perceiver.interop.backbones.request import BackboneRequest
from perceiver.modalities.preprocess import preprocess

pytest.importorskip("onnxscript")
exported = pytest.importorskip("perceiver.exported")

TOLERANCE = 1e-5
SEVERAL = ("row", "table_pixels", "text")
OF_ALL_HEADS = ("mel", "patches", "pixels")
PAIRS = (
    ("bins", "points"), ("frames", "vector"), ("mel_stages", "stages"), ("series", "wave"),
    ("series_patches", "series_stages"), ("stem", "video"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def several() -> perceiver.Perceiver:
    """A classifier of images, table rows and texts."""
    return classifier(*SEVERAL)


@pytest.fixture(scope="module")
def exported_several(several: perceiver.Perceiver, folder: Path) -> Any:
    return exported.load(perceiver.export(several, folder / "several.onnx"), threads=1)


def raw_sample(name: str, generator: np.random.Generator) -> Any:
    """A random raw sample of a modality, of random size where sizes are free."""
    spec = MODALITIES[name]
    kind, size = spec["kind"], int(generator.integers(9, 15))
    if kind == "table":
        choices = [{"age": 31, "price": "1.234,5 €", "colour": "red"}, {"age": None, "open": True, "price": 2.0}]
        return choices[int(generator.integers(2))]
    if kind == "timeseries":
        values = generator.normal(size=(size, 2))
        values[0, 1] = np.nan
        return {"values": values, "times": 1e9 + generator.uniform(0, 9, size)}
    if kind == "text":
        return "héllo wörld"[: int(generator.integers(1, 11))]
    if kind == "audio":
        length = round(spec["sample_rate"] * spec["max_seconds"] * generator.uniform(0.3, 1))
        return (generator.normal(size=length) * 2000).astype(np.int16)
    shape = [size if axis is None else axis for axis in spec["shape"]]
    if kind in ("image", "video"):
        return generator.integers(0, 256, size=(*shape[1:], shape[0]), dtype=np.uint8)
    return generator.normal(size=shape).astype(np.float32)


def expected(model: perceiver.Perceiver, samples: list[dict[str, Any]]) -> np.ndarray:
    """Outputs of each sample alone, with only its own modalities."""
    rows = []
    for sample in samples:
        inputs: dict[str, Any] = {}
        for name, raw in sample.items():
            x = preprocess(raw, spec=MODALITIES[name], name=name)
            inputs[name] = {part: one[None] for part, one in x.items()} if isinstance(x, dict) else x[None]
        with torch.no_grad():
            rows.append(model(inputs))
    return torch.cat(rows).numpy()


def assert_same(graph: Any, model: perceiver.Perceiver, samples: list[dict[str, Any]]) -> None:
    """The outputs of a batch are those of each sample alone."""
    [(_, outputs)] = graph.compute(samples)
    np.testing.assert_allclose(outputs["output"], expected(model, samples), rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("names", PAIRS)
def test_adapters(names: tuple[str, str], folder: Path) -> None:
    """Samples of one modality, of different sizes, in one batch with samples of another, and alone."""
    model = classifier(*names)
    graph = exported.load(perceiver.export(model, folder / f"{names[0]}.onnx"), threads=1)
    generator = np.random.default_rng(0)
    samples = [{name: raw_sample(name, generator)} for name in names * 2]
    samples.append({name: raw_sample(name, generator) for name in names})
    assert_same(graph, model, samples)
    for sample in samples[:2]:
        assert_same(graph, model, [sample])


def test_every_adapter_is_exported_by_some_test() -> None:
    assert {*SEVERAL, *OF_ALL_HEADS, *(name for names in PAIRS for name in names)} == set(MODALITIES)


def test_any_subset_in_each_sample(several: perceiver.Perceiver, exported_several: Any) -> None:
    generator = np.random.default_rng(1)
    subsets = [("row",), ("text",), ("table_pixels",), ("row", "text"), SEVERAL]
    samples = [{name: raw_sample(name, generator) for name in names} for names in subsets]
    assert_same(exported_several, several, samples)
    for sample in samples:
        assert_same(exported_several, several, [sample])


@pytest.mark.slow
def test_some_of_the_modalities(several: perceiver.Perceiver, folder: Path) -> None:
    """A file may take fewer modalities than the model."""
    graph = exported.load(perceiver.export(several, folder / "row.onnx", modalities=["row"]), threads=1)
    assert graph.modalities == ["row"]
    assert_same(graph, several, [{"row": {"age": 31}}])
    with pytest.raises(ValueError, match=r"expected one or more of the modalities \['row'\], got \['text'\]"):
        graph.predict({"text": "a"})


def test_predictions(several: perceiver.Perceiver, exported_several: Any) -> None:
    generator = np.random.default_rng(2)
    samples = [{"table_pixels": raw_sample("table_pixels", generator), "text": "abc"}, {"row": {"age": 50}}]
    theirs, ours = several.predict(samples), exported_several.predict(samples)
    assert [type(one) for one in ours] == [perceiver.Prediction] * 2
    assert [one.label for one in ours] == [one.label for one in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.probabilities == pytest.approx(other.probabilities, abs=TOLERANCE)


@pytest.mark.slow
def test_heads(folder: Path) -> None:
    """All heads at once, with images of different sizes and recordings of different lengths."""
    model = model_of_all_heads()
    graph = exported.load(perceiver.export(model, folder / "heads.onnx"), threads=1)
    generator = torch.Generator().manual_seed(0)
    for batch, rows, columns, samples in ((3, 9, 10, 500), (1, 8, 15, 333)):
        inputs = {
            "mel": torch.randn(batch, 1, samples, generator=generator),
            "patches": torch.randn(batch, 3, rows, columns, generator=generator),
            "pixels": torch.randn(batch, 1, columns, rows, generator=generator),
        }
        masks = {name: torch.ones(batch, *x.shape[2:], dtype=torch.bool) for name, x in inputs.items()}
        masks["mel"][0, samples // 2 :] = False
        masks["pixels"][0, :, rows // 2 :] = False
        masks["patches"][-1, rows // 2 :] = False
        with torch.no_grad():
            wanted = model(inputs, masks)
        named = {name: x.numpy() for name, x in inputs.items()} | {f"{name}.mask": x.numpy() for name, x in masks.items()}
        outputs = graph.run(named)
        assert list(outputs) == [f"output.{name}" for name in wanted]
        for name, x in wanted.items():
            np.testing.assert_allclose(outputs[f"output.{name}"], x.numpy(), rtol=0, atol=TOLERANCE, err_msg=name)


def test_texts_without_a_maximum_need_no_memory() -> None:
    text = {"kind": "text", "shape": [None], "vocabulary_size": 262}
    tracemalloc.start()
    [ids, *_] = inputs_of({"note": text})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids.dtype == "int64"
    assert peak < 1e7, "sizes are tried one by one, out of 2**31"


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "audio", "shape": [1, None], "sample_rate": 2**31 - 1},
        {"kind": "timeseries", "num_values": 2**31 - 1},
        {"kind": "array", "shape": [2**20, None, 24], "channel_axis": 0},
        {"kind": "image", "shape": [1, 32768, 32768]},
    ],
)
def test_a_spec_that_asks_for_much_memory_is_refused(spec: dict[str, Any]) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="export: modality 'x': expected samples of at most 268,435,456 numbers"):
        inputs_of({"x": spec})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.slow
def test_masked_text(folder: Path) -> None:
    """The positions to predict are an input; gaps are filled as the model fills them."""
    model = masked_text_model()
    graph = exported.load(perceiver.export(model, folder / "text.onnx", opset=20), threads=1)
    for one_by_one in (False, True):
        text = "he[MASK][MASK]o w[MASK]"
        assert graph.fill_in(text, one_by_one=one_by_one) == perceiver.fill_in(model, text, one_by_one=one_by_one).text
    ids = torch.tensor([[104, 107, 114, 20]])
    with torch.no_grad():
        wanted = model({"text": ids})
    np.testing.assert_allclose(graph.run({"text": ids.numpy()})["output"], wanted.numpy(), rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="at least one gap"):
        graph.fill_in("no gap")
    with pytest.raises(ValueError, match="no predictions"):
        graph.predict("text")


def test_all_outputs_of_text_generation_are_refused(folder: Path) -> None:
    with pytest.raises(perceiver.exporting.ExportError, match=r"CausalDecoder generates .*outputs=target.*outputs=latents"):
        perceiver.export(text_generating_model(), folder / "never.onnx", outputs="all")
    assert not (folder / "never.onnx").exists()


@pytest.mark.slow
def test_latents_of_text_generation(folder: Path) -> None:
    model = text_generating_model()
    ids = torch.tensor([[104, 107, 114, 20]])
    program = torch.export.load(perceiver.export(model, folder / "latents.pt2", outputs="latents")).module()
    with torch.no_grad():
        found, wanted = program(ids, torch.ones_like(ids, dtype=torch.bool)), model.encode({"text": ids})
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)


CODE = """
import sys, time
start = time.perf_counter()
import numpy as np
import perceiver.exported
model = perceiver.exported.load(sys.argv[1], threads=1)
[one] = model.predict({"table_pixels": np.zeros((5, 6), np.uint8), "text": "abc", "row": {"age": "41"}})
print(one.label, "torch" in sys.modules, "PIL" in sys.modules, time.perf_counter() - start)
"""


def test_without_torch(exported_several: Any, several: perceiver.Perceiver) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(exported_several.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sample = {"table_pixels": np.zeros((5, 6), np.uint8), "text": "abc", "row": {"age": "41"}}
    [theirs] = several.predict(sample)
    assert done.stdout.split()[:3] == [theirs.label, "False", "False"]
    assert theirs.label in NAMES


class Sorting(torch.nn.Module):
    """An adapter with a Python decision by data, which no program holds."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.channels = inner.channels

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return self.inner(x if bool(x.sum() > 0) else -x, mask)


class Cholesky(torch.nn.Module):
    """A head whose operator has no ONNX form."""

    output_channels = 8

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.linalg.cholesky_ex(latents.transpose(1, 2) @ latents)[0][:, 0]


def test_a_layer_that_cannot_be_exported_is_named(folder: Path) -> None:
    model = classifier("pixels")
    model.adapters["pixels"] = Sorting(model.adapters["pixels"])
    with pytest.raises(perceiver.exporting.ExportError, match=r"layer adapters\.pixels \(Sorting\) cannot be exported"):
        perceiver.export(model, folder / "never.pt2", outputs="latents")
    model = classifier("pixels")
    model.head = Cholesky()
    with pytest.raises(perceiver.exporting.ExportError, match=r"layer head uses .*cholesky.*no ONNX form"):
        perceiver.export(model, folder / "never.onnx", outputs="all")
    assert not list(folder.glob("never*"))
    assert {layer.attention for layer in model.modules() if hasattr(layer, "attention") and isinstance(layer.attention, str)}


def of_network(request: BackboneRequest, **spec: Any) -> perceiver.Perceiver:
    """A classifier of one modality, whose tokens are the features of a network with random weights."""
    facts = {**request.facts(), **spec}
    adapter = request.build(facts)
    return perceiver.Perceiver(
        adapters={"x": adapter},
        encoder=encoder(adapter.channels, num_blocks=1, num_cross_attends=1),
        head=perceiver.PooledHead(latent_channels=8, num_classes=3),
        spec={"modalities": {"x": facts}, "target": {"kind": "classes", "names": NAMES}},
    ).eval()


def test_a_frozen_network() -> None:
    """The program, from which files are written, runs a batch at once, and the model one sample at a time."""
    model = of_network(Timm(model_name="test_resnet", pretrained=False, stage=0, image_size=32), kind="image")
    assert model.spec is not None
    program = program_of(model, inputs_of(model.spec["modalities"]), outputs="target", indexed=False).module()
    images, present = torch.randn(3, 3, 32, 32), torch.tensor([True, False, True])
    with torch.no_grad():
        wanted = model({"x": images}, {"x": present})
    torch.testing.assert_close(program(images, present), wanted, rtol=0, atol=TOLERANCE)


def test_a_network_that_runs_once_per_size_is_refused(folder: Path) -> None:
    model = of_network(Timm(model_name="test_resnet", pretrained=False, stage=0), kind="image", shape=[3, None, None])
    match = r"modality 'x' has samples of different sizes, and its network, TimmNetwork, cannot ignore padding.*image_size"
    with pytest.raises(perceiver.exporting.ExportError, match=match):
        perceiver.export(model, folder / "refused.onnx")
    assert not (folder / "refused.onnx").exists()


@pytest.mark.slow
def test_int8(folder: Path, exported_several: Any) -> None:
    """Weights shrink, outputs stay close, and nothing of this machine is in the file."""
    model = masked_text_model()
    file = perceiver.export(model, folder / "latents.int8.onnx", outputs="latents", int8=True)
    graph = exported.load(file, threads=1)
    ids = torch.tensor([[104, 107, 114, 20]])
    with torch.no_grad():
        wanted = model.encode({"text": ids}).numpy()
    found = graph.run({"text": ids.numpy()})["latents"]
    assert 0 < np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()
    assert b"/perceiver/" not in file.read_bytes() + exported_several.path.read_bytes()
