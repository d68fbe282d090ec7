"""Views: what the networks see of the training images. Importing this package is cheap: torch comes in with the first batch."""

from distill_ray.augment.geometric import CropFlip, Flip, Identity
from distill_ray.augment.view import VIEWS, Batch, Part, View

__all__ = ["VIEWS", "Batch", "CropFlip", "Flip", "Identity", "Part", "View"]
