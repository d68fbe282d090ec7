"""What an exported model must be given: how the pixels that it takes are made from an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distill_ray.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


LARGEST = 65_536
"""The most pixels of a side, and the most channels, that a description may ask for."""


@dataclass(frozen=True)
class ImagePreparation:
    """From an image to the array (height, width, channels) of uint8 that a model takes.

    With `fit` the images of the training split were cropped and resized (`data.size`), so others
    must be too; without it all had this size. With `resize` they were squares of that side first,
    of which a model sees the middle (`data.resize`). Models of `real_valued` inputs take no images.
    """

    height: int
    width: int
    channels: int
    fit: bool = False
    real_valued: bool = False
    resize: int | None = None

    def apply(self, image: Image.Image, *, fit: bool | None = None) -> np.ndarray:
        """The pixels of an image as they were made for training, in the same order of steps.

        Args:
            image: an image just opened by Pillow, not loaded yet.
            fit: whether another size is cropped and resized rather than refused; by default where
                training did so.

        Raises:
            RequestError: the image has another size or other colours than the model takes.
        """
        from distill_ray.data import decoding

        if self.real_valued:
            raise RequestError("this model takes real numbers, not images")
        if image.mode not in decoding.GREY | decoding.COLOUR:
            raise RequestError(f"an image of mode {image.mode}; convert it to 8 bits per channel")
        width, height = decoding.upright_size(image)
        fit = self.fit if fit is None else fit
        if not fit and (width, height) != (self.width, self.height):
            raise RequestError(
                f"the image is {width}x{height}, but this model takes "
                f"{self.width}x{self.height}; resize it, or let --resize do so"
            )
        if self.resize is None or not fit:
            return self._pixels(image, self.height, self.width)
        square = self._pixels(image, self.resize, self.resize)
        top, left = (self.resize - self.height) // 2, (self.resize - self.width) // 2
        return square[top : top + self.height, left : left + self.width]

    def _pixels(self, image: Image.Image, height: int, width: int) -> np.ndarray:
        """The pixels at that size. A grey image may be stored as a colour image, of three channels
        that are equal, which a conversion to grey leaves as they are.
        """
        from distill_ray.data import decoding

        if self.channels != 1 or decoding.is_grey(image):
            return decoding.pixels_of(image, height, width, self.channels)
        pixels = decoding.pixels_of(image, height, width, 3)
        if (pixels != pixels[..., :1]).any():
            raise RequestError(
                "the image has colours, but this model takes grey images; convert it to grey (L)"
            )
        return pixels[..., :1]

    def steps(self) -> list[str]:
        """What to do, one sentence each, in this order."""
        if self.real_valued:
            return ["Nothing: inputs are real numbers in the data set's own units."]
        colours = "RGB; alpha is dropped"
        if self.channels == 1:
            colours = "grey (L), as all images of the data set are; predict refuses colours"
        steps = ["Turn the image upright as its EXIF orientation says."]
        steps.append(f"Convert it to {colours}.")
        if self.fit:
            width, height = self.resize or self.width, self.resize or self.height
            steps.append(
                f"Crop the largest part in its middle with the proportions {width}:{height}, and "
                f"resize that to {width} by {height} pixels (bilinear, antialiased)."
            )
            if self.resize is not None:
                steps.append(f"Take the {self.width} by {self.height} pixels in its middle.")
        else:
            steps.append(
                f"Its size must be {self.width} by {self.height} pixels, as that of all images of "
                "the data set."
            )
        steps.append("Pass the pixels as uint8, 0 to 255: the model scales and normalises them.")
        return steps

    def to_dict(self) -> dict[str, Any]:
        """The values, and the steps in words, as JSON values."""
        values = asdict(self)
        if self.resize is None:
            del values["resize"]
        return values | {"steps": self.steps()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImagePreparation:
        """The inverse of `to_dict`. Raises `ValueError` for values that cannot be."""
        sizes = {name: values.get(name) for name in ("height", "width", "channels")}
        flags = {name: values.get(name) for name in ("fit", "real_valued")}
        for name, size in sizes.items():
            if type(size) is not int or not 0 < size <= LARGEST:
                raise ValueError(f"preprocessing.{name} must be 1 to {LARGEST}, found {size!r}")
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise ValueError(f"preprocessing.{name} must be true or false, found {flag!r}")
        resize = values.get("resize")
        if resize is not None:
            largest = max(values["height"], values["width"])
            if type(resize) is not int or not largest <= resize <= LARGEST:
                raise ValueError(
                    f"preprocessing.resize must be {largest} to {LARGEST}, found {resize!r}"
                )
        return cls(**sizes, **flags, resize=resize)  # type: ignore[arg-type]
