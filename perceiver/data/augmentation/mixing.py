"""MixUp and CutMix: training batches in which every image is made of two, and so is its target.

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
    """Mixes the images of a batch with their neighbours; targets become shares of the classes `(B, num_classes)`.

    With both on, the first half of a batch gets MixUp and the other CutMix, each with a ratio drawn for the half, as in the
    published ImageNet training of Perceiver IO (deepmind-research, `perceiver/train/dataset.py`). Batches must be shuffled,
    which training batches are. Draws from torch's global generator; works on the batch's device.

    Args:
        num_classes: width of the targets.
        mixup_alpha: ratios are Beta(alpha, alpha), near 0 and 1 for small ones; None switches MixUp off.
        cutmix_alpha: the same for the area of the rectangles; 1 is uniform; None switches CutMix off.
        probability: share of the batches that are mixed.
        modality: which input the images are.

    Raises:
        ValueError: an argument out of its range, or both kinds off.
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
            raise ValueError(f"MixUpCutMix.probability: expected a share of the batches, 0 to 1, got {probability}.")
        self.num_classes = num_classes
        self.probability = probability
        self.modality = modality
        self.kinds: list[v2.MixUp | v2.CutMix] = []
        if mixup_alpha is not None:
            self.kinds.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
        if cutmix_alpha is not None:
            self.kinds.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))

    def __call__(self, batch: Batch) -> Batch:
        """A batch of images `(B, C, H, W)` with targets `(B,)` or `(B, num_classes)` -> the same, mixed; not in place.

        Raises:
            ValueError: the batch holds more than the images (a mixed target would not be that of the other modalities), or
                has no target.
        """
        images = batch.inputs.get(self.modality)
        if not isinstance(images, Tensor) or images.ndim != 4 or len(batch.inputs) > 1 or batch.masks:
            raise ValueError(
                f"task.mix: expected batches of nothing but the images {self.modality!r} (B, C, H, W), none of them masked; "
                f"got {sorted(batch.inputs)} with masks of {sorted(batch.masks) or 'none'}. Set task.mix=null for this data."
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
