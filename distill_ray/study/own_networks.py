"""Whether networks of the user's own, and those of timm, are what data and methods need, found by
building them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill_ray.job import Recipe
from distill_ray.methods.method import Setup
from distill_ray.models import build_model
from distill_ray.models.own_modules import module_file_of
from distill_ray.models.timm_names import PREFIX

if TYPE_CHECKING:
    from distill_ray.models.network import Network


def own_networks_refused(
    recipe: Recipe,
    teachers: Sequence[Recipe],
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> dict[str, str]:
    """What is wrong with a recipe's network, or with those of the `teachers` that it learns from,
    by the field of the recipe. Only networks from files of `--extension` and of timm are looked at.
    """
    method = recipe.method
    own = [
        own_recipe
        for own_recipe in (recipe, *teachers)
        if module_file_of(own_recipe.model) is not None or own_recipe.model.startswith(PREFIX)
    ]
    if not own:
        return {}
    from distill_ray.models.network import with_features

    try:
        networks = [
            (own_recipe, _network(own_recipe, image_shape, num_classes)) for own_recipe in own
        ]
    except ValueError as error:
        return {"model": str(error)}
    needs_features = method.needs_features
    for own_recipe, network in networks:
        try:
            if needs_features and (
                own_recipe is recipe or method.live_teachers(recipe.augmentation)
            ):
                with_features(network)
            elif own_recipe is recipe:
                method.student(network, Setup(teachers=len(teachers), image_shape=image_shape))
        except ValueError as error:
            return {"method": f"method {method.name!r}: {error}"}
    return {}


def _network(recipe: Recipe, image_shape: tuple[int, int, int], num_classes: int) -> Network:
    import torch

    # Those of timm need no numbers for this; what somebody's own do with numbers is unknown
    with torch.device("meta" if recipe.model.startswith(PREFIX) else "cpu"):
        return build_model(
            recipe.model,
            num_classes=num_classes,
            image_shape=image_shape,
            preprocessing=recipe.prepared(image_shape[0]),
            seed=0,
        )
