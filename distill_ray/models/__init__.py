"""Networks by name. Importing this package is cheap: names are checked without torch, which comes
in with the first network.
"""

from distill_ray.models.catalogue import (
    build_model,
    check_batch_ensemble,
    check_model_name,
    check_multi_head,
    family_of,
    model_families,
    model_names,
    trains_on_one_image,
    unit_count,
)
from distill_ray.models.family import FAMILIES, ModelFamily, Size

__all__ = [
    "FAMILIES",
    "ModelFamily",
    "Size",
    "build_model",
    "check_batch_ensemble",
    "check_model_name",
    "check_multi_head",
    "family_of",
    "model_families",
    "model_names",
    "trains_on_one_image",
    "unit_count",
]
