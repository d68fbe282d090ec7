"""Weights that were trained elsewhere, in the store: kept by their content, before the first job
that starts from them, so that every machine of a cluster has them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.data import image_shape
from distill_ray.errors import RequestError, RunError
from distill_ray.store import Store
from distill_ray.study import Study

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.data.source import Source

FILE = "weights"


def check_weights(study: Study, source: Source) -> None:
    """Raise `RequestError` when weights that the study names cannot be read, or do not fit their
    network and the data. Loads torch if there are any.
    """
    recipes = [group.recipe for group in study.teachers]
    recipes += [study.student, *study.confirm.baselines.values()]
    checked = set[tuple[object, ...]]()
    for recipe in recipes:
        file = study.weight_files.get(recipe.weights or "")
        key = (
            recipe.weights,
            recipe.model,
            recipe.preprocessing,
            recipe.classes,
            recipe.epochs > 0,
        )
        if recipe.weights is None or file is None or key in checked:
            continue
        from distill_ray.models import build_model
        from distill_ray.models.weights import fit_weights, outputs_of, read_weights

        checked.add(key)
        network = build_model(
            recipe.model,
            num_classes=source.num_classes,
            image_shape=image_shape(source, study.data.size),
            preprocessing=recipe.preprocessing,
            seed=0,
        )
        name = Path(file).name
        fit_weights(
            network,
            read_weights(_content(file), name),
            name,
            outputs=outputs_of(recipe.classes, source.class_names, name),
            new_classifier=recipe.epochs > 0,
        )


def keep_weights(store: Store, files: Mapping[str, str]) -> None:
    """Put the weights files of a study into the store, each once.

    `files` has the path of each by its pinned name, `Study.weight_files`. Raises `RequestError`
    when a file cannot be read any more.
    """
    for name, path in files.items():
        if store.get(_key(name)) is not None:
            continue
        store.put(_key(name), {FILE: _content(path)}, {"name": name})


def stored_weights(store: Store, name: str) -> dict[str, Tensor]:
    """The tensors of the weights that are pinned as `name`.

    Raises `RunError` when the store does not have them, and `RequestError` as `read_weights` does.
    """
    from distill_ray.models.weights import read_weights

    record = store.get(_key(name))
    if record is None:
        raise RunError(
            f"store {store.shown} has no weights {name}; name their file in the study file again"
        )
    return read_weights(record.read(FILE), name.rpartition("@")[0])


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"weights {path}: {error.strerror}") from None


def _key(name: str) -> str:
    return posixpath.join("weights", name.rpartition("@")[2])
