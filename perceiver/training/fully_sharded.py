"""Sharding of a model over processes with FSDP2, if the strategy requires it."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from perceiver.encoders.autoregressive import AutoregressiveEncoder
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.interface import Interface
from perceiver.model import Perceiver


def shard(task: LightningModule, model: nn.Module) -> None:
    """Shard the parameters of `model` over the data-parallel processes if there is a device mesh.

    Each latent layer is a separate unit. Everything else, adapters included, belongs to the root unit: a process whose batch
    lacks a modality does not run its adapter, and the other processes would wait for a separate unit.

    Args:
        task: task whose `configure_model` calls this.
        model: a `perceiver.Perceiver`, or any module, which then forms a single unit.
    """
    mesh = task.device_mesh
    if mesh is None or isinstance(model, FSDPModule):
        return
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
