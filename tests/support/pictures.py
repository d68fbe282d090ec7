"""Image files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pictures(folder: Path, images: np.ndarray) -> str:
    """A data set of these images (N, H, W, C), of one class, as its test split: where it is."""
    (folder / "test" / "things").mkdir(parents=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / "test" / "things" / f"{number:02}.png")
    return str(folder)
