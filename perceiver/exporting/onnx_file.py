"""ONNX files of exported programs: conversion, metadata, dynamic quantisation (extra `export`)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perceiver.exported.onnx_file import KEY, MAX_BYTES
from perceiver.exporting.program import ExportError
from perceiver.runtime.files import atomic_write

OPSETS = (18, 23)
"""Least and greatest opset that can be written."""


def require_opset(opset: int | None) -> None:
    """Raise ValueError for an opset that cannot be written."""
    if opset is not None and not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(
            f"export.opset: expected {OPSETS[0]} to {OPSETS[1]}, or null for that of torch {torch.__version__}; got {opset}."
        )


@dataclass(frozen=True)
class Graph:
    """A converted program.

    Args:
        model: an `onnx.ModelProto`.
        linear: names of the nodes that are products of linear layers outside the adapters.
    """

    model: Any
    linear: tuple[str, ...]


def onnx_of(program: Any, *, names: Sequence[str], outputs: Sequence[str], opset: int | None) -> Graph:
    """Convert a program, without names of source files.

    Raises:
        ExportError: if an operator has no ONNX form; names the operator and its layer.
        ModuleNotFoundError: without the extra `export`.
    """
    _require_extra()
    quiet = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), _without_quadratic_rule():
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=list(names),
                output_names=list(outputs),
                opset_version=opset,
                external_data=False,
            )
    except Exception as error:
        raise ExportError(_reason(program, error)) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert converted is not None
    model = converted.model_proto
    linear = tuple(node.name for node in model.graph.node if _is_linear(node))
    _strip(model)
    return Graph(model, linear)


@contextlib.contextmanager
def _without_quadratic_rule() -> Iterator[None]:
    """Skip a rewrite of two slices as one split, which compares every node with every other: a third of the whole export."""
    try:
        from onnxscript.rewriter.rules.common import slice_split_rule as rule
    except ImportError:  # releases of onnxscript have it in different places
        yield
        return
    rule.try_rewrite = lambda *arguments, **settings: None
    try:
        yield
    finally:
        del rule.try_rewrite


def write_onnx(model: Any, path: Path, *, metadata: Mapping[str, Any]) -> Path:
    """Write a model with the metadata as JSON.

    Raises:
        ExportError: for more than 2 GB, the limit of the format.
    """
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=json.dumps(metadata))
    try:
        content = model.SerializeToString()
    except Exception as error:
        raise ExportError(f"export: {path}: {error}; an ONNX file holds at most {MAX_BYTES:,} bytes.") from error
    with atomic_write(path, expected_bytes=len(content)) as file:
        file.write(content)
    return path


def quantised(graph: Graph) -> Any:
    """Return a model whose linear layers have weights of 8 bits, quantised per channel; activations are at run time.

    Adapters stay in float32: raw inputs and spectra have a range that 8 bits do not hold, and so do products with positions.
    """
    _require_extra()
    if not graph.linear:
        raise ExportError("export.int8: the model has no linear layer outside its adapters to quantise.")
    import tempfile

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it advises to run its own preprocessing
        try:
            copy = onnx.ModelProto()
            copy.CopyFrom(graph.model)
            quantize_dynamic(
                copy,
                target,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_quantize=list(graph.linear),
            )
        finally:
            logging.root.setLevel(level)
        return onnx.load(target)


def _is_linear(node: Any) -> bool:
    """Whether a node multiplies by the weight of a linear layer outside the adapters; its description names the modules."""
    text = " ".join(pair.value for pair in node.metadata_props)
    return node.op_type in ("MatMul", "Gemm") and "linear.Linear" in text and ".adapters." not in text


def _require_extra() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"export: {error.name or name} is not installed; it comes with the extra 'export': "
                "pip install 'perceiver-multimodal[export]' (in a clone: pip install -e '.[export]').",
                name=error.name,
            ) from error


def _strip(model: Any) -> None:
    """Remove descriptions, which name source files of this machine."""
    model.doc_string = ""
    for part in (model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for field in ("node", "initializer", "input", "output", "value_info"):
            for one in getattr(part, field, ()):
                if hasattr(one, "doc_string"):
                    one.doc_string = ""
                del one.metadata_props[:]


def _reason(program: Any, error: Exception) -> str:
    """Name the operator that has no ONNX form, and the layer that uses it."""
    text = str(error)
    seen: BaseException | None = error
    while seen is not None:
        text += f" {seen}"
        seen = seen.__cause__ or seen.__context__
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target) in text and re.search(r"No ONNX|not.*support|dispatch", text):
            layers = [name for name, _ in (node.meta.get("nn_module_stack") or {}).values()]
            layer = re.sub(r"^L\['self'\]\.?", "", layers[-1]).removeprefix("model.") if layers else "the model"
            return (
                f"export: layer {layer or 'the model'} uses {node.target}, which has no ONNX form. Use export.format=torch."
            )
    return f"export: no ONNX form of the model: {type(error).__name__}: {' '.join(str(error).split())[:600]}"
