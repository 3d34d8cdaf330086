"""Small ONNX files as `perceiver.export` writes them, made by hand, and hostile variants of them."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SPEC: dict[str, Any] = {
    "modalities": {"image": {"kind": "image", "shape": [1, 2, 2], "range": [0, 10]}},
    "target": {"kind": "classes", "names": ["dark", "light"]},
}


def tensor(name: str, part: str | None, shape: list[int], dtype: str) -> dict[str, Any]:
    """An entry of the metadata."""
    entry = {"name": name, "modality": "image", "part": part, "dtype": dtype, "shape": shape}
    return {**entry, "example": shape, "axes": []}


METADATA: dict[str, Any] = {
    "format": 1,
    "versions": {"perceiver": "0.1.0", "torch": "2.9"},
    "spec": SPEC,
    "inputs": [tensor("image", None, [1, 2, 2], "float32"), tensor("image.mask", "mask", [], "bool")],
    "outputs": ["output"],
    "interpretation": "target",
    "text": None,
    "int8": False,
    "parameters": 8,
}


def model() -> onnx.ModelProto:
    """The outputs are minus and plus the sum of the image's pixels; zeros where it is absent."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 2])
    mask = helper.make_tensor_value_info("image.mask", TensorProto.BOOL, ["batch"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 2])
    weight = np.array([[-1.0, 1.0]] * 4, dtype=np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["sums"]),
        helper.make_node("Unsqueeze", ["image.mask", "one"], ["column"]),
        helper.make_node("Where", ["column", "sums", "zero"], ["output"]),
    ]
    constants = {"weight": weight, "one": np.array([1]), "zero": np.zeros(1, dtype=np.float32)}
    graph = helper.make_graph(
        nodes, "main", [image, mask], [output], [numpy_helper.from_array(x, name) for name, x in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


TEXT_METADATA: dict[str, Any] = {
    **METADATA,
    "spec": {**SPEC, "target": {"kind": "text", "tokenizer": {"kind": "bytes"}, "vocabulary_size": 262, "max_length": 6}},
    "outputs": ["memory.mask", "memory.key.0", "memory.value.0"],
    "interpretation": "memory",
    "generation": {
        "layers": 1, "past": [[1, 1], [1, 1]], "vocabulary_size": 262, "max_length": 6,
        "start_id": 1, "end_id": 2, "pad_id": 0, "settings": {"num_beams": 2}, "weights": "abc",
    },
}  # fmt: skip


def encoder_and_step() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The memory is the image; the logits of a step are its id times random numbers, whatever the memory."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 2])
    mask = helper.make_tensor_value_info("image.mask", TensorProto.BOOL, ["batch"])
    seen = helper.make_tensor_value_info("memory.mask", TensorProto.BOOL, ["rows", "tokens"])
    floats = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1, "tokens", "channels"])
        for name in ("memory.key.0", "memory.value.0", "past.key.0", "past.value.0", "present.key.0", "present.value.0")
    }
    one = numpy_helper.from_array(np.array([1]), "one")
    column = helper.make_node("Unsqueeze", ["image.mask", "one"], ["memory.mask"])
    copies = [helper.make_node("Identity", ["image"], [name]) for name in ("memory.key.0", "memory.value.0")]
    memory = [floats["memory.key.0"], floats["memory.value.0"]]
    encoder = helper.make_graph([column, *copies], "main", [image, mask], [seen, *memory], [one])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 1, 262])
    weight = np.random.default_rng(0).normal(size=(1, 262)).astype(np.float32)
    constants = [one, numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([-1, 1, 1, 1]), "shape")]
    nodes = [
        helper.make_node("Cast", ["ids"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "weight"], ["logits"]),
        helper.make_node("Reshape", ["number", "shape"], ["new"]),
        helper.make_node("Concat", ["past.key.0", "new"], ["present.key.0"], axis=2),
        helper.make_node("Concat", ["past.value.0", "new"], ["present.value.0"], axis=2),
    ]
    inputs = [ids, seen, *memory, floats["past.key.0"], floats["past.value.0"]]
    step = helper.make_graph(nodes, "main", inputs, [logits, floats["present.key.0"], floats["present.value.0"]], constants)
    opset = helper.make_opsetid("", 18)
    made = [helper.make_model(graph, opset_imports=[opset], ir_version=9) for graph in (encoder, step)]
    return made[0], made[1]


def with_metadata(made: onnx.ModelProto, metadata: Any) -> bytes:
    """The bytes of a model with this metadata; a text is written as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    copy.metadata_props.add(key="perceiver", value=metadata if isinstance(metadata, str) else json.dumps(metadata))
    return bytes(copy.SerializeToString())


def write(path: Path, *, change: Callable[[onnx.ModelProto], object] | None = None, metadata: Any = METADATA) -> Path:
    """Write the model, changed, with this metadata; a text is written as it is."""
    made = model()
    if change is not None:
        change(made)
    made.metadata_props.add(key="perceiver", value=metadata if isinstance(metadata, str) else json.dumps(metadata))
    path.write_bytes(made.SerializeToString())
    return path


def with_value(place: str, value: Any) -> dict[str, Any]:
    """The metadata with another value at a place such as `spec.target.names`."""
    changed: Any = deepcopy(METADATA)
    *above, last = place.split(".")
    node = changed
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value
    return dict(changed)


def _in_another_file(made: onnx.ModelProto, location: str) -> None:
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)


def _loop(made: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    made.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], object] | None, Any, str]] = {
    "secrets of another file": (lambda made: _in_another_file(made, "../../etc/passwd"), METADATA, "another file"),
    "operators of a library": (lambda made: setattr(made.graph.node[0], "domain", "evil.ops"), METADATA, "evil.ops Flatten"),
    "endless loop": (_loop, METADATA, "'Loop' is one that"),
    "functions": (lambda made: made.functions.add(name="f"), METADATA, "defines functions"),
    "nested metadata": (None, "[" * 100_000, "not a JSON object"),
    "list as metadata": (None, [], "not a JSON object"),
    "another format": (None, with_value("format", 7), r"format 7, written by perceiver-multimodal 0\.1\.0.*reads format 1"),
    "no modalities": (None, with_value("spec.modalities", {}), "damaged: spec.modalities"),
    "names that are none": (None, with_value("spec.target.names", "ab"), "damaged: spec.target.names"),
    "a class as the kind of target": (None, with_value("spec.target.kind", "os.system"), "damaged: spec.target"),
    "enormous input": (None, with_value("inputs.0.example", [1, 10**6, 10**6]), "damaged: inputs"),
    "negative size": (None, with_value("inputs.0.example", [1, -2, 2]), "damaged: inputs"),
    "mask of unknown axes": (None, with_value("inputs.1.axes", [5]), "damaged: inputs"),
    "another input": (None, with_value("inputs.0.name", "sound"), "the graph has"),
    "infinite mean": (None, with_value("spec.target.mean", [1e999, 0]), "damaged: spec.target.mean"),
}
"""Hostile files: a change of the graph, the metadata, and the words of the expected error."""
