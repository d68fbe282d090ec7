"""Images and labels: where they come from, decoded once per node, and how the validation split is
cut from them.

A `Source` is a data set that was found but not decoded; `load_images` turns one of its splits into
uint8 pixels in a file of the node, memory-mapped or, if that is too large, read by rows. The names
below are imported at first use, so that checking a study file does not pay for NumPy or pyarrow.
"""

from typing import TYPE_CHECKING

from distill_ray._lazy import names_from

if TYPE_CHECKING:
    from distill_ray.data.finding import open_source
    from distill_ray.data.images import image_shape, load_images
    from distill_ray.data.importing import import_dataset
    from distill_ray.data.pixels import Images, Pixels
    from distill_ray.data.source import SOURCES, Source
    from distill_ray.data.split import split_indices
    from distill_ray.data.statistics import channel_statistics

__all__ = [
    "SOURCES",
    "Images",
    "Pixels",
    "Source",
    "channel_statistics",
    "image_shape",
    "import_dataset",
    "load_images",
    "open_source",
    "split_indices",
]

__getattr__ = names_from(
    __name__,
    {
        "SOURCES": "source",
        "Images": "pixels",
        "Pixels": "pixels",
        "Source": "source",
        "channel_statistics": "statistics",
        "image_shape": "images",
        "import_dataset": "importing",
        "load_images": "images",
        "open_source": "finding",
        "split_indices": "split",
    },
)
