"""`python train.py experiment=manifest` within this process, small."""

from hydra_runs import run as train
from manifest_cases import RATE

__all__ = ["SETTINGS", "SMALL", "train"]

SETTINGS = (
    "data.image_size=[8,8]",
    f"data.sample_rate={RATE}",
    "data.num_workers=0",
    "data.batch_size=8",
    "logger=none",
    "callbacks.samples=null",
    "callbacks.attention=null",
    "callbacks.report=null",
)
SMALL = (
    "experiment=manifest",
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.num_blocks=1",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1",
    "optimizer.lr=1e-2",
    "trainer.max_epochs=6",
    *SETTINGS,
)
