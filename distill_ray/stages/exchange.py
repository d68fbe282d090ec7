"""Teachers' answers as a Parquet data set: out of a store, and into one.

A folder has a file for each augmentation and version, with a row per image, part, copy and member:

    <augmentation>-<seed>/version-00001.parquet           row, version, part, copy, member, logits
    <augmentation>-<seed>/version-00001.images.parquet    row, version, part, copy, image

`row` is that of the image in the data set's training file, `logits` float32 (K,), `image` float32
(H * W * C,) in [0, 1]. The metadata of each file's schema has, under `distill_ray`, a JSON object
with what the answers are of: data, class names, teachers, augmentation, its seed, and the version.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.augmentation.augmentation import Batch
from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import STORED, confirm_sharing
from distill_ray.report.format import listed
from distill_ray.stages.answer import Answers, answers_for, answers_for_search
from distill_ray.stages.state import StudyState
from distill_ray.study import StudyDefinition
from distill_ray.study.compatibility import combinations

FORMAT = 1
METADATA = b"distill_ray"


def asked_of_teachers(state: StudyState) -> list[Answers]:
    """All that trials and confirmations ask, as far as it is known. Raises `RequestError` where
    students have no versions, or no method that answers are enough for.
    """
    jobs = [run.job for run in state.confirmations]
    asked = answers_for_search(state.study, state.data, state.teacher_ids)
    asked += answers_for(jobs, confirm_sharing(state.study), state.data)
    merged: dict[Any, Answers] = {}
    for answers in asked:
        known = merged.get(answers.key, answers)
        versions = tuple(sorted({*known.versions, *answers.versions}))
        merged[answers.key] = dataclasses.replace(answers, versions=versions)
    if not merged:
        methods = _live_methods(state.study)
        if methods:
            message = (
                f"found {listed(methods)}, which takes more from teachers than their answers, such "
                "as features: they run in every step, and there is nothing to exchange"
            )
            raise state.study.error([("student.method", message)])
        message = (
            "found no versions that are known before the search, and without them the answers of "
            "teachers belong to one seed; set student.versions"
        )
        raise state.study.error([("student.versions", message)])
    return list(merged.values())


def _live_methods(study: StudyDefinition) -> list[str]:
    """The methods of students that see versions, if all of them need the teachers themselves."""
    recipes = [
        study.search.space.recipe(study.student, drawn)
        for drawn in combinations(study.search.space)
    ]
    asking = [
        recipe for recipe in recipes if recipe.versions is not None and recipe.method.needs_teachers
    ]
    if not all(recipe.method.live_teachers(recipe.augmentation) for recipe in asking):
        return []
    return list(dict.fromkeys(recipe.method.name for recipe in asking))


def export_answers(state: StudyState, folder: Path, *, with_images: bool = False) -> int:
    """Write the answers that the store has into `folder`; how many files there are.

    Raises `RequestError` where teachers have not answered for all versions yet, or `folder` is
    there already and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            f"{for_terminal(str(folder))} is there already and not empty; name a new folder"
        )
    for answers in asked_of_teachers(state):
        if missing := answers.missing(state.store):
            raise RequestError(
                f"teachers have not answered for {answers.name} yet: {len(missing)} of "
                f"{len(answers.pieces)} shards are missing, the first of version {missing[0][0]}; "
                "run the study first"
            )
    files = 0
    for answers in asked_of_teachers(state):
        place = folder / f"{answers.name}-{answers.key.seed}"
        if place.exists():  # of other images, or with fewer logits of each
            place = folder / f"{place.name}-{answers.key.id}"
        place.mkdir(parents=True)
        for version in answers.versions:
            described = {METADATA: json.dumps(_description(answers, version)).encode()}
            name = f"version-{version:05d}"
            table = _logits_table(state, answers, version).replace_schema_metadata(described)
            pq.write_table(table, place / f"{name}.parquet", compression="zstd")
            files += 1
            if with_images:
                images = _image_table(answers, version).replace_schema_metadata(described)
                pq.write_table(images, place / f"{name}.images.parquet", compression="zstd")
                files += 1
    return files


