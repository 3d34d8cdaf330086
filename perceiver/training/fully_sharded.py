"""Sharding of a model over processes with FSDP2, if the strategy requires it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from perceiver.encoders.autoregressive import AutoregressiveEncoder
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.interface import Interface
from perceiver.model import Perceiver

_CALLED = "called_by_task"


def shard(task: LightningModule, model: nn.Module) -> None:
    """Shard the parameters of `model` over the data-parallel processes if there is a device mesh.

    Each latent layer is a separate unit. Everything else, adapters included, belongs to the root unit: a process whose batch
    lacks a modality does not run its adapter, and the other processes would wait for a separate unit.

    Args:
        task: task whose `configure_model` calls this.
        model: a `perceiver.Perceiver`, or any module, which then forms a single unit.

    Raises:
        ValueError: for a model with parameters that are single numbers, which FSDP2 cannot shard.
    """
    mesh = task.device_mesh
    if mesh is None or isinstance(model, FSDPModule):
        return
    if numbers := [name for name, parameter in model.named_parameters() if parameter.ndim == 0]:
        raise ValueError(
            f"trainer=fsdp2: expected parameters that can be sharded, but {', '.join(numbers)} are single numbers, as an "
            "EmbeddingHead learns them. Use trainer=ddp."
        )
    data_parallel = mesh["data_parallel"]
    if isinstance(model, Perceiver) and isinstance(model.encoder, Encoder):
        for block in model.encoder.blocks:
            for layer in block.children():
                fully_shard(layer, mesh=data_parallel)
    if isinstance(model, Perceiver) and isinstance(model.encoder, AutoregressiveEncoder):
        for layer in model.encoder.layers:
            fully_shard(layer, mesh=data_parallel)
    if isinstance(model, Perceiver) and isinstance(model.encoder, Interface):
        for layer in model.encoder.latent_layers():
            fully_shard(layer, mesh=data_parallel)
    fully_shard(model, mesh=data_parallel)
    setattr(model, _CALLED, _call)
    register_fsdp_forward_method(model, _CALLED)


def with_parameters(model: nn.Module, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that uses a model in any way; the parameters of a sharded model are whole meanwhile.

    FSDP2 gathers parameters for `forward` alone, but an objective may call other methods of the model.

    Args:
        model: the model, sharded or not.
        function: gets the model and the arguments.
        args, kwargs: arguments.
    """
    return getattr(model, _CALLED, _call)(function, model, *args, **kwargs)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)
