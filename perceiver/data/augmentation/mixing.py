"""MixUp and CutMix: training batches in which every image, with its target, is a mixture of two.

Sources: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); S. Yun et al., "CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features" (2019).
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms import v2

from perceiver.batch import Batch


class MixUpCutMix:
    """Mix the images of a batch with their neighbours; targets become class probabilities `(B, num_classes)`.

    If both are enabled, the first half of a batch gets MixUp and the second CutMix, with one ratio per half, as in the
    published ImageNet training of Perceiver IO (deepmind-research, `perceiver/train/dataset.py`). Batches must be shuffled,
    as training batches are. Draws from torch's global generator; works on the batch's device.

    Args:
        num_classes: number of classes.
        mixup_alpha: ratios are Beta(alpha, alpha), near 0 and 1 for small alpha; None: no MixUp.
        cutmix_alpha: the same for the area of the rectangles; 1 is uniform; None: no CutMix.
        probability: probability that a batch is mixed.
        modality: name of the image modality.

    Raises:
        ValueError: for an argument out of range, or if both are disabled.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mixup_alpha: float | None = 0.2,
        cutmix_alpha: float | None = 1.0,
        probability: float = 1.0,
        modality: str = "image",
    ) -> None:
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if alpha is not None and not alpha > 0:
                raise ValueError(f"MixUpCutMix.{name}: expected a number above 0, or null to switch it off, got {alpha}.")
        if mixup_alpha is None and cutmix_alpha is None:
            raise ValueError("MixUpCutMix: expected mixup_alpha or cutmix_alpha, got neither; use task.mix=null.")
        if not 0 <= probability <= 1:
            raise ValueError(f"MixUpCutMix.probability: expected a share of the batches from 0 to 1, got {probability}.")
        self.num_classes = num_classes
        self.probability = probability
        self.modality = modality
        self.kinds: list[v2.MixUp | v2.CutMix] = []
        if mixup_alpha is not None:
            self.kinds.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
        if cutmix_alpha is not None:
            self.kinds.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))

    def __call__(self, batch: Batch) -> Batch:
        """Mix a batch of images `(B, C, H, W)` with targets `(B,)` or `(B, num_classes)`; not in place.

        Raises:
            ValueError: if the batch has other modalities, which a mixed target would not fit, or no target.
        """
        images = batch.inputs.get(self.modality)
        if not isinstance(images, Tensor) or images.ndim != 4 or len(batch.inputs) > 1 or batch.masks:
            raise ValueError(
                f"task.mix: expected batches of only the images {self.modality!r} (B, C, H, W), none of them masked; "
                f"got {sorted(batch.inputs)} with masks of {sorted(batch.masks) or 'none'}. Set task.mix=null for "
                "this data."
            )
        if batch.target is None:
            raise ValueError("task.mix: expected a target for every image, got none.")
        if torch.rand(()) >= self.probability:
            return batch
        mixed, target = self._mix(images, batch.target)
        return replace(batch, inputs={self.modality: mixed}, target=target)

    def _mix(
        self, images: Float[Tensor, "batch channels height width"], target: Int[Tensor, "batch"] | Float[Tensor, "batch _"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
        sizes = [len(images) // len(self.kinds)] * len(self.kinds)
        sizes[0] += len(images) - sum(sizes)
        parts = [
            kind(part, labels)
            for kind, part, labels in zip(self.kinds, torch.split(images, sizes), torch.split(target, sizes), strict=True)
            if len(part)
        ]
        return torch.cat([part for part, _ in parts]), torch.cat([labels for _, labels in parts])