def import_answers(state: StudyState, folder: Path) -> int:
    """Put the answers in `folder` into the store, for all that the study asks of its teachers; how
    many images they are for.

    Raises `RequestError`, before anything is stored, for answers of other images, classes, teachers
    or another augmentation, for rows that are missing or there twice, and for missing versions.
    """
    asked = asked_of_teachers(state)
    descriptions = {}
    for path in sorted(folder.rglob("version-*.parquet")):
        if not path.name.endswith(".images.parquet"):
            descriptions[path] = _described(path)
    if not descriptions:
        raise RequestError(f"{folder}: found no files version-*.parquet of teachers' answers")
    todo = []
    for answers in asked:
        for version in answers.versions:
            path = _file_of(_description(answers, version), descriptions, folder)
            todo.append((answers, version, _read(path, answers, version)))
    images = 0
    for answers, version, parts in todo:
        images += _keep(state, answers, version, parts)
    return images


def _description(answers: Answers, version: int) -> dict[str, Any]:
    """What the answers are of, as JSON values."""
    from distill_ray.execution.train_job import cached_dataset

    return {
        "format": FORMAT,
        "data": answers.key.data.seen_by(answers.key.augmentation),
        "class_names": list(cached_dataset(answers.key.data).class_names),
        "teachers": list(answers.key.teachers),
        "augmentation": answers.key.augmentation.to_dict(),
        "augmentation_seed": answers.key.seed,
        "version": version,
    }


def _logits_table(state: StudyState, answers: Answers, version: int) -> pa.Table:
    """The stored answers for a version: a row per image, part, copy and member."""
    from distill_ray.execution.train_job import cached_dataset, stored_answers

    rows = cached_dataset(answers.key.data).train
    worker = WorkerResources(sharing=STORED).worker()
    shards = stored_answers(state.store, answers.key, version, worker)
    places = answers.key.shards(answers.images)
    tables = []
    for (first, last), shard in zip(places, shards, strict=True):
        for part in range(len(shard.logits)):
            logits = shard.all_classes(part)
            _, copies, members, classes = logits.shape
            image, copy, member = np.meshgrid(
                rows[first:last], np.arange(copies), np.arange(members), indexing="ij"
            )
            columns = _address(image, version, part, copy)
            columns["member"] = pa.array(member.ravel(), pa.int16())
            columns["logits"] = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), classes)
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _image_table(answers: Answers, version: int) -> pa.Table:
    """The images of a version as teachers saw them: a row per image, part and copy."""
    tables = []
    for batch in _batches(answers, version):
        assert batch.rows is not None
        for part in batch.parts:
            pixels = part.images.permute(0, 2, 3, 1).contiguous().numpy()
            copies = len(pixels) // len(batch.rows)
            copy, image = np.meshgrid(np.arange(copies), batch.rows.numpy(), indexing="ij")
            columns = _address(image, version, part.number, copy)
            flat = pa.array(pixels.ravel())
            columns["image"] = pa.FixedSizeListArray.from_arrays(flat, pixels[0].size)
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _batches(answers: Answers, version: int, images: int | None = None) -> Iterator[Batch]:
    """A version of the images as teachers see them, or of the first `images` of them."""
    from distill_ray.augmentation.epoch import version_batches
    from distill_ray.execution.train_job import cached_dataset

    dataset = cached_dataset(answers.key.data)
    yield from version_batches(
        answers.key.augmentation,
        dataset.whole_images,
        dataset.labels,
        version=version,
        seed=answers.key.seed,
        batch_size=256,
        device="cpu",
        rows=dataset.train,
        last=images,
        mean=dataset.mean,
        shape=dataset.image_shape[1:],
        strips=dataset.strips,
    )


def _address(image: np.ndarray, version: int, part: int, copy: np.ndarray) -> dict[str, pa.Array]:
    """The columns that say which image a row is about."""
    return {
        "row": pa.array(image.ravel(), pa.int64()),
        "version": pa.array(np.full(image.size, version), pa.int32()),
        "part": pa.array(np.full(image.size, part), pa.int8()),
        "copy": pa.array(copy.ravel(), pa.int8()),
    }


