"""`champion.json`, read back: what an exported model is. It may have come from anywhere, so every
value is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.tracking.champion import DESCRIPTION, FORMAT
from distill_ray.tracking.preprocessing import ImagePreparation


@dataclass(frozen=True)
class Description:
    """What `champion.json` says of the model in `file`."""

    file: str
    sha256: str
    network: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    dtype: str
    preprocessing: ImagePreparation
    class_names: tuple[str, ...]
    temperature: float


def read_description(folder: Path) -> Description:
    """The description in an exported folder, whose model file is the one that was exported.

    Raises `RequestError` when it cannot be read, when a value is impossible, or when the model file
    was changed.
    """
    location = for_terminal(str(folder))
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        description = _checked(values)
        digest = hashlib.sha256((folder / description.file).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = for_terminal(first_line(error))
        raise RequestError(
            f"{location}: {DESCRIPTION} does not describe a model ({reason}); export it again"
        ) from None
    if digest != description.sha256:
        raise RequestError(
            f"{location}: {description.file} was changed or damaged; export it again"
        )
    return description


def _checked(values: Any) -> Description:
    """The description in `values`. Raises `ValueError` saying what is wrong with it."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    preprocessing = ImagePreparation.from_dict(dict(values["preprocessing"]))
    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if values["image_shape"] != list(shape):
        raise ValueError("image_shape and preprocessing differ")
    dtype = "float32" if preprocessing.real_valued else "uint8"
    if values["dtype"] != dtype:
        raise ValueError(f"dtype must be {dtype}")
    names = values["class_names"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names must be a list of texts")
    temperature = values["temperature"]
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise ValueError("temperature must be a number")
    if not 0 < temperature <= sys.float_info.max:  # which whole numbers may exceed
        raise ValueError(f"temperature must be above 0, found {str(temperature)[:20]}")
    file = values["file"]
    if not isinstance(file, str) or Path(file).name != file:
        raise ValueError("file must be the name of a file in the folder")
    return Description(
        file=file,
        sha256=str(values["sha256"]),
        network=_network(values["network"]),
        image_shape=shape,
        dtype=dtype,
        preprocessing=preprocessing,
        class_names=tuple(names),
        temperature=float(temperature),
    )


def _network(network: Any) -> dict[str, Any]:
    method = network["method"]
    if not isinstance(network["model"], str) or type(network["seed"]) is not int:
        raise ValueError("network must have a model and a seed")
    if method is not None and not isinstance(method, dict):
        raise ValueError("network.method must be settings or null")
    if not isinstance(network.get("preprocessing", {}), dict):
        raise ValueError("network.preprocessing must be settings")
    extensions = network["extensions"]
    fields = {"family", "name", "value", "package", "version"}
    if not all(
        isinstance(extension, dict) and set(extension) == fields for extension in extensions
    ):
        raise ValueError(f"each of network.extensions must have {', '.join(sorted(fields))}")
    return {**network, "extensions": extensions}
