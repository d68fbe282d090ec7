"""The networks of timm, known here without importing it, which takes seconds and loads torch."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

PREFIX = "timm/"


def architecture(name: str) -> dict[str, Any]:
    """The builder's argument for timm's `name`, perhaps with the tag of some weights.

    Raises `ValueError` where timm is not installed, or has no such network.
    """
    known = _names()
    plain = name.partition(".")[0]
    if not known:
        raise ValueError(
            f"model '{PREFIX}{name}' is of timm, which is not installed; "
            "pip install 'distill-ray[timm]'"
        )
    if plain not in known:
        near = difflib.get_close_matches(plain, known, n=1)
        hint = f"; did you mean '{PREFIX}{near[0]}'?" if near else ""
        raise ValueError(f"unknown model '{PREFIX}{name}'{hint}")
    return {"architecture": name}


def dense(side: int, architecture: str) -> bool:
    """Whether the architecture spends its time in large products: of the many, those that
    torchvision has too and that were measured there.
    """
    return _DENSE.match(architecture) is not None


@functools.cache
def _names() -> frozenset[str]:
    """Every network that timm registers, read from its source; empty where it is not installed."""
    package = importlib.util.find_spec("timm")
    if package is None or package.submodule_search_locations is None:
        return frozenset()
    names = set[str]()
    for file in Path(package.submodule_search_locations[0], "models").glob("*.py"):
        names.update(_REGISTERED.findall(file.read_text(encoding="utf-8")))
    return frozenset(names)


_DENSE = re.compile(r"(?:wide_)?resnet\d|vgg\d|densenet\d|vit_|deit|swin_")
_REGISTERED = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
