"""Sharding a model over processes with FSDP2, where the strategy asks for it."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from perceiver.encoder import Encoder
from perceiver.model import Perceiver


def shard(task: LightningModule, model: nn.Module) -> None:
    """Shard the parameters of `model` over the data-parallel processes, if there is a mesh of them; else do nothing.

    The latent layers are units of their own. All else belongs to the root unit, adapters too: a process whose batch lacks a
    modality does not run its adapter, and the other processes would wait for that unit.

    Args:
        task: `configure_model` of which calls this.
        model: a `perceiver.Perceiver`, or any module, which then is one unit.
    """
    mesh = task.device_mesh
    if mesh is None or isinstance(model, FSDPModule):
        return
    data_parallel = mesh["data_parallel"]
    if isinstance(model, Perceiver) and isinstance(model.encoder, Encoder):
        for block in model.encoder.blocks:
            for layer in block.children():
                fully_shard(layer, mesh=data_parallel)
    fully_shard(model, mesh=data_parallel)
