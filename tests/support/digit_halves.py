"""scikit-learn's digits in two modalities: the upper and the lower half of each image, one of which some samples lack."""

from copy import deepcopy
from typing import Any

from digit_targets import DigitTargets
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.samples.batch import Sample
from perceiver.samples.collate import Collate


class DigitHalves(DigitTargets):
    """`image` is the upper half, `lower` the other; every fifth lacks the one, every seventh of the rest the other."""

    def targets(self) -> Tensor:
        return self.digits

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of both halves."""
        if self._spec is None:
            spec = {"kind": "image", "shape": [1, 4, 8], "range": [0, 16], "mean": [0.3], "std": [0.4]}
            target = {"kind": "classes", "names": [str(digit) for digit in range(10)]}
            self._spec = {"modalities": {"image": spec, "lower": dict(spec)}, "target": target, "num_classes": 10}
        return deepcopy(self._spec)

    @spec.setter
    def spec(self, value: dict[str, Any]) -> None:
        self._spec = deepcopy(value)

    def _loader(self, split: str) -> DataLoader[Any]:
        samples = []
        for number, index in enumerate(self.index[split].tolist()):
            pixels = (self.pixels[index][None] / 16 - 0.3) / 0.4
            inputs = {"image": pixels[:, :4], "lower": pixels[:, 4:]}
            if number % 5 == 0:
                del inputs["image"]
            elif number % 7 == 0:
                del inputs["lower"]
            samples.append(Sample(inputs=inputs, target=int(self.digits[index]), id=f"digits/{index}"))
        collate = Collate(modalities=self.spec["modalities"])
        return DataLoader(samples, batch_size=self.batch_size, shuffle=split == "train", collate_fn=collate)  # type: ignore[arg-type]
