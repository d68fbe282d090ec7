"""Views: what the networks see of the training images. Importing this package is cheap: torch comes in with the first batch.

`distill_ray.augment.epoch.epoch_batches` makes the batches of an epoch from a view and the training images.
"""

from distill_ray.augment.draws import Draws
from distill_ray.augment.geometric import CropFlip, Flip, Identity
from distill_ray.augment.view import VIEWS, Batch, Part, View

__all__ = ["VIEWS", "Batch", "CropFlip", "Draws", "Flip", "Identity", "Part", "View"]
