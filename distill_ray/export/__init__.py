"""Exporting the champion: a folder in a format that other tools load, checked against the trained
student, with a model card. The names below are imported at first use.
"""

from typing import TYPE_CHECKING

from distill_ray._lazy import names_from

if TYPE_CHECKING:
    from distill_ray.export.champion import (
        Exported,
        check_exportable,
        export_champion,
        find_champion,
    )
    from distill_ray.export.load import Model, open_model

FORMATS = ("safetensors", "torch-export", "onnx", "onnx-int8", "mlflow")
"""The formats in which a champion is exported."""

__all__ = [
    "FORMATS",
    "Exported",
    "Model",
    "check_exportable",
    "export_champion",
    "find_champion",
    "open_model",
]

__getattr__ = names_from(
    __name__,
    {
        "Exported": "champion",
        "check_exportable": "champion",
        "export_champion": "champion",
        "find_champion": "champion",
        "Model": "load",
        "open_model": "load",
    },
)
