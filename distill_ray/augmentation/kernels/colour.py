"""Changes of colour for whole batches of uint8 images (B, C, H, W), with an amount per image (B,)
where they have one.

They give what torchvision gives for uint8 tensors, C being 1 or 3; `autocontrast_by_table`,
`equalize`, `posterize`, `solarize` and `invert` are also what Pillow gives, and take any C. Sums
and products are separate operations, and integers wherever they can be, so that an image comes out
the same in every batch and on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.augmentation.kernels.geometry import divisor


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scaled towards or away from black."""
    return _pixels(images * _per_image(factor).float())


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with their grey version; grey images stay as they are."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with the mean of their grey version."""
    grey = images if images.shape[1] == 1 else _grey(images)
    mean = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64).float() / divisor(
        grey[0].numel(), images.device
    )
    return contrast_about(images, mean, factor)


def contrast_about(images: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Blended with a level each, `mean` (B, 1, 1, 1)."""
    return _blend(images, mean, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with a version smoothed by the 3 x 3 mean whose centre counts five times; the border
    stays as it is.
    """
    wide = images.int()
    lines = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    neighbours = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]
    centre = wide[..., 1:-1, 1:-1]
    # A thirteenth, rounded; never half-way
    smooth = (2 * (neighbours + 4 * centre) + 13).div(26, rounding_mode="floor")
    result = images.clone()
    result[..., 1:-1, 1:-1] = _pixels(_fused(centre, smooth - centre, factor))
    return result


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The `bits` highest bits of every value."""
    mask = 256 - 2 ** (8 - bits.int())
    return images & _per_image(mask).to(images.dtype)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverted where they are at or above `threshold`."""
    return torch.where(images >= _per_image(threshold), 255 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to the whole range, where it has more than one value."""
    lowest, highest = (
        value.float() for value in torch.aminmax(images.flatten(2), dim=2, keepdim=True)
    )
    flat = lowest == highest
    step = torch.where(flat, 1, (highest - lowest) * (1 / 255))
    stretched = (images - torch.where(flat, 0, lowest).unsqueeze(3)) / step.unsqueeze(3)
    return _pixels(stretched)


def autocontrast_by_table(images: Tensor) -> Tensor:
    """Like `autocontrast`, in Pillow's arithmetic, which gives other roundings."""
    lowest, highest = (
        value.double() for value in torch.aminmax(images.flatten(2), dim=2, keepdim=True)
    )
    flat = lowest == highest
    scale = torch.where(flat, 1, torch.full_like(highest, 255) / (highest - lowest))
    levels = torch.arange(256, device=images.device, dtype=torch.float64)
    table = levels * scale + torch.where(flat, 0, -lowest * scale)
    return _look_up(images, table.clamp_(0, 255).to(images.dtype))


def equalize(images: Tensor) -> Tensor:
    """Each channel's values spread so that they occur about equally often."""
    values = images.flatten(2).long()
    counts = values.new_zeros((*values.shape[:2], 256)).scatter_add_(
        2, values, values.new_ones(1).expand_as(values)
    )
    return _look_up(images, equalizing_table(counts))


def equalizing_table(counts: Tensor) -> Tensor:
    """What `equalize` makes of every level, uint8 (B, C, 256), where levels occur `counts` (B, C,
    256) times, int64.
    """
    levels = torch.arange(256, device=counts.device)
    highest = torch.where(counts > 0, levels, 0).amax(2, keepdim=True)
    total = counts.sum(2, keepdim=True)
    step = (total - counts.gather(2, highest)).div(255, rounding_mode="floor")
    below = counts.cumsum(2) - counts
    table = (
        (below + step.div(2, rounding_mode="floor"))
        .div(step.clamp(min=1), rounding_mode="floor")
        .clamp_(max=255)
    )
    return torch.where(step == 0, levels, table).to(torch.uint8)


def invert(images: Tensor) -> Tensor:
    """White for black."""
    return 255 - images


def grey(images: Tensor) -> Tensor:
    """Their grey version, in every channel."""
    return images if images.shape[1] == 1 else _grey(images).to(images.dtype).expand_as(images)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Hues moved round the circle by `shift`, in turns; grey images stay as they are.

    Computed from channel values in closed form, without HSV in between: where torchvision rounds in
    another order, the result can be one level off.
    """
    if images.shape[1] == 1:
        return images
    values = images.float()
    highest, lowest = values.amax(1), values.amin(1)
    spread = highest - lowest
    red, green, blue = values.unbind(1)
    sector = torch.where(
        highest == red,
        (green - blue) / spread,
        torch.where(highest == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    turned = torch.where(spread == 0, 0, sector) + 6 * shift.float().view(-1, 1, 1)
    channels = []
    for place in (5, 3, 1):
        distance = (place + turned).remainder(6)
        share = torch.minimum(distance, 4 - distance).clamp(0, 1)
        channels.append(highest - spread * share)
    return _pixels(torch.stack(channels, dim=1).add_(0.5 - 1e-3))


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with standard deviation `sigma` in pixels, whose kernel spans a tenth of the
    shorter side (at least 3 pixels, an odd number); the border is mirrored.

    Where torchvision sums in another order, the result can be one level off.
    """
    batch, channels, height, width = images.shape
    reach = blur_reach(height, width)
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float64)
    kernel = (-0.5 * (places / sigma.double().view(-1, 1)).square()).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).float()
    weights = kernel.repeat_interleave(channels, 0).view(-1, 1, 1, 2 * reach + 1)
    values = images.float().reshape(1, batch * channels, height, width)
    values = functional.pad(values, (reach,) * 4, mode="reflect")
    values = functional.conv2d(values, weights, groups=batch * channels)
    values = functional.conv2d(values, weights.transpose(2, 3), groups=batch * channels)
    return _pixels(values.view_as(images).round_())


def blur_reach(height: int, width: int) -> int:
    """How many pixels the kernel of a blur reaches to each side."""
    return max(1, min(height, width) // 20)


def _per_image(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def _pixels(values: Tensor) -> Tensor:
    """float values as pixels, cut off at 0 and 255 and rounded down."""
    return values.clamp_(0, 255).to(torch.uint8)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    return _pixels(_fused(images * _per_image(factor).float(), others, factor))


def _fused(values: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """`values + (1 - factor) * others` in float32, rounded once: float64 is exact up to the sum."""
    rest = (1 - _per_image(factor)).float()
    return (values + others * rest.double()).float()


def _grey(images: Tensor) -> Tensor:
    """The brightness that the eye sees, rounded down: int32 (B, 1, H, W)."""
    red, green, blue = images.int().unbind(1)
    return (2989 * red + 5870 * green + 1140 * blue).div(10_000, rounding_mode="floor").unsqueeze(1)


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Every value replaced by what `table` (B, C, 256) has for it."""
    return table.gather(2, images.flatten(2).long()).view_as(images)
