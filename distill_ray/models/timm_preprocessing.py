"""What timm's configuration says of the images that its weights want. timm is imported only where
that is asked of one of its networks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from distill_ray.errors import first_line
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.models.timm_names import PREFIX

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def completed(given: Preprocessing | None, model: str, channels: int) -> Preprocessing | None:
    """How trained weights of `model` want images of so many channels: as `given`, and what that
    leaves open as timm's configuration says, for a network of timm.
    """
    if not model.startswith(PREFIX):
        return given
    usual = configuration_of(model.removeprefix(PREFIX))
    given = given or Preprocessing()
    if given.mean is None and given.value_range == 1 and len(usual.mean) == channels:
        given = replace(given, mean=tuple(usual.mean), std=tuple(usual.std))
    if given.size is None:
        bicubic = usual.interpolation == "bicubic"
        given = replace(
            given,
            size=usual.input_size[1],
            interpolation="bicubic" if bicubic else "bilinear",
        )
    return given


def configuration_of(architecture: str) -> PretrainedCfg:
    """timm's configuration of an architecture, with or without a tag. Raises `ValueError` where it
    has no such tag.
    """
    import timm
    from timm.models import PretrainedCfg

    try:
        return timm.get_pretrained_cfg(architecture) or PretrainedCfg()
    except RuntimeError as error:
        raise ValueError(f"unknown model '{PREFIX}{architecture}': {first_line(error)}") from None
