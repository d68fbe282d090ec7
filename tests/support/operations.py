"""The operations of AutoAugment and its relatives, by torchvision."""

from __future__ import annotations

import math

import torch
from torchvision.transforms.v2 import functional

NAMES = {
    "ShearX": "shear-x",
    "ShearY": "shear-y",
    "TranslateX": "translate-x",
    "TranslateY": "translate-y",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "color",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
}


def reference(image: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    """One operation by torchvision: colours on the tensor, places on the Pillow image, whose
    nearest pixel is well defined.
    """
    if name in ("rotate", "shear-x", "shear-y", "translate-x", "translate-y"):
        picture = functional.to_pil_image(image)
        if name == "rotate":
            moved = functional.rotate(picture, amount)
        elif name.startswith("shear"):
            degrees = math.degrees(math.atan(amount))
            moved = functional.affine(
                picture,
                0,
                [0, 0],
                1,
                [degrees, 0] if name == "shear-x" else [0, degrees],
                center=[0, 0],
            )
        else:
            moved = functional.affine(
                picture,
                0,
                [int(amount), 0] if name == "translate-x" else [0, int(amount)],
                1,
                [0, 0],
            )
        return functional.pil_to_tensor(moved)
    return {
        "brightness": lambda: functional.adjust_brightness(image, amount),
        "color": lambda: functional.adjust_saturation(image, amount),
        "contrast": lambda: functional.adjust_contrast(image, amount),
        "sharpness": lambda: functional.adjust_sharpness(image, amount),
        "posterize": lambda: functional.posterize(image, int(amount)),
        "solarize": lambda: functional.solarize(image, amount),
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
        "invert": lambda: functional.invert(image),
    }[name]()
