"""MixUp and CutMix: training batches in which every sample, with its target, is a mixture of two.

Sources: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); S. Yun et al., "CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features" (2019).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms import v2

from perceiver.samples.batch import Batch
from perceiver.tokens.masks import presence, zero_masked


class MixUpCutMix:
    """Mix the samples of a batch with their neighbours; targets become class probabilities `(B, num_classes)`.

    Labels `(B, num_classes)` become shares. Targets of other kinds are refused: a mixture of texts is no text, and the value
    of a mixture is not that of its parts.

    MixUp takes several modalities, images, videos and waveforms, which are mixed with the same neighbour in the same ratio.
    Two samples are mixed only if both have the same modalities; others stay as they are. A mixture of recordings is as long
    as the longer. CutMix takes a single modality of images.

    If both are enabled, the first half of a batch gets MixUp and the second CutMix, with one ratio per half, as in the
    published ImageNet training of Perceiver IO (deepmind-research, `perceiver/train/dataset.py`). Batches must be shuffled,
    as training batches are. Draws from torch's global generator; works on the batch's device.

    Args:
        num_classes: number of classes.
        mixup_alpha: ratios are Beta(alpha, alpha), near 0 and 1 for small alpha; None: no MixUp.
        cutmix_alpha: the same for the area of the rectangles; 1 is uniform; None: no CutMix.
        probability: probability that a batch is mixed.
        modality: name of the image modality, or names of several modalities for MixUp: all those of the data, because a
            mixed target would not fit what is not mixed. Texts, points, tables and time series have no mixture.

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
        modality: str | Sequence[str] = "image",
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
        self.modalities = (modality,) if isinstance(modality, str) else tuple(modality)
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        if not self.modalities or (len(self.modalities) > 1 and cutmix_alpha is not None):
            raise ValueError(
                "MixUpCutMix.modality: expected the name of images, or names of several modalities with cutmix_alpha=null, "
                f"since CutMix takes only images; got {list(self.modalities)} and cutmix_alpha={cutmix_alpha}."
            )
        self.kinds: list[v2.MixUp | v2.CutMix] = []
        if mixup_alpha is not None:
            self.kinds.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
        if cutmix_alpha is not None:
            self.kinds.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))

    def __call__(self, batch: Batch) -> Batch:
        """Mix a batch with targets `(B,)` or `(B, num_classes)`; not in place.

        Raises:
            ValueError: if the batch has other modalities, or what cannot be mixed, or no target of classes or labels.
        """
        alone = batch.inputs.get(self.modalities[0]) if len(self.modalities) == 1 else None
        images = isinstance(alone, Tensor) and alone.ndim == 4 and len(batch.inputs) == 1 and not batch.masks
        if not images:
            self._require_mixable(batch)
        self._require_target(batch)
        if torch.rand(()) >= self.probability:
            return batch
        if not images:
            return self._mixed_together(batch)
        assert isinstance(alone, Tensor)
        assert batch.target is not None
        mixed, target = self._mix(alone, batch.target)
        return replace(batch, inputs={self.modalities[0]: mixed}, target=target)

    def _require_mixable(self, batch: Batch) -> None:
        if self.cutmix_alpha is not None:
            raise ValueError(
                f"task.mix: expected batches of only the images {self.modalities[0]!r} (B, C, H, W), none of them masked; "
                f"got {sorted(batch.inputs)} with masks of {sorted(batch.masks) or 'none'}. Set task.mix=null for "
                "this data; or, for images and sound alone, cutmix_alpha=null and their names in task.mix.modality."
            )
        for name, x in batch.inputs.items():
            if name not in self.modalities or not isinstance(x, Tensor) or not x.is_floating_point():
                raise ValueError(
                    f"task.mix: expected only {', '.join(self.modalities)} (task.mix.modality), images and sound; got "
                    f"{name!r}, which would not fit a mixed target. Set task.mix=null for this data."
                )

    def _require_target(self, batch: Batch) -> None:
        target = batch.target
        if target is None:
            raise ValueError("task.mix: expected a target for every image, got none.")
        if not (target.ndim == 1 and not target.is_floating_point()) and target.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"task.mix: expected classes (B,), or probabilities or labels (B, {self.num_classes}), got a target of "
                f"{target.dtype} {tuple(target.shape)}. Set task.mix=null for targets of other kinds."
            )

    def _mixed_together(self, batch: Batch) -> Batch:
        """Mix all modalities by MixUp with one ratio."""
        assert batch.target is not None
        assert self.mixup_alpha is not None, "checked"
        ratio = float(torch.distributions.Beta(self.mixup_alpha, self.mixup_alpha).sample())
        alike = torch.ones(batch.size, dtype=torch.bool, device=batch.target.device)
        for name, x in batch.inputs.items():
            present = presence(x, batch.masks.get(name))
            if present is not None:
                alike &= present == present.roll(1)
        share = torch.where(alike, ratio, 1.0)
        inputs: dict[str, Tensor | dict[str, Tensor]] = {}
        masks = dict(batch.masks)
        for name, x in batch.inputs.items():
            assert isinstance(x, Tensor), "checked"
            mask = batch.masks.get(name)
            if mask is not None:
                full = mask.view(-1, *[1] * (x.ndim - 1)) if mask.ndim == 1 else mask[:, None]
                x = zero_masked(x, full)
                masks[name] = mask | (mask.roll(1, 0) & alike.view(-1, *[1] * (mask.ndim - 1)))
            inputs[name] = _weighted(x, share)
        target = batch.target
        if not target.is_floating_point():
            target = torch.nn.functional.one_hot(target, self.num_classes) if target.ndim == 1 else target
        return replace(batch, inputs=inputs, masks=masks, target=_weighted(target.to(torch.float32), share))

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


def _weighted(x: Tensor, share: Float[Tensor, "batch"]) -> Tensor:
    """Return the samples in this share, and their neighbours in the rest."""
    own = share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return x * own + x.roll(1, 0) * (1 - own)
