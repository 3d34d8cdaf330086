"""Images `(B, C, H, W)` as tokens: single pixels, square patches, or the features of a convolutional stem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.content import Content
from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.masks import grid_mask, patch_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, grid_coordinates
from perceiver.tokens.tokens import Tokens


class ImagePixels(nn.Module):
    """One token per pixel: its channels, and its position (Perceiver, section 4.1).

    Args:
        image_channels: C of the image, e.g. 3.
        position: encoding of two coordinates, rows and columns.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePixels
        >>> adapter = ImagePixels(image_channels=3, position=Fourier(num_bands=4, resolution=(32, 32)))
        >>> tokens = adapter(torch.rand(2, 3, 32, 32))
        >>> tokens.grid, tokens.channels
        ((32, 32), 21)
    """

    holds_everything = True

    def __init__(self, *, image_channels: int, position: PositionEncoding) -> None:
        super().__init__()
        check_at_least_one("ImagePixels", image_channels=image_channels)
        self.image_channels = image_channels
        self.position = position
        self.channels = image_channels + position.channels
        self.position_channels = position.channels
        self.content_channels = image_channels

    def forward(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "..."] | None = None) -> Tokens:
        """Convert `(B, C, H, W)` and a mask `(B,)` or `(B, H, W)` to Tokens on the grid (H, W)."""
        check_image(x, self.image_channels)
        ragged = mask is not None and mask.ndim > 1
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:])
        pixels = x.permute(0, 2, 3, 1)
        if mask is not None:
            pixels = zero_masked(pixels, mask[..., None])
        position = self.position(_coordinates(x.shape[2:], mask, ragged=ragged, device=x.device))
        return Tokens(parts=(pixels, *position), mask=mask)

    def content(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "..."] | None = None) -> Content:
        """Return the pixels, `(B, H, W, C)`."""
        return Content(values=x.permute(0, 2, 3, 1))

    def with_content(self, x: Float[Tensor, "batch c h w"], values: Float[Tensor, "batch h w c"]) -> Tensor:
        """Return the image with these pixels."""
        return values.permute(0, 3, 1, 2)


class ImagePatches(nn.Module):
    """One token per square patch: its pixels, optionally embedded by a linear map, and its position.

    Images that are no multiple of the patch are padded with zeros at the end; a patch is valid if any of its pixels is.

    Args:
        image_channels: C of the image.
        patch: side of a patch in pixels.
        embed_channels: width of the linear embedding; None keeps the raw `C * patch * patch` values.
        position: encoding of two coordinates, rows and columns of patches.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePatches
        >>> adapter = ImagePatches(image_channels=3, patch=4, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> tokens = adapter(torch.rand(2, 3, 32, 32))
        >>> tokens.grid, tokens.channels
        ((8, 8), 66)
    """

    holds_everything = True

    def __init__(
        self,
        *,
        image_channels: int,
        patch: int,
        position: PositionEncoding,
        embed_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least_one("ImagePatches", image_channels=image_channels)
        if embed_channels is not None:
            check_at_least_one("ImagePatches", embed_channels=embed_channels)
        if patch < 1:
            raise ValueError(f"ImagePatches.patch: expected a side of at least 1 pixel, got {patch}.")
        self.image_channels = image_channels
        self.patch = patch
        self.position = position
        raw = image_channels * patch * patch
        self.embed = nn.Identity() if embed_channels is None else nn.Linear(raw, embed_channels)
        self.channels = (raw if embed_channels is None else embed_channels) + position.channels
        self.position_channels = position.channels
        self.content_channels = raw

    def forward(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "..."] | None = None) -> Tokens:
        """Convert `(B, C, H, W)` and a mask `(B,)` or `(B, H, W)` to Tokens on (ceil(H / patch), ceil(W / patch))."""
        check_image(x, self.image_channels)
        side = self.patch
        ragged = mask is not None and mask.ndim > 1
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:])
        if mask is not None:
            x = zero_masked(x, mask[:, None])
            mask = patch_mask(mask, (side, side))
        patches = self._patches(x)
        rows, columns = patches.shape[1:3]
        if isinstance(self.embed, nn.Linear):
            patches = patches.to(self.embed.weight.dtype)
        position = self.position(_coordinates((rows, columns), mask, ragged=ragged, device=x.device))
        return Tokens(parts=(self.embed(patches), *position), mask=mask)

    def content(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "..."] | None = None) -> Content:
        """Return the pixels of each patch, `(B, rows, columns, C * patch * patch)`; pixels beyond the edge are invalid."""
        full = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:])
        valid = torch.ones_like(x, dtype=torch.bool) if full is None else full[:, None].expand(x.shape)
        return Content(values=self._patches(x), valid=self._patches(valid))

    def with_content(self, x: Float[Tensor, "batch c h w"], values: Float[Tensor, "batch rows columns content"]) -> Tensor:
        """Return the image made of these patches."""
        batch, rows, columns = values.shape[:3]
        split = values.reshape(batch, rows, columns, self.image_channels, self.patch, self.patch).permute(0, 3, 1, 4, 2, 5)
        image = split.reshape(batch, self.image_channels, rows * self.patch, columns * self.patch)
        return image[..., : x.shape[2], : x.shape[3]]

    def _patches(self, x: Tensor) -> Tensor:
        """Cut `(B, C, H, W)` into `(B, rows, columns, C * patch * patch)`, padded with zeros at the end."""
        side = self.patch
        x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
        batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // side, x.shape[3] // side
        return x.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5).flatten(3)


class ImageConvStem(nn.Module):
    """One token per element of a quarter-size feature map: 7x7 convolution, batch norm, ReLU, 3x3 max-pooling.

    The stem of Perceiver IO's strongest ImageNet model (appendix H): both steps have stride 2; 224 x 224 becomes 56 x 56.
    Padding at the start is fixed (2 for the convolution, 0 for the pool, "SAME" for even sizes), so that an image alone
    and the same image padded at its end give the same features.

    Args:
        image_channels: C of the image.
        stem_channels: width of the feature map.
        position: encoding of two coordinates, rows and columns of the feature map.
        same_padding: padding as above. False: 3 on every side of the convolution and no padding of the pool, as in
            transformers; 224 x 224 becomes 55 x 55.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImageConvStem
        >>> adapter = ImageConvStem(image_channels=3, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> tokens = adapter(torch.rand(2, 3, 32, 32))
        >>> tokens.grid, tokens.channels
        ((8, 8), 82)
    """

    def __init__(
        self,
        *,
        image_channels: int,
        position: PositionEncoding,
        stem_channels: int = 64,
        same_padding: bool = True,
    ) -> None:
        super().__init__()
        check_at_least_one("ImageConvStem", image_channels=image_channels, stem_channels=stem_channels)
        self.image_channels = image_channels
        self.conv = nn.Conv2d(image_channels, stem_channels, kernel_size=7, stride=2, bias=False)
        self.norm = ValidBatchNorm(stem_channels)
        self.same_padding = same_padding
        self.position = position
        self.channels = stem_channels + position.channels

    def forward(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "..."] | None = None) -> Tokens:
        """Convert `(B, C, H, W)` and a mask `(B,)` or `(B, H, W)` to Tokens on the grid (ceil(H / 4), ceil(W / 4)).

        Without `same_padding` (ceil(ceil(H / 2) / 2) - 1, …) for even ceil(H / 2): windows that reach past the end are left
        out, and images of fewer than 5 rows or columns are an error.
        """
        check_image(x, self.image_channels)
        ragged = mask is not None and mask.ndim > 1
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:])
        if mask is not None:
            x = zero_masked(x, mask[:, None])
            mask = patch_mask(mask, (2, 2))
        x = x.to(self.conv.weight.dtype)
        if not self.same_padding and min(x.shape[2:]) < 5:
            raise ValueError(f"image: without same_padding expected at least 5 x 5 pixels, got {tuple(x.shape)}.")
        around = _same_padding(x, before=2, kernel=7) if self.same_padding else (3, 3, 3, 3)
        x = F.relu(self.norm(self.conv(F.pad(x, around)), mask))
        if mask is not None:
            x = zero_masked(x, mask[:, None])
        if not self.same_padding:
            if mask is not None:
                # Only windows inside the image count.
                mask = F.max_pool2d((~mask)[:, None].to(x.dtype), kernel_size=3, stride=2)[:, 0] == 0
            return self._tokens(F.max_pool2d(x, kernel_size=3, stride=2), mask, ragged=ragged)
        if mask is not None:
            mask = patch_mask(mask, (2, 2))
        # After the ReLU, zero is the smallest value, so zero padding is equivalent to minus infinity.
        x = F.max_pool2d(F.pad(x, _same_padding(x, before=0, kernel=3)), kernel_size=3, stride=2)
        return self._tokens(x, mask, ragged=ragged)

    def _tokens(self, x: Tensor, mask: Tensor | None, *, ragged: bool) -> Tokens:
        """Return the feature map `(B, c, h, w)` with its positions."""
        position = self.position(_coordinates(x.shape[2:], mask, ragged=ragged, device=x.device))
        return Tokens(parts=(x.permute(0, 2, 3, 1), *position), mask=mask)


class ValidBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics, in training, count valid elements only: absent samples and padding do not shift them."""

    def forward(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "batch h w"] | None = None) -> Tensor:
        """Normalise `(B, C, H, W)`; the caller must replace masked elements, which are normalised as well."""
        if mask is None or not self.training:
            return super().forward(x)
        out_dtype = x.dtype
        # At least float32, as in torch: float16 cannot count beyond 65504, and bfloat16 not even to 300.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        valid = mask.expand(x.shape[0], *x.shape[2:])
        count = valid.sum()
        # Without valid elements, the running statistics are used and not updated.
        weight = valid[:, None].to(x.dtype)
        total = count.clamp(min=1).to(x.dtype)
        mean = (x * weight).sum(dim=(0, 2, 3)) / total
        var = ((x - mean[:, None, None]).square() * weight).sum(dim=(0, 2, 3)) / total
        assert self.running_mean is not None
        assert self.running_var is not None
        any_valid = count > 0
        mean = torch.where(any_valid, mean, self.running_mean.to(x.dtype))
        var = torch.where(any_valid, var, self.running_var.to(x.dtype))
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = torch.where(any_valid, var * (total / (total - 1).clamp(min=1)), var)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(var + self.eps) * self.weight
        normalised: Tensor = (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(out_dtype)


def check_image(x: Tensor, image_channels: int) -> None:
    """Raise ValueError unless `x` is `(B, image_channels, H, W)`, H and W at least 1; TypeError unless floating point."""
    if x.ndim != 4 or x.shape[1] != image_channels or 0 in x.shape[2:]:
        hint = ""
        if x.ndim == 4 and x.shape[3] == image_channels:
            hint = " It looks channels-last: use x.permute(0, 3, 1, 2)."
        elif x.ndim == 3:
            hint = " Add the missing dimension with x.unsqueeze(0) (one image) or x.unsqueeze(1) (grey images)."
        raise ValueError(f"image: expected (batch, {image_channels}, height, width), got {tuple(x.shape)}.{hint}")
    if not x.is_floating_point():
        raise TypeError(f"image: expected floating point, got {x.dtype}; scale it as in training, e.g. `x.float() / 255`.")


def _coordinates(grid: Sequence[int], mask: Tensor | None, *, ragged: bool, device: torch.device) -> tuple[Tensor, ...]:
    """Return the coordinates of rows and columns. If samples are complete or absent, the batch shares them."""
    return grid_coordinates(grid, mask=mask if ragged else None, device=device)


def _same_padding(x: Tensor, *, before: int, kernel: int) -> tuple[int, int, int, int]:
    """Return padding for a stride of 2 and ceil(n / 2) outputs with fixed padding in front: (left, right, top, bottom)."""
    height, width = x.shape[2:]
    # Rounded up without a negative dividend: ONNX divides towards zero.
    needs = [2 * ((size + 1) // 2 - 1) + kernel - before - size for size in (height, width)]
    return before, max(needs[1], 0), before, max(needs[0], 0)
