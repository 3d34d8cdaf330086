"""Random colours of whole batches of images, with separate random parameters for every image.

See `perceiver.data.augmentation.images` for the contract of the attribute `draws_per_image`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "*batch 3 height width"]


class RandomColours(nn.Module):
    """Change saturation, hue and brightness of every image at random; white stays white and black stays black.

    Each image gets a factor of the saturation, a random mixture of the channels, and a power of all values.

    Args:
        saturation: the factor is uniform in [1 - saturation, 1 + saturation].
        grey: probability that an image loses its colours.
        mixing: standard deviation of the weights that mix the channels, before each row is scaled to the sum 1.
        gamma: standard deviation of the logarithm of the power.

    Raises:
        ValueError: for a probability outside [0, 1], a saturation above 1, or negative numbers.

    Examples:
        >>> import torch
        >>> from perceiver.data.augmentation.colours import RandomColours
        >>> white = torch.ones(2, 3, 4, 4)
        >>> bool((RandomColours(saturation=0.5, mixing=0.1)(white) > 0.99).all())
        True
    """

    draws_per_image = True

    def __init__(self, *, saturation: float = 0.0, grey: float = 0.0, mixing: float = 0.0, gamma: float = 0.0) -> None:
        super().__init__()
        for name, value, most in (
            ("saturation", saturation, 1.0),
            ("grey", grey, 1.0),
            ("mixing", mixing, float("inf")),
            ("gamma", gamma, float("inf")),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"RandomColours.{name}: expected 0 to {most:g}, got {value}.")
        self.saturation = saturation
        self.grey = grey
        self.mixing = mixing
        self.gamma = gamma

    def forward(self, images: Images) -> Images:
        """Transform one image or a batch; the shape is unchanged.

        Raises:
            ValueError: the images do not have three channels.
        """
        batch = images.unsqueeze(0) if images.ndim == 3 else images
        if batch.shape[1] != 3:
            raise ValueError(f"RandomColours: expected three channels, got images of shape {tuple(images.shape)}.")
        count, device = len(batch), batch.device
        mean = batch.mean(dim=1, keepdim=True)
        factor = 1 + (torch.rand(count, 1, 1, 1, device=device) * 2 - 1) * self.saturation
        factor = torch.where(torch.rand(count, 1, 1, 1, device=device) < self.grey, 0.0, factor)
        weights = torch.eye(3, device=device) + torch.randn(count, 3, 3, device=device) * self.mixing
        weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=0.1)
        mixed = torch.einsum("bij,bjhw->bihw", weights.to(batch.dtype), mean + (batch - mean) * factor.to(batch.dtype))
        power = (torch.randn(count, 1, 1, 1, device=device) * self.gamma).exp()
        return (mixed.clamp(0, 1) ** power.to(batch.dtype)).view_as(images)

    def extra_repr(self) -> str:
        return f"saturation={self.saturation}, grey={self.grey}, mixing={self.mixing}, gamma={self.gamma}"
