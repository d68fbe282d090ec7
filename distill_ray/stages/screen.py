"""The screen stage: T. stddev of every candidate augmentation, measured with the teachers alone.

A screening is one measurement. Like a job it has an identity, under which its result is kept in the
store, so that it is never made twice, in this study or another.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distill_ray.augmentation import AUGMENTATIONS, Augmentation, Draws
from distill_ray.augmentation.versions import Versions
from distill_ray.errors import RunError
from distill_ray.events import Measurement, Observer
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.messages import Finished, Record, Task, Work
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import LIVE, Sharing, trial_sharing
from distill_ray.job import SCHEMA_VERSION, Data, canonical_json
from distill_ray.metrics import mean_log_probabilities
from distill_ray.metrics.augmentation import (
    BLOCKS,
    Deviation,
    TeacherDeviation,
    not_behind,
)
from distill_ray.records import TEACHER_IMAGES
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.study.checks import GROUP
from distill_ray.study.space import Choice, label_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation import Part
    from distill_ray.methods.method import Teachers
    from distill_ray.training import Dataset, EpochTeachers

T_STDDEV, ENTROPY = "screen/t-stddev", "screen/entropy"
"""What is measured: the deviation of the teachers' mean predictions, and their mean entropy in
nats.
"""

MEASURES = 2
"""Raised when a screening is to measure more than before; it is then made anew."""


@dataclass(frozen=True, kw_only=True)
class Screening:
    """One measurement: which augmentation, of which images, by which teachers. `id` is a hash of
    all that decides its result.
    """

    augmentation: Augmentation
    data: Data
    teachers: tuple[str, ...]
    epochs: int
    images: int | None
    batch_size: int
    seed: int
    versions: Versions | None = None
    label: str = field(default="", compare=False)
    """The augmentation as people read it."""

    @property
    def id(self) -> str:
        """Twenty hexadecimal digits, the same on every machine and in every study."""
        identity = self.to_dict() | {
            "data": self.data.seen_by(self.augmentation),
            "schema": SCHEMA_VERSION,
            "measures": MEASURES,
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]

    @property
    def key(self) -> str:
        """Its folder in the store."""
        return posixpath.join("screenings", self.id)

    def to_dict(self) -> dict[str, Any]:
        """The screening as JSON values; its versions only where it has some."""
        versions = {} if self.versions is None else {"versions": asdict(self.versions)}
        return versions | {
            "augmentation": self.augmentation.to_dict(),
            "data": asdict(self.data),
            "teachers": list(self.teachers),
            "epochs": self.epochs,
            "images": self.images,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Screening:
        """The inverse of `to_dict`."""
        augmentation = dict(values["augmentation"])
        return cls(
            **dict(values)
            | {
                "augmentation": AUGMENTATIONS[augmentation.pop("name")](**augmentation),
                "data": Data.from_dict(values["data"]),
                "teachers": tuple(values["teachers"]),
                "versions": Versions(**values["versions"]) if "versions" in values else None,
            }
        )


def screenings(study: StudyDefinition, data: Data, teachers: Sequence[str]) -> list[Screening]:
    """The measurements that the study asks for, in the order of its candidates. `teachers` are
    those that students learn from.

    They have the seed of the trials, so that both use the same teacher logits of an epoch.
    """
    screen = study.screen
    if screen is None:
        return []
    return [
        Screening(
            augmentation=augmentation,
            data=data.labelled,
            teachers=tuple(teachers),
            epochs=screen.epochs,
            images=screen.images,
            batch_size=screen.batch_size,
            seed=study.trial_seed,
            versions=None if augmentation.by_batch else study.student.image_versions,
            label=study.augmentation_texts[augmentation],
        )
        for augmentation in screen.candidates
    ]


def screening_sharing(study: StudyDefinition, screening: Screening) -> Sharing:
    """How a screening gets the teachers' logits: as the trials do, where they use exactly the same
    ones, else live.
    """
    augmentation = screening.augmentation
    try:
        searched = _choices(study)
    except KeyError:
        searched = (study.student.augmentation,)
    alike = screening.images is None and (
        not augmentation.by_batch or screening.batch_size == study.student.batch_size
    )
    return trial_sharing(study) if alike and augmentation in searched else LIVE


@dataclass(frozen=True)
class Screened:
    """The result of a screening: what MLflow shows of it, and T. stddev with all that its errors
    are made from.
    """

    metrics: dict[str, float]
    deviation: Deviation


def find_screening(store: Store, screening: Screening) -> Screened | None:
    """The result of a finished screening, or None."""
    record = store.get(screening.key)
    if record is None:
        return None
    metrics = {name: float(value) for name, value in record.info["metrics"].items()}
    without = {name: tuple(values) for name, values in record.info["without"].items()}
    return Screened(metrics, Deviation(metrics[T_STDDEV], without["images"], without["teachers"]))


def measure(
    screening: Screening, dataset: Dataset, teachers: EpochTeachers, device: torch.device
) -> Screened:
    """T. stddev of the teachers' mean prediction with its standard errors over images and over
    teachers, their mean entropy, and the number of groups.

    As in Wang et al. 2022: the training images pass by, shuffled and augmented; the predictions, at
    temperature 1, for all parts of five batches (the images and, where the augmentation has some,
    the augmented copies) make a group. Several teachers count by the mean of their probabilities,
    the target of a student. `images` of the training split are drawn once.

    For the errors, T. stddev is measured again without each of 20 groups of images, the same ones
    for every augmentation, and without each teacher.
    """
    from distill_ray.augmentation.epoch import epoch_batches

    rows = dataset.train
    if screening.images is not None:
        rows = np.sort(
            rows[
                Draws(screening.seed, 0).permutation("screened images", len(rows))[
                    : screening.images
                ]
            ]
        )
    group_of = np.zeros(int(rows.max()) + 1, np.int64)
    places = Draws(screening.seed, 0).permutation("groups of images to leave out", len(rows))
    groups = min(BLOCKS, len(rows))
    group_of[rows[places]] = np.arange(len(rows)) % groups
    blocks = GROUP * screening.augmentation.part_count
    deviation = TeacherDeviation(blocks, groups)
    members = len(screening.teachers)
    without = [TeacherDeviation(blocks) for _ in range(members if members > 1 else 0)]
    for epoch in range(1, screening.epochs + 1):
        answering = teachers.of_epoch(epoch)
        batches = epoch_batches(
            screening.augmentation,
            dataset.whole_images,
            dataset.labels,
            rows=rows,
            mean=dataset.mean,
            shape=dataset.image_shape[1:],
            strips=dataset.strips,
            seed=screening.seed,
            epoch=epoch,
            batch_size=screening.batch_size,
            device=device,
            versions=screening.versions,
        )
        for batch in batches:
            for part in batch.parts:
                assert batch.rows is not None
                logits, shown_rows = _logits(part, batch.rows, answering)
                logs = logits.log_softmax(-1).cpu().numpy()
                deviation.update(mean_log_probabilities(logs), group_of[shown_rows])
                for place, others in enumerate(without):
                    others.update(mean_log_probabilities(np.delete(logs, place, axis=0)))
        del answering  # a GPU need not hold the teacher logits of two epochs
    whole = Deviation(
        deviation.value, deviation.without_images, tuple(others.value for others in without)
    )
    metrics = {
        T_STDDEV: whole.value,
        ENTROPY: deviation.mean_entropy,
        "screen/groups": float(deviation.groups),
    }
    for name, error in {"images": whole.over_images, "teachers": whole.over_teachers}.items():
        if error is not None:
            metrics[f"{T_STDDEV}-error-{name}"] = error
    return Screened(metrics, whole)


def _logits(part: Part, rows: Tensor, teachers: Teachers) -> tuple[Tensor, np.ndarray]:
    """What the teachers say of a part, (N, B, K), or of what they pick from it; and which rows of
    the data set those images are (B,), where two are mixed the first. `rows` are those of the
    batch.
    """
    import torch

    from distill_ray.augmentation import picking

    def no_student(images: Tensor) -> Tensor:
        raise RunError("there is no student yet to pick images by")

    # Their rows ride along in a field that no teacher looks at: picking takes it with the images
    shown_rows = rows.repeat(-(-len(part.images) // len(rows)))[: len(part.images)]
    part = replace(part, label_weight=shown_rows.to(part.images.device, torch.float64))
    picked, logits = picking.pick(part, no_student, teachers)
    assert picked.label_weight is not None
    return logits, picked.label_weight.cpu().numpy().astype(np.int64)


def run_screening(store: Store, screening: Screening, resources: WorkerResources) -> Finished:
    """Measure in this process and put the result into the store, unless it is there."""
    from distill_ray.execution.train_job import cached_dataset, teachers_of_augmentation
    from distill_ray.training import LiveTeachers

    begun, before = time.perf_counter(), LiveTeachers.images
    resources.prepare()
    screened = find_screening(store, screening)
    if screened is None:
        worker = resources.worker()
        teachers = teachers_of_augmentation(
            store,
            screening.teachers,
            screening.data,
            screening.augmentation,
            worker,
            seed=screening.seed,
            batch_size=screening.batch_size,
            epochs=screening.epochs,
            sharing=resources.sharing,
            versions=screening.versions,
        )
        screened = measure(screening, cached_dataset(screening.data), teachers, worker.device)
        deviation = screened.deviation
        info = {
            "screening": screening.to_dict(),
            "metrics": screened.metrics,
            "without": {
                "images": list(deviation.without_images),
                "teachers": list(deviation.without_teachers),
            },
            "seconds": time.perf_counter() - begun,
            TEACHER_IMAGES: LiveTeachers.images - before,
        }
        store.put(screening.key, {}, info)
    return Finished(screened.metrics, time.perf_counter() - begun)


@dataclass(frozen=True, eq=False)
class ScreeningTask(Task):
    """Make a measurement, as `run_screening` does."""

    screening: Screening
    store: Store
    resources: WorkerResources
    epochs: int = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"screening {self.screening.label}"

    def work(self) -> Work:
        yield from ()  # a screening has no epochs to tell of
        return run_screening(self.store, self.screening, self.resources)


def run_screenings(
    cluster: Cluster,
    store: Store,
    missing: Sequence[Screening],
    resources: WorkerResources,
    observer: Observer,
    *,
    sharing: Callable[[Screening], Sharing],
) -> None:
    """Make the measurements in parallel, as many as fit, until all are in the store.

    `sharing` says how each of them gets the teachers' logits. Raises as `run_in_parallel` does.
    """
    from distill_ray.execution.runner import run_in_parallel  # Ray

    assignments = []
    for screening in missing:
        shared = replace(resources, sharing=sharing(screening))
        task = ScreeningTask(screening, store, shared)
        assignments.append(_ScreeningAssignment(task, observer))
    run_in_parallel(cluster, assignments, resources)


@dataclass(frozen=True)
class _ScreeningAssignment:
    task: ScreeningTask
    observer: Observer
    log: str = ""

    def on_start(self) -> None:
        """Observers hear of a screening when it is done."""

    def on_epochs(self, records: Sequence[Record]) -> None:
        """It has none."""

    def on_finish(self, result: Finished) -> None:
        self.observer.measured(measurement(self.task.screening, result.metrics))

    def on_failure(self, reason: str) -> None:
        """The error of the stage says it."""


def measurement(
    screening: Screening, metrics: Mapping[str, float], *, reused: bool = False
) -> Measurement:
    """The event that reports a screening to observers."""
    settings = {
        "augmentation" if name == "name" else f"augmentation.{name}": value
        for name, value in screening.augmentation.to_dict().items()
    }
    settings |= {
        "epochs": screening.epochs,
        "batch_size": screening.batch_size,
        "seed": screening.seed,
    }
    return Measurement(f"screen/{screening.id}", screening.label, settings, metrics, reused)


def kept_choices(
    study: StudyDefinition, values: Mapping[Augmentation, Deviation]
) -> list[Augmentation] | None:
    """The choices of augmentation that the search keeps, in the order of the file; None when it
    keeps all of them.

    `values` holds T. stddev, lower being better. Choices that were not measured stay.
    """
    screen = study.screen
    if screen is None or (screen.keep is None and not screen.drop_behind):
        return None
    choices = _choices(study)
    measured = {choice: values[choice] for choice in choices if choice in values}
    remaining = not_behind(measured) if screen.drop_behind else list(measured)
    best = sorted(
        remaining,
        key=lambda augmentation: (values[augmentation].value, choices.index(augmentation)),
    )[: screen.keep]
    return [
        augmentation
        for augmentation in choices
        if augmentation in best or augmentation not in values
    ]


def narrowed(study: StudyDefinition, values: Mapping[Augmentation, Deviation]) -> StudyDefinition:
    """The study with the search space that its screening leaves."""
    kept = kept_choices(study, values)
    if kept is None:
        return study
    dropped = [augmentation for augmentation in _choices(study) if augmentation not in kept]
    space = study.search.space.without("augmentation", dropped)
    names, labels = (
        {dimension.name for dimension in space.dimensions},
        {label_of(augmentation) for augmentation in dropped},
    )
    try_first = tuple(
        trial
        for trial in study.search.try_first
        if trial.get("augmentation") not in labels and trial.keys() <= names
    )
    return replace(study, search=replace(study.search, space=space, try_first=try_first))


def _choices(study: StudyDefinition) -> tuple[Augmentation, ...]:
    augmentation = study.search.space["augmentation"]
    assert isinstance(augmentation, Choice)
    return augmentation.values
