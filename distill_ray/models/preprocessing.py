"""How a trained network wants its images prepared. Free of torch, so that a study file is checked
without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from distill_ray.settings import Doc

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of each channel that torchvision's weights were trained with."""


def has_library_mean(model: str, image_shape: tuple[int, int, int]) -> bool:
    """Whether the library of `model` prepares images of this shape (C, H, W) by ImageNet's mean."""
    return model.startswith("torchvision/") and image_shape[0] == len(IMAGENET_MEAN)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a network does to images (B, C, H, W) in [0, 1] before its first layer: resize them, put
    their channels in order, scale them, subtract `mean` and divide by `std`.

    It is part of the network, so an ensemble of networks that were trained elsewhere sees the same
    batch as all others, and an exported student takes the images that it was trained on.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    mean: Annotated[
        tuple[float, ...] | None,
        Doc("mean of each channel; unset: as the weights say, else that of the training split"),
    ] = None
    std: Annotated[
        tuple[Annotated[float, Gt(0)], ...] | None,
        Doc("standard deviation of each channel; unset: like mean"),
    ] = None
    value_range: Annotated[
        float,
        Gt(0),
        Doc("largest value of a pixel that mean and std are for: 1, or 255"),
    ] = 1.0
    channels: Annotated[
        Literal["rgb", "bgr"], Doc("order of the colours that the network was trained with")
    ] = "rgb"
    size: Annotated[
        int | None,
        Ge(1),
        Le(4096),
        Doc("side that square images are resized to; unset: they stay as they are"),
    ] = None
    interpolation: Annotated[
        Literal["bilinear", "bicubic"], Doc("how images are resized, with antialiasing")
    ] = "bilinear"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std need one value per channel each, found {len(self.mean)} and "
                f"{len(self.std)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a JSON value."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        listed = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | listed)
