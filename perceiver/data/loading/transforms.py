"""Transforms that augment or corrupt the batches of a modality: configuration, a common form, and checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perceiver.data.augmentation.images import augmented

Value = Tensor | dict[str, Tensor]
"""A batch of a modality: `(B, …)`, or tensors `(B, …)` by name (time series, table rows)."""

Transform = Callable[[Any, Tensor | None], tuple[Any, Tensor | None]]
"""Maps a `Value` and its mask (`(B,)` or `(B, *grid)`, True is valid, or None) to a changed pair; grid sizes may change.

It draws separately for every sample from torch's global generator, so that `seed` makes runs reproducible; each worker
process has its own seed. Absent samples stay absent, whatever it returns for them. Values of time series and tables are
normalised already, all others are not: images are in [0, 1], sound is in [-1, 1].
"""

ImageTransform = Callable[[Tensor], Tensor]
"""A torchvision v2 transform or a similar callable: maps float `(C, H, W)` in [0, 1], black = 0, to the same shape. With a
true attribute `draws_per_image`, it maps `(B, C, H, W)`. This form is for images, `Transform` for all other kinds.
"""

Settings = ImageTransform | Mapping[str, Any] | None
"""Transforms as configured. For a data set with a single modality: an image transform, or transforms under names of your
choice, applied in this order. For several modalities: such a value per modality, by its name. None: no transform.
"""


@dataclass(frozen=True)
class OnImages:
    """An image transform in the form of `Transform`; the mask does not change."""

    transform: ImageTransform

    def __call__(self, x: Tensor, mask: Tensor | None) -> tuple[Any, Tensor | None]:
        """Map `(B, C, H, W)` to the same shape, if the transform keeps sizes."""
        return augmented(self.transform, x), mask


class Transforms:
    """Named transforms of a modality, applied in sequence.

    Args:
        transforms: an image transform, or a mapping from names to transforms; None, or an entry of None, for no transform.
        argument: name of the argument that configures them, for error messages.
        kind: kind of the modality; transforms of images are `ImageTransform`s.

    Raises:
        TypeError: an entry is not callable, or `transforms` is not a mapping.
    """

    def __init__(self, transforms: Settings, *, argument: str, kind: str | None) -> None:
        on_images = kind == "image"
        if on_images and transforms is not None and not isinstance(transforms, Mapping):
            transforms = {"": transforms}
        if transforms is not None and not isinstance(transforms, Mapping):
            raise TypeError(
                f"{argument}: expected a mapping from names of your choice to transforms, got {type(transforms).__name__}."
            )
        self.transforms: dict[str, Any] = {}
        for name, transform in (transforms or {}).items():
            where = f"{argument}.{name}" if name else argument
            if transform is not None and not callable(transform):
                raise TypeError(f"{where}: expected a callable transform or null, got {type(transform).__name__}.")
            if transform is not None:
                self.transforms[where] = OnImages(transform) if on_images else transform

    def __len__(self) -> int:
        return len(self.transforms)

    def __call__(self, x: Value, mask: Tensor | None) -> tuple[Value, Tensor | None]:
        """Apply all transforms to a batch of the modality and its mask. Absent samples stay absent."""
        before = mask
        for transform in self.transforms.values():
            x, mask = transform(x, mask)
        return x, _without_absent(mask, before=before)

    def check(self, x: Value, mask: Tensor | None, *, channel_axis: object) -> None:
        """Try the transforms on a batch, to report an unsuitable transform before training starts.

        Args:
            x, mask: a batch of the modality.
            channel_axis: channel axis of a sample, 0 or -1.

        Raises:
            TypeError: a transform does not return a float tensor (for time series and tables, tensors of the same names;
                for texts, whole numbers) and a boolean mask or None.
            ValueError: it changes the number of samples or the size of images, or the mask does not match the tensor.
        """
        with torch.random.fork_rng(devices=[]):
            for where, transform in self.transforms.items():
                if isinstance(transform, OnImages):
                    assert isinstance(x, Tensor)
                    x = _checked_images(where, transform.transform, x)
                else:
                    x, mask = _checked(where, transform(x, mask), before=x, channel_axis=channel_axis)


def by_modality(
    given: Settings, *, specs: Mapping[str, Mapping[str, Any]], available: Sequence[str], argument: str
) -> dict[str, Transforms]:
    """Return the configured transforms by modality, without modalities that have no transform.

    Args:
        given: configured transforms.
        specs: specs of the modalities in the samples, by name; only `kind` is used.
        available: names of all modalities that may be configured.
        argument: name of the argument that configures them, for error messages.

    Raises:
        TypeError: a transform is not callable, or there are several modalities and `given` is not a mapping by their names.
        ValueError: an unknown modality.
    """
    if given is None:
        return {}
    if len(available) == 1 and not (isinstance(given, Mapping) and available[0] in given):
        places = {available[0]: (given, argument)}
    elif not isinstance(given, Mapping):
        raise TypeError(
            f"{argument}: expected a mapping from modalities ({', '.join(available)}) to transforms, got "
            f"{type(given).__name__}."
        )
    elif unknown := [name for name in given if name not in available]:
        raise ValueError(f"{argument}.{unknown[0]}: expected settings of {', '.join(available)}; got {unknown[0]!r}.")
    else:
        places = {name: (own, f"{argument}.{name}") for name, own in given.items()}
    made = {
        name: Transforms(own, argument=place, kind=specs[name].get("kind"))
        for name, (own, place) in places.items()
        if name in specs
    }
    return {name: transforms for name, transforms in made.items() if len(transforms)}


def _checked_images(where: str, transform: ImageTransform, images: Tensor) -> Tensor:
    whole = getattr(transform, "draws_per_image", False)
    image = images if whole else images[0]
    result: Any = transform(image)
    if not isinstance(result, Tensor) or not result.is_floating_point():
        kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(f"{where}: expected a float tensor from {transform}, got {kind}.")
    if result.shape != image.shape:
        raise ValueError(
            f"{where}: {transform} turned an image of shape {tuple(image.shape)} into {tuple(result.shape)}; "
            "expected the same shape. Crop or resize to the size of the data, e.g. RandomCrop(size, padding=2)."
        )
    return result if whole else images


def _checked(where: str, result: Any, *, before: Value, channel_axis: object) -> tuple[Value, Tensor | None]:
    if not (isinstance(result, tuple) and len(result) == 2 and _is_like(result[0], before)):
        raise TypeError(f"{where}: expected a returned pair ({_expected(before)}, mask or None), got {_kind(result)}.")
    x, mask = result
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        raise TypeError(f"{where}: expected a boolean mask or None, got {_kind(mask)}.")
    axes: Mapping[str, object] = channel_axis if isinstance(channel_axis, Mapping) else {"": channel_axis}
    new, old = ({"": value} if isinstance(value, Tensor) else value for value in (x, before))
    for name, own in new.items():
        _check_shapes(where if name == "" else f"{where}, {name!r}", own, mask, before=old.get(name, own), axis=axes[name])
    return x, mask


def _check_shapes(where: str, x: Tensor, mask: Tensor | None, *, before: Tensor, axis: object) -> None:
    if x.ndim != before.ndim or x.shape[0] != before.shape[0]:
        raise ValueError(
            f"{where}: turned a batch of shape {tuple(before.shape)} into {tuple(x.shape)}; expected the same number "
            "of samples and axes."
        )
    grid = x.shape[1:] if axis is None else x.shape[2:] if axis == 0 else x.shape[1:-1]
    if mask is not None and mask.shape not in (x.shape[:1], x.shape[:1] + grid):
        raise ValueError(f"{where}: returned a mask {tuple(mask.shape)} that does not match {tuple(x.shape)}.")


def _is_like(x: Any, before: Value) -> bool:
    """Return whether a result has the form of what was given; `present` may be new, where nothing was missing before."""
    if isinstance(before, Tensor):
        floating = before.is_floating_point()
        return isinstance(x, Tensor) and (x.is_floating_point() if floating else x.dtype == before.dtype)
    if not isinstance(x, dict) or set(x) - {"present"} != set(before) - {"present"}:
        return False
    known = {"present": torch.ones(0, dtype=torch.bool), **before}
    return all(_is_like(own, known[name]) for name, own in x.items())


def _expected(before: Value) -> str:
    if isinstance(before, Tensor):
        return "float tensor" if before.is_floating_point() else f"tensor of {before.dtype}"
    return f"a dict of {', '.join(before)}"


def _without_absent(mask: Tensor | None, *, before: Tensor | None) -> Tensor | None:
    """Mask the samples that were absent before."""
    if before is None:
        return mask
    present = before if before.ndim == 1 else before.flatten(1).any(dim=1)
    if bool(present.all()):
        return mask
    return present if mask is None else mask & present.view(-1, *[1] * (mask.ndim - 1))


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a dict of " + (", ".join(str(name) for name in value) or "nothing")
    if isinstance(value, tuple):
        return "(" + ", ".join(_kind(entry) for entry in value) + ")"
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
