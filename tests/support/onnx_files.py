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
