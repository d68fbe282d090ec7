"""Whether the maps that a method compares are there and can be paired, found by building student
and teachers without numbers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill_ray.job import Recipe
from distill_ray.methods.method import Setup
from distill_ray.methods.tapped import Tapped
from distill_ray.models import build_model
from distill_ray.models.own_modules import module_file_of
from distill_ray.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from distill_ray.models.network import Network

NAMED = ("student_units", "teacher_units")


def units_refused(
    recipe: Recipe,
    teachers: Sequence[Recipe],
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> dict[str, str]:
    """What keeps a method from comparing maps of the student with those of its `teachers`, by the
    field of the recipe; nothing for other methods.
    """
    method = recipe.method
    if not isinstance(method, Tapped):
        return {}
    channels = image_shape[0]
    student, *others = (
        (learner.model, learner.prepared(channels)) for learner in (recipe, *teachers)
    )
    try:
        networks = {
            kind: _network(*kind, image_shape, num_classes)
            for kind in dict.fromkeys([student, *others])
        }
        distinct = [networks[kind] for kind in dict.fromkeys(others)]
        method.pairs(networks[student], Setup(networks=distinct, image_shape=image_shape))
    except ValueError as error:
        field = str(error).partition(" ")[0]
        return {field if field in NAMED else "method": f"method {method.name!r}: {error}"}
    return {}


def _network(
    model: str,
    preprocessing: Preprocessing | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Network:
    build = functools.partial(
        build_model,
        model,
        num_classes=num_classes,
        image_shape=image_shape,
        preprocessing=preprocessing,
        seed=0,
    )
    if module_file_of(model) is None:  # what somebody's own do with numbers is unknown
        import torch

        with torch.device("meta"), contextlib.suppress(NotImplementedError):
            return build()
    return build()
