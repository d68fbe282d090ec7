"""Foreign images: data sets whose images belong to no class of a study, in the shape that its
networks take.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from distill_ray.data.finding import open_source
from distill_ray.data.images import image_shape, load_images
from distill_ray.data.pixels import middle
from distill_ray.data.source import Source, SplitName
from distill_ray.errors import RequestError, RunError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["near", "far", ""]
"""How different foreign images are from those of a study, in the judgement of who names them."""

TEST = "test"
"""The name of the study's own test split beside those of foreign sets."""


@dataclass(frozen=True)
class Frame:
    """What networks take: images of `shape` (height, width, channels), real numbers or pixels.

    `size` and `crop` say how those of the study came to it: squares of that side, and their middle.
    """

    shape: tuple[int, int, int]
    real_valued: bool = False
    size: int | None = None
    crop: int | None = None


@dataclass(frozen=True)
class ForeignSet:
    """A set of foreign images that was found: `digest` says what they are, `location` only where.

    With `resize` they are brought to the size and channels of the `frame`, where they have others.
    """

    name: str
    location: str
    digest: str
    frame: Frame
    kind: Kind = ""
    resize: bool = False

    @property
    def key(self) -> str:
        """Twenty hexadecimal digits: the same for the same images in the same frame."""
        identity = [self.digest, self.resize, *asdict(self.frame).values()]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]

    def load(self) -> np.ndarray:
        """The images (N, H, W, C): the test split, or the training split where there is none.

        Raises:
            RunError: what lies at their location is something else by now.
            RequestError: some of them have another shape.
        """
        source = open_source(self.location)
        if source.digest != self.digest:
            raise RunError(
                f"foreign images in {self.location} have changed since this study began; run the "
                "same command again"
            )
        images = load_images(source, _split(source), size=self.frame.size).images
        pixels = (images if self.frame.crop is None else middle(images, self.frame.crop))[:]
        if pixels.shape[1:] == self.frame.shape:
            return pixels
        if not self.resize:
            raise RequestError(f"{self.location}: {_other_shape(pixels.shape[1:], self.frame)}")
        return _resized(pixels, self.frame.shape)


def frame_of(source: Source, size: int | None, resize: int | None) -> Frame:
    """The frame of a study with that data set, whose `data` has these sides."""
    channels, height, width = image_shape(source, size, "train" if source.rows("train") else "test")
    crop = None if resize is None else size
    return Frame((height, width, channels), source.real_valued, resize or size, crop)


def find_foreign(
    location: str, frame: Frame, *, kind: Kind = "", resize: bool = False
) -> ForeignSet:
    """The foreign set at `location`, a name, folder or URI as of a study's own data.

    Raises `RequestError` when it is not there, or its images do not fit the frame.
    """
    source = open_source(location, named_by="")
    if source.real_valued != frame.real_valued:
        kinds = ("real numbers", "pixels") if source.real_valued else ("pixels", "real numbers")
        raise RequestError(f"its inputs are {kinds[0]}, those of the study {kinds[1]}")
    channels, height, width = image_shape(source, frame.size, _split(source))
    if frame.crop is not None:
        height = width = frame.crop
    shape = height, width, channels
    if shape != frame.shape and (frame.real_valued or not resize):
        raise RequestError(_other_shape(shape, frame))
    return ForeignSet(source.name, location, source.digest, frame, kind, resize)


def _split(source: Source) -> SplitName:
    return "test" if source.rows("test") else "train"


def _other_shape(shape: tuple[int, ...], frame: Frame) -> str:
    return (
        f"its images are {shape}, those of the study {frame.shape} (height, width, channels); "
        "resize: true (or --resize) makes them alike"
    )


def _resized(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    height, width, channels = shape
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if images.shape[1] != channels:
        images = images.float().mean(1, keepdim=True).round().byte().expand(-1, channels, -1, -1)
    resized = interpolate(images, (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()
