"""Weights that were trained elsewhere, in the store: kept by their content, before the first job
that starts from them, so that every machine of a cluster has them.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.data import image_shape, open_source
from distill_ray.errors import RequestError, RunError
from distill_ray.job import Data
from distill_ray.methods import Method
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.models.timm_names import PREFIX
from distill_ray.records import WEIGHTS, find_job
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.data.source import Source

FILE = "weights"


def check_weights(study: StudyDefinition, source: Source) -> None:
    """Raise `RequestError` when weights that the study names cannot be read, or do not fit their
    network and the data. Loads torch if there are any.
    """
    recipes = [group.recipe for group in study.teachers]
    recipes += [study.student, *study.confirm.baselines.values()]
    checked = set[tuple[object, ...]]()
    for recipe in recipes:
        if recipe.answers_alone:
            continue
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
        shape = image_shape(source, study.data.size)
        network = build_model(
            recipe.model,
            num_classes=source.num_classes,
            image_shape=shape,
            preprocessing=recipe.prepared(shape[0]),
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

    `files` has the path of each by its pinned name, `StudyDefinition.weight_files`. Raises
    `RequestError` when a file cannot be read any more.
    """
    for name, path in files.items():
        if Path(path).is_dir() or store.get(_key(name)) is not None:
            continue  # a folder of answers is read when it is needed
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


def network_from(source: str, store: str) -> dict[str, Any]:
    """What `from: source` stands for in a study file: the model, the weights and the preprocessing
    of a network that an earlier study has trained.

    Args:
        source: `STUDY[/CONTENDER][@STORE]`, the champion unless a contender is named, or
            `job ID[@STORE]`.
        store: where it is unless the source says.

    Raises `RequestError` when there is no such network, or it is none that can be taken.
    """
    what, _, place = source.partition("@")
    opened = Store.open(place or store, make=False)
    job_id = what.removeprefix("job ").strip()
    if not what.startswith("job "):
        job_id = _job_of(opened, what)
    record = find_job(opened, job_id)
    if record is None:
        raise RequestError(f"{source}: store {opened.shown} has no finished job {job_id}")
    recipe = record.job.recipe
    if recipe.answers_alone:
        raise RequestError(f"{source}: job {job_id} is known by its answers alone; name a network")
    if type(recipe.method).deployed_like is not Method.deployed_like:
        raise RequestError(
            f"{source}: job {job_id} was trained by {recipe.method.name}, which gives a network "
            "several answers; name one with a single answer"
        )
    settings: dict[str, Any] = {
        "model": recipe.model,
        "weights": str(record.record.local(WEIGHTS)),
    }
    preprocessing = recipe.preprocessing
    if recipe.model.startswith(PREFIX) and recipe.weights is None:
        # Trained at the size of its images, whatever timm says of weights of its own
        preprocessing = preprocessing or Preprocessing()
        if preprocessing.size is None:
            preprocessing = replace(preprocessing, size=_side(record.job.data))
    if preprocessing is not None:
        given = preprocessing.to_dict().items()
        settings["preprocessing"] = {name: value for name, value in given if value is not None}
    return settings


def _side(data: Data) -> int:
    """The height of the images that networks see."""
    side = data.crop or data.size
    return side or image_shape(open_source(data.location, label=data.label))[1]


def _job_of(store: Store, what: str) -> str:
    """The first job of a contender of a study, by the report that the study has made."""
    study, _, contender = what.partition("/")
    content = store.read(posixpath.join("studies", study, "report", "report.json"))
    if content is None:
        raise RequestError(
            f"{what}: store {store.shown} has no report of a study {study}; run it to its end, or "
            "name a job: from: job ID"
        )
    report = json.loads(content)
    if not contender:
        if report["champion"] is None:
            raise RequestError(f"{what}: study {study} has no champion")
        return str(report["champion"]["job_id"])
    rows = {row["name"]: row["jobs"] for row in report["table"] if row["members"] == 1}
    if contender not in rows:
        raise RequestError(
            f"{what}: study {study} has no contender {contender!r} that is one network (it has: "
            f"{', '.join(rows)})"
        )
    return str(rows[contender][0])


def weights_of(name: str, files: Mapping[str, str], store: Store | None) -> dict[str, Tensor]:
    """The tensors of the weights that are pinned as `name`: from their file where `files` has it,
    else from the store. Raises as `stored_weights` does.
    """
    from distill_ray.models.weights import read_weights

    if (path := files.get(name)) is not None:
        return read_weights(_content(path), Path(path).name)
    if store is None:
        raise RunError(f"weights {name} have no file here; name the store that has them")
    return stored_weights(store, name)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"weights {path}: {error.strerror}") from None


def _key(name: str) -> str:
    return posixpath.join("weights", name.rpartition("@")[2])
