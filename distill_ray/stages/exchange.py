"""Teachers' answers out of a store, as a Parquet data set, and into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import STORED, confirm_sharing
from distill_ray.report.format import listed
from distill_ray.stages.answer import Answers, answers_for, answers_for_search, joined
from distill_ray.stages.answer_files import (
    address_columns,
    check_new,
    description,
    descriptions_in,
    file_of,
    image_tables,
    new_place,
    read_logits,
    shown_in,
    vectors,
    write_tables,
)
from distill_ray.stages.state import StudyState
from distill_ray.study import StudyDefinition
from distill_ray.study.compatibility import combinations


def asked_of_teachers(state: StudyState, *, all_versions: bool = False) -> list[Answers]:
    """All that trials and confirmations ask, as far as it is known: what the search will find is
    not, and of fewer epochs than versions its seeds may see any, so that who asks once asks for
    `all_versions`. Raises `RequestError` where students have no versions, or no method that answers
    are enough for.
    """
    study, data = state.study, state.data
    jobs = [run.job for run in state.confirmations or state.baselines]
    asked = answers_for_search(study, data, state.teacher_ids, all_versions=all_versions)
    asked += answers_for(jobs, confirm_sharing(study), data, all_versions=all_versions)
    merged = joined(asked)
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
    return merged


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
    check_new(folder)
    for answers in asked_of_teachers(state):
        if missing := answers.missing(state.store):
            raise RequestError(
                f"teachers have not answered for {answers.name} yet: {len(missing)} of "
                f"{len(answers.pieces)} shards are missing, the first of version {missing[0][0]}; "
                "run the study first"
            )
    files = 0
    for answers in asked_of_teachers(state):
        place = new_place(folder, answers)
        for version in answers.versions:
            described = description(answers, version) | shown_in(answers, version)
            name = f"version-{version:05d}"
            table = _logits_table(state, answers, version)
            write_tables(place / f"{name}.parquet", described, [table])
            files += 1
            if with_images:
                images = image_tables(answers, version)
                write_tables(place / f"{name}.images.parquet", described, images)
                files += 1
    return files


def import_answers(state: StudyState, folder: Path) -> int:
    """Put the answers in `folder` into the store, for all that the study asks of its teachers; how
    many images they are for.

    Raises `RequestError`, before anything is stored, for answers of other images, classes, teachers
    or another augmentation, for rows that are missing or there twice, and for missing versions.
    """
    asked = asked_of_teachers(state)
    descriptions = descriptions_in(folder)
    if not any("teachers" in described for described in descriptions.values()):
        raise RequestError(
            f"{folder}: answers to `teacher-logits ask`, which are of no teachers that are here; "
            "`run` takes them from the folder that teachers.answers names"
        )
    todo = []
    for answers in asked:
        for version in answers.versions:
            path = file_of(description(answers, version), descriptions, folder)
            members = len(answers.key.teachers)
            todo.append((answers, version, read_logits(path, answers, version, members)))
    images = 0
    for answers, version, parts in todo:
        keep(state, answers, version, parts)
        images += answers.images
    return images


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
            columns = address_columns(image, version, part, copy)
            columns["member"] = pa.array(member.ravel(), pa.int16())
            columns["logits"] = vectors(logits.reshape(-1, classes))
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def keep(state: StudyState, answers: Answers, version: int, parts: list[np.ndarray]) -> None:
    """Put answers for a version, by part (images, copies, N, K), into the store."""
    from distill_ray.execution.train_job import keep_answers

    worker = WorkerResources(sharing=STORED).worker()
    keep_answers(state.store, answers.key, version, parts, worker)


def set_damaged_aside(state: StudyState, answers: Answers) -> None:
    """Set all that is damaged of stored answers aside at once, so that it is missing."""
    from distill_ray.execution import train_job

    worker = WorkerResources(sharing=STORED).worker()
    train_job.set_damaged_aside(state.store, answers.key, answers.pieces, worker)