def _described(path: Path) -> dict[str, Any]:
    """The description in a file. Raises `RequestError` where there is none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        described = json.loads(metadata[METADATA])
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']}, known is {FORMAT}")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path}: not a file of teachers' answers ({error})") from None
    return dict(described)


def _file_of(
    wanted: dict[str, Any], descriptions: dict[Path, dict[str, Any]], folder: Path
) -> Path:
    """The file with the answers that are described so. Raises `RequestError` where there is none,
    with what the nearest has instead.
    """
    name, version = wanted["augmentation"]["name"], wanted["version"]
    near = [path for path, described in descriptions.items() if described.get("version") == version]
    near = [
        path for path in near if descriptions[path].get("augmentation", {}).get("name") == name
    ] or near
    if not near:
        there = sorted({int(described["version"]) for described in descriptions.values()})
        raise RequestError(f"{folder}: version {version} is missing (there are {there})")
    differing: list[str] = []
    for path in near:
        differing = [key for key, value in wanted.items() if descriptions[path].get(key) != value]
        if not differing:
            return path
    key = differing[0]
    raise RequestError(
        f"{near[-1]}: these are answers for other {key.replace('_', ' ')}: found "
        f"{json.dumps(descriptions[near[-1]].get(key))}, the study has {json.dumps(wanted[key])}"
    )


def _read(path: Path, answers: Answers, version: int) -> list[np.ndarray]:
    """The logits in a file, by part (images, copies, N, K) in the order of the training split."""
    from distill_ray.execution.train_job import cached_dataset

    dataset = cached_dataset(answers.key.data)
    members, classes = len(answers.key.teachers), dataset.num_classes
    numbers = dict.fromkeys(("row", "version", "part", "copy", "member"), pa.int64())
    wanted = pa.schema(numbers | {"logits": pa.list_(pa.float32())})
    try:
        table = pq.read_table(path, columns=wanted.names).select(wanted.names).cast(wanted)
        if nulls := [name for name in wanted.names if table[name].null_count]:
            raise ValueError(f"column {nulls[0]} has empty fields")
        address = {name: table[name].to_numpy() for name in numbers}
        column = table["logits"].combine_chunks()
        lengths = set(column.value_lengths().to_pylist()) or {0}
        logits = column.flatten().to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read ({first_line(error)})") from None
    if lengths != {classes}:
        raise RequestError(f"{path}: logits have {sorted(lengths)} numbers, expected {classes}")
    logits = logits.reshape(-1, classes)
    if not np.isfinite(logits).all():
        row = address["row"][~np.isfinite(logits).all(1)][0]
        raise RequestError(f"{path}: the logits for row {row} are not finite")
    if (others := address["version"] != version).any():
        found = address["version"][others][0]
        raise RequestError(f"{path}: holds answers for version {found}, expected {version}")
    return list(_by_part(path, address, logits, dataset.train, _copies(answers), members))


def _copies(answers: Answers) -> list[int]:
    """How many copies of an image each part of the augmentation has."""
    (batch,) = _batches(answers, 1, images=1)
    return [len(part.images) for part in batch.parts]


def _by_part(
    path: Path,
    address: dict[str, np.ndarray],
    logits: np.ndarray,
    rows: np.ndarray,
    copies_of: list[int],
    members: int,
) -> Iterator[np.ndarray]:
    for name, count in {"part": len(copies_of), "member": members, "copy": max(copies_of)}.items():
        outside = (address[name] < 0) | (address[name] >= count)
        if outside.any():
            found = address[name][outside][0]
            raise RequestError(f"{path}: {name} {found}, expected 0 to {count - 1}")
    for part, copies in enumerate(copies_of):
        chosen = address["part"] == part
        row, copy, member = (address[name][chosen] for name in ("row", "copy", "member"))
        place = np.searchsorted(rows, row).clip(max=len(rows) - 1)
        foreign = rows[place] != row
        if foreign.any():
            raise RequestError(f"{path}: row {row[foreign][0]} is no image of the training split")
        slot = (place * copies + copy.clip(max=copies - 1)) * members + member
        counts = np.bincount(slot, minlength=len(rows) * copies * members)
        if (counts != 1).any():
            wrong = int(np.flatnonzero(counts != 1)[0])
            image, rest = divmod(wrong, copies * members)
            fault = "missing" if counts[wrong] == 0 else "there twice"
            raise RequestError(
                f"{path}: row {rows[image]}, part {part}, copy {rest // members}, member "
                f"{rest % members} is {fault}"
            )
        ordered = np.empty_like(logits[chosen])
        ordered[slot] = logits[chosen]
        yield ordered.reshape(len(rows), copies, members, -1)


def _keep(state: StudyState, answers: Answers, version: int, parts: list[np.ndarray]) -> int:
    from distill_ray.execution.train_job import keep_answers

    worker = WorkerResources(sharing=STORED).worker()
    keep_answers(state.store, answers.key, version, parts, worker)
    return answers.images
