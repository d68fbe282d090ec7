"""An image file as the pixels that a model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill_ray.data.decoding import COLOUR, FORMATS, GREY, draft, fitted
from distill_ray.errors import RequestError


def read_image(path: Path, shape: tuple[int, int, int], *, resize: bool = False) -> np.ndarray:
    """The pixels of an image file as uint8 of `shape`, (H, W, C).

    A grey image becomes RGB where the model takes colours; alpha is dropped. With `resize` other
    sizes are brought to the model's as `data.size` does it: resized until the shorter side fits,
    the rest cropped off both ends. Raises `RequestError` for a file that is no such image, for
    another size without `resize`, and for a colour image where the model takes grey ones.
    """
    from PIL import Image

    height, width, channels = shape
    try:
        with Image.open(path, formats=FORMATS) as image:
            if resize:
                draft(image, height, width)
            image.load()
            if image.mode not in GREY | COLOUR:
                raise RequestError(
                    f"{path}: an image of mode {image.mode}; convert it to 8 bits per channel"
                )
            if channels == 1 and image.mode not in GREY:
                raise RequestError(
                    f"{path}: the image has colours, but this model takes grey images; convert it"
                )
            pixels = image.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RequestError(f"{path}: not an image that can be read ({reason})") from None
    if pixels.size != (width, height):
        if not resize:
            raise RequestError(
                f"{path}: the image is {pixels.width}x{pixels.height}, but this model takes {width}x{height}; "
                "resize it, or let --resize do so"
            )
        pixels = fitted(pixels, height, width)
    return np.asarray(pixels, np.uint8).reshape(shape)
