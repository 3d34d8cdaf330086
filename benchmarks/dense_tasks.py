"""Flow or segmentation of a run against baselines without learning, on the same split.

python benchmarks/dense_tasks.py RUN_DIR
python benchmarks/dense_tasks.py RUN_DIR --split test

Baselines for flow: no motion, the mean motion of the training scenes, and block matching (the displacement in whole pixels
whose surroundings in the second frame differ least). Baselines for segmentation: background everywhere, and the most
frequent class at each place in 512 training scenes. Prints a line for each, the run last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

import perceiver
from perceiver.run.assembly.data import make_data
from perceiver.samples.batch import Batch
from perceiver.targets.kinds import target_of

TRAINING_SCENES = 512


def block_matching(frames: Tensor, *, reach: int, window: int) -> Tensor:
    """Estimate flow `(B, 2, H, W)` in whole pixels for frames `(B, C, 2, H, W)` by least squared difference in a window."""
    first, second = frames.unbind(dim=2)
    height, width = first.shape[2:]
    padded = F.pad(second, (reach,) * 4, mode="replicate")
    costs, moves = [], []
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            shifted = padded[..., row : row + height, column : column + width]
            difference = (shifted - first).square().sum(dim=1, keepdim=True)
            costs.append(F.avg_pool2d(difference, window, stride=1, padding=window // 2, count_include_pad=False)[:, 0])
            moves.append([column - reach, row - reach])
    best = torch.stack(costs).argmin(dim=0)
    return torch.tensor(moves, dtype=torch.float32)[best].movedim(-1, 1)


def end_point_error(batches: Iterable[Batch], predict: Callable[[Batch], Tensor]) -> float:
    """Return the mean Euclidean error of `predict`, `(B, 2, H, W)` in pixels, over the valid pixels of all batches."""
    errors = []
    for batch in batches:
        assert batch.target is not None
        distance = torch.linalg.vector_norm(predict(batch) - batch.target, dim=1)
        errors.append(distance if batch.target_mask is None else distance[batch.target_mask])
    return float(torch.cat([error.flatten() for error in errors]).mean())


def mean_iou(batches: Iterable[Batch], predict: Callable[[Batch], Tensor], *, classes: int) -> float:
    """Return the mean IoU of `predict`, class numbers `(B, H, W)`, over the valid pixels of all batches."""
    metric = MulticlassJaccardIndex(num_classes=classes)
    for batch in batches:
        assert batch.target is not None
        valid = torch.ones_like(batch.target, dtype=torch.bool) if batch.target_mask is None else batch.target_mask
        metric.update(predict(batch)[valid], batch.target[valid])
    return float(metric.compute())


def training_batches(module: Any) -> list[Batch]:
    """Return training batches with at least `TRAINING_SCENES` scenes."""
    batches: list[Batch] = []
    for batch in module.train_dataloader():
        batches.append(batch)
        if sum(loaded.size for loaded in batches) >= TRAINING_SCENES:
            break
    return batches


def flow_rows(model: perceiver.Perceiver, module: Any, batches: list[Batch]) -> dict[str, float]:
    """Return end-point errors by name."""
    target: Any = target_of(model.spec)
    moved = [batch.target.movedim(1, -1)[batch.target_mask] for batch in training_batches(module)]  # type: ignore[union-attr]
    mean = torch.cat(moved).mean(dim=0)[:, None, None]
    frames = target.modality
    return {
        "no motion": end_point_error(batches, lambda batch: torch.zeros_like(batch.target)),
        "mean motion": end_point_error(batches, lambda batch: mean.expand_as(batch.target)),
        **{
            f"block matching, {window} x {window}": end_point_error(
                batches,
                lambda batch, window=window: block_matching(batch.inputs[frames], reach=4, window=window),  # type: ignore[misc]
            )
            for window in (3, 5, 7)
        },
        "this run": end_point_error(batches, lambda batch: target.values(model(batch.inputs, batch.masks))),
    }


def segmentation_rows(model: perceiver.Perceiver, module: Any, batches: list[Batch]) -> dict[str, float]:
    """Return mean IoUs by name."""
    names = module.spec["target"]["names"]
    count = len(names)
    places = sum(F.one_hot(batch.target, count).sum(dim=0) for batch in training_batches(module))  # type: ignore[arg-type]
    frequent = torch.as_tensor(places).argmax(dim=-1)
    most = int(torch.tensor(module.spec["target"]["counts"]).argmax())

    def score(predict: Callable[[Batch], Tensor]) -> float:
        return mean_iou(batches, predict, classes=count)

    return {
        f"all {names[most]}": score(lambda batch: torch.full_like(batch.target, most)),
        "most frequent class at each place": score(lambda batch: frequent.expand_as(batch.target)),
        "this run": score(lambda batch: model(batch.inputs, batch.masks).argmax(dim=-1)),
    }


@torch.no_grad()
def compare(run: Path, *, split: str) -> dict[str, float]:
    """Return scores by name: end-point errors for a flow target, else mean IoUs."""
    model = perceiver.load(run).eval()
    config = OmegaConf.load(run / "config.yaml")
    module = make_data(config.data)
    module.prepare_data()
    module.spec = model.spec
    module.setup("fit")
    module.setup("test")
    batches = list(getattr(module, f"{split}_dataloader")())
    rows = flow_rows if model.spec is not None and model.spec["target"]["kind"] == "flow" else segmentation_rows
    return rows(model, module, batches)


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    for name, score in compare(options.run, split=options.split).items():
        print(f"{name:<36} {score:.4f}")


if __name__ == "__main__":
    main()
