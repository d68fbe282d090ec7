"""An image file as the pixels that a model takes."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np

from distill_ray.data.decoding import UnreadableImageError, opened_image
from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.tracking.preprocessing import ImagePreparation


def read_image(
    path: Path, preprocessing: ImagePreparation, *, resize: bool | None = None
) -> np.ndarray:
    """The pixels of an image file as a model with this `preprocessing` takes them, uint8 (H, W, C).

    A grey image becomes RGB where the model takes colours; alpha is dropped. `resize` overrides
    whether another size is cropped and resized. Raises `RequestError` for a file that is no such
    image, for another size where that is not resized, and for a colour image where the model takes
    grey ones.
    """
    location = for_terminal(str(path))
    try:
        # A pipe would wait for someone to write to it, and a device may never end
        if not stat.S_ISREG(path.stat().st_mode):
            raise RequestError(f"{location}: not a file")
        with path.open("rb") as file, opened_image(file) as image:
            return preprocessing.apply(image, fit=resize)
    except RequestError as error:
        raise RequestError(f"{location}: {str(error).removeprefix(f'{location}: ')}") from None
    except FileNotFoundError:
        raise RequestError(f"{location}: no such file") from None
    except (OSError, ValueError, UnreadableImageError) as error:
        reason = for_terminal(first_line(error))
        raise RequestError(f"{location}: not an image that can be read ({reason})") from None
