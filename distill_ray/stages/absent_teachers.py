"""Teachers whose networks are not here, in a study: what they are asked, written as Parquet, and
their answers, put into the store in the place of what networks would leave there.

A folder of their answers has the files that `answer_files` describes, in which metadata name no
teachers, and those for the splits:

    validation.parquet, test.parquet                 row, member, logits
    validation.images.parquet, test.images.parquet   row, image

`row` is that of the image in the data set's test file for a test split of its own, else in the
training file. In the place of augmentation and version, metadata have the `split`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import posixpath
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from scipy.special import log_softmax

from distill_ray.data import Images
from distill_ray.data.split import cut_rows
from distill_ray.errors import RequestError, RunError
from distill_ray.escaping import for_terminal
from distill_ray.job import Data, Job
from distill_ray.metrics import validation_score
from distill_ray.records import Predictions, save_job, save_test_predictions
from distill_ray.stages.answer import Answers
from distill_ray.stages.answer_files import (
    FORMAT,
    check_new,
    description,
    description_in,
    descriptions_in,
    file_of,
    image_shape_in,
    image_tables,
    in_order,
    new_place,
    read_columns,
    read_logits,
    shown_in,
    vectors,
    write_tables,
)
from distill_ray.stages.exchange import asked_of_teachers, keep, set_damaged_aside
from distill_ray.stages.state import StudyState
from distill_ray.study import StudyDefinition, TeacherGroup
from distill_ray.training import load_dataset, load_split

logger = logging.getLogger(__name__)

SplitName = Literal["validation", "test"]
SPLITS: tuple[SplitName, ...] = ("validation", "test")

BATCH = 256
"""Images that are written at a time."""


def ask(state: StudyState, folder: Path, *, with_images: bool = False) -> int:
    """Write what a study asks of teachers elsewhere: the addresses that they are to answer for, and
    with them the images; how many files there are.

    Raises `RequestError` where nothing can be asked beforehand, or `folder` is there already and
    not empty.
    """
    check_new(folder)
    asked = asked_of_teachers(state, all_versions=True)
    files = 0
    for answers in asked:
        place = new_place(folder, answers)
        for version in answers.versions:
            tables = image_tables(answers, version, with_images=with_images)
            described = _unnamed(description(answers, version)) | shown_in(answers, version)
            write_tables(place / f"version-{version:05d}.images.parquet", described, tables)
            files += 1
    for split in SPLITS:
        described = _of_split(state.data, split) | image_shape_in(load_dataset(state.data.labelled))
        tables = _split_tables(state.data, split, with_images=with_images)
        write_tables(folder / f"{split}.images.parquet", described, tables)
        files += 1
    return files


def take_teachers(state: StudyState) -> None:
    """Put a record of each absent teacher into the store, unless it has one: no weights, and what
    it has answered for the validation and the test split.

    Raises `RequestError` where answers are not those that the study asks for, or missing.
    """
    runs = iter(state.teachers)
    for group in state.study.teachers:
        of_group = [next(runs) for _ in group.seeds]
        if not group.recipe.answers_alone:
            continue
        taken = _Taken(state, group, of_group[0].job)
        if all(map(state.is_evaluated, of_group)):
            taken.check("test", taken.named and taken.named / "test.parquet")
            continue
        folder = answers_folder(state.study, group)
        validation, test = (split_predictions(folder, state.data, split, group) for split in SPLITS)
        for run, own, on_test in zip(of_group, validation, test, strict=True):
            scores = validation_score(own.log_probabilities, own.labels)
            epoch = {"epoch": 0, "time": time.time(), "seconds": 0.0}
            epoch |= {f"val/{name}": value for name, value in scores.items()}
            if state.record(run) is None:
                save_job(
                    state.store,
                    run.job,
                    weights={},
                    epochs=[epoch],
                    kept_epoch=0,
                    predictions=own,
                    parameters=0,
                )
            if not state.is_evaluated(run):
                save_test_predictions(state.store, run.job.id, on_test)
        taken.note("test", folder / "test.parquet")


def take_answers(state: StudyState, asked: Sequence[Answers]) -> None:
    """Put answers of absent teachers for versions of the images into the store, each version once
    all of it has been checked.

    Raises `RequestError` as `take_teachers` does.
    """
    for answers in asked:
        missing = answers.missing(state.store)
        if 0 < len(missing) < len(answers.pieces):
            # Perhaps one that a worker found damaged, and each further one would end a run as well
            set_damaged_aside(state, answers)
            missing = answers.missing(state.store)
        versions = sorted({version for version, _ in missing})
        groups = _groups_of(state, answers)
        for taken in groups:
            taken.check_versions(answers, set(answers.versions) - set(versions))
        for version in versions:
            by_group = [taken.read(answers, version) for taken in groups]
            parts = [np.concatenate(logits, axis=2) for logits in zip(*by_group, strict=True)]
            keep(state, answers, version, parts)
            for taken in groups:
                taken.note(_label(answers, version), taken.file_of(answers, version))
        if versions:
            places = ", ".join(for_terminal(str(taken.folder)) for taken in groups)
            logger.info("%s: %d versions taken from %s", answers.name, len(versions), places)


class _Taken:
    """What has been taken from the folder that a group of teachers has answered in.

    The store keeps the SHA-256 of each file that was taken: students learn from what it held then,
    and answers that have changed since are those of other teachers.
    """

    def __init__(self, state: StudyState, group: TeacherGroup, first: Job) -> None:
        self._group = group
        self._state = state
        self._path = posixpath.join("weights", f"answers-{first.id}.json")

    @property
    def named(self) -> Path | None:
        """The folder, where the study names it and not only whose answers they are."""
        named = self._state.study.weight_files.get(self._group.recipe.weights or "")
        return None if named is None else Path(named)

    @property
    def folder(self) -> Path:
        """The folder. Raises `RunError` as `answers_folder` does."""
        return answers_folder(self._state.study, self._group)

    def file_of(self, answers: Answers, version: int) -> Path:
        """The file with the answers for a version. Raises `RequestError` where there is none."""
        try:
            return file_of(_unnamed(description(answers, version)), self._described, self.folder)
        except RequestError as error:
            raise RequestError(
                f"{error}; `distill-ray teacher-logits ask` writes all that teachers are asked"
            ) from None

    @cached_property
    def _described(self) -> dict[Path, dict[str, Any]]:
        return descriptions_in(self.folder)

    def read(self, answers: Answers, version: int) -> list[np.ndarray]:
        """The logits for a version, as `read_logits` gives them. Raises `RequestError` as it does,
        and where they have changed since they were taken.
        """
        file = self.file_of(answers, version)
        self.check(_label(answers, version), file)
        return read_logits(file, answers, version, len(self._group.seeds))

    def note(self, label: str, file: Path) -> None:
        """Keep what the file holds."""
        noted = self._state.store.read_json(self._path) | {label: _sha256(file)}
        self._state.store.write(self._path, json.dumps(noted).encode())

    def check(self, label: str, file: Path | None) -> None:
        """Raise `RequestError` where the file has changed since it was taken."""
        noted = self._state.store.read_json(self._path).get(label)
        if noted is None or file is None or not file.is_file() or _sha256(file) == noted:
            return
        raise RequestError(
            f"{file}: these answers have changed since students learned from them; teachers that "
            "answer otherwise are others: give their folder another name"
        )

    def check_versions(self, answers: Answers, versions: Iterable[int]) -> None:
        """The same for versions that the store has, as far as their files are still there."""
        if self.named is None:
            return
        for version in sorted(versions):
            file = None
            with contextlib.suppress(RequestError):  # it need not be there any more
                file = self.file_of(answers, version)
            self.check(_label(answers, version), file)


def _label(answers: Answers, version: int) -> str:
    """What stands for a version of those images."""
    return f"{answers.key.id}/{version}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _groups_of(state: StudyState, answers: Answers) -> list[_Taken]:
    """The groups of these teachers, in their order."""
    groups = []
    runs = iter(state.teachers)
    for group in state.study.teachers:
        jobs = [next(runs).job for _ in group.seeds]
        if {job.id for job in jobs} <= set(answers.key.teachers):
            groups.append(_Taken(state, group, jobs[0]))
    return groups


def answers_folder(study: StudyDefinition, group: TeacherGroup) -> Path:
    """The folder that the teachers of a group have answered in. Raises `RunError` where the study
    names only whose answers they are.
    """
    name = group.recipe.weights or ""
    if name not in study.weight_files:
        raise RunError(
            f"answers of {name} are not all in the store; name their folder in the study file again"
        )
    return Path(study.weight_files[name])


def _unnamed(description: dict[str, Any]) -> dict[str, Any]:
    """A description of answers, whosever they are."""
    return {name: value for name, value in description.items() if name != "teachers"}


# --- The splits that nobody trains on ---


def _of_split(data: Data, split: SplitName) -> dict[str, Any]:
    """What the answers for a split are of, as JSON values."""
    names = list(load_split(data, "train").class_names)
    identity = data.labelled.identity
    return {"format": FORMAT, "data": identity, "class_names": names, "split": split}


def _images_of(data: Data, split: SplitName) -> tuple[np.ndarray, Images, np.ndarray]:
    """The rows of a split in its file, images among which it is, and its rows there."""
    if split == "validation":
        dataset = load_dataset(data.labelled)
        rows = dataset.validation
        images = load_split(data, "train")
        return rows, images, rows
    test = load_split(data, "test")
    there = np.arange(len(test.labels))
    if not data.cuts_test:
        return there, test, there
    labels = load_split(data, "train").labels
    return cut_rows(labels, **asdict(data.split)).test, test, there


def _split_tables(data: Data, split: SplitName, *, with_images: bool) -> Iterator[pa.Table]:
    rows, images, there = _images_of(data, split)
    for first in range(0, len(rows), BATCH):
        some = slice(first, first + BATCH)
        columns = {"row": pa.array(rows[some], pa.int64())}
        if with_images:
            pixels = images.images[there[some]]
            whole = pixels.dtype == np.uint8
            columns["image"] = vectors(pixels.astype(np.float32) / 255 if whole else pixels)
        yield pa.table(columns)


def split_predictions(
    folder: Path, data: Data, split: SplitName, group: TeacherGroup
) -> list[Predictions]:
    """What each teacher of a group has answered for a split. Raises `RequestError` as
    `take_teachers` does.
    """
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise RequestError(f"{folder}: {path.name} is missing, the answers for the {split} split")
    wanted, found = _of_split(data, split), description_in(path)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise RequestError(
                f"{path}: these are answers for other {name.replace('_', ' ')}: found "
                f"{found.get(name)}, the study has {value}"
            )
    rows, images, there = _images_of(data, split)
    address, logits = read_columns(path, ("row", "member"), len(images.class_names))
    ordered = in_order(path, address, logits, rows, len(group.seeds))
    of_members = log_softmax(ordered.reshape(len(rows), len(group.seeds), -1), axis=2)
    labels = images.labels[there]
    return [Predictions(of_members[:, member], labels) for member in group.seeds]
