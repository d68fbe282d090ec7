"""Teachers that somebody trained elsewhere: how good they are on the validation split, and, where
one is poor, which of the usual mistakes explains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distill_ray.errors import RunError, out_of_memory
from distill_ray.imported_weights import weights_of
from distill_ray.job import Data, Job
from distill_ray.metrics import fit_temperature, score
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.records import JobRecord
from distill_ray.report.cautions import guesses
from distill_ray.resolve import teacher_runs
from distill_ray.stages.absent_teachers import answers_folder, split_predictions
from distill_ray.stages.diagnosis import diagnose, permuted
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, TeacherGroup
from distill_ray.training import Worker, load_dataset, make_network, predict
from distill_ray.training.dataset import Dataset

FAR_BELOW = 0.2
"""So much less accuracy than the best teacher calls for an explanation."""

MAY_HAVE_SEEN = (
    "given teachers may have been trained on these very validation images; nothing in a file "
    "tells, and their accuracy here would be too high"
)


@dataclass(frozen=True)
class GivenTeacher:
    """A teacher with weights from a file that are taken as they are, measured on the validation
    split.

    `name` is that of its group, or its model's, with its number among those that have answered
    together; `weights` is the name of the file and `digest` the first digits of its SHA-256;
    `outputs` are the classes of the file where the study names them. `temperature` is what its
    logits are divided by for students, None if its group is not calibrated. `doubts` has what is
    wrong with it, and what would mend it, as sentences.
    """

    name: str
    model: str
    weights: str
    digest: str
    outputs: tuple[str, ...]
    preprocessing: dict[str, Any] | None
    images: int
    accuracy: float
    nll: float
    temperature: float | None = None
    doubts: tuple[str, ...] = ()

    @property
    def prepared(self) -> str:
        """How it wants images and classes, in a few words."""
        settings = {
            name: value
            for name, value in (self.preprocessing or {}).items()
            if value != getattr(Preprocessing(), name)
        }
        settings |= {"classes": len(self.outputs)} if self.outputs else {}
        return ", ".join(f"{name} {value}" for name, value in settings.items()) or "-"

    def lines(self) -> list[str]:
        """The teacher in a line, and one for each doubt."""
        return [
            f"teacher {self.name}: {self.weights} ({self.digest}), accuracy "
            f"{100 * self.accuracy:.2f} %, NLL {self.nll:.3f} on {self.images:,} validation images"
            + ("" if self.temperature is None else f", calibrated by T {self.temperature:.3g}"),
            *(f"  {doubt}" for doubt in self.doubts),
        ]


def given_teachers(
    study: StudyDefinition,
    data: Data,
    store: Store | None = None,
    record_of: Callable[[Job], JobRecord | None] = lambda job: None,
) -> list[GivenTeacher]:
    """The given teachers of a study, none for a regression.

    Args:
        study: the study.
        data: its data set.
        store: where weights are that the study names without a file.
        record_of: finds a job that is done; a teacher that is not is measured here.

    Raises `RequestError` when a file cannot be read or does not fit.
    """
    jobs = [run.job for run in teacher_runs(study, data)]
    groups = [group for group in study.teachers for _ in group.seeds]
    given = [(group, job) for group, job in zip(groups, jobs, strict=True) if job.takes_weights]
    dataset = load_dataset(data) if given else None
    if dataset is None or dataset.task != "classification":
        return []
    labels = dataset.labels[dataset.validation]
    predictions: list[np.ndarray] = []
    answered: dict[str, list[np.ndarray]] = {}  # each file is read once, however many are in it
    for group, job in given:
        earlier = record_of(job)
        kept = None if earlier is None else earlier.predictions("validation")
        if kept is not None:
            predictions.append(kept.log_probabilities)
        elif job.recipe.answers_alone:
            folder = job.recipe.weights or ""
            if folder not in answered:
                answered[folder] = _answered(study, data, group)
            predictions.append(answered[folder][group.seeds.index(job.seed)])
        else:
            predictions.append(_predict(study, job, dataset, store))
    # The teachers that are trained here, as far as they are
    trained = [record for job in jobs if not job.takes_weights and (record := record_of(job))]
    best = max(
        [
            *(record.metrics["val/accuracy"] for record in trained),
            *(score(answers, labels)["accuracy"] for answers in predictions),
        ]
    )
    teachers = []
    for (group, job), answers in zip(given, predictions, strict=True):
        teacher = _teacher(group, job, answers, labels)
        doubts = _doubts(teacher, answers, labels, best)
        if doubts and job.recipe.answers_alone:
            doubts += permuted(answers, labels, dataset.class_names, answers_alone=True) or [
                "the order of classes does not explain it; were rows and classes those of the data?"
            ]
        elif doubts:
            network = _network(study, job, dataset, store)
            doubts += diagnose(network, job.recipe, dataset, answers)
        teachers.append(replace(teacher, doubts=tuple(doubts)))
    return teachers


def _teacher(
    group: TeacherGroup, job: Job, answers: np.ndarray, labels: np.ndarray
) -> GivenTeacher:
    recipe, scores = job.recipe, score(answers, labels)
    file, _, digest = (recipe.weights or "").rpartition("@")
    name = group.name or (file if recipe.answers_alone else recipe.model)
    return GivenTeacher(
        name=f"{name}, member {job.seed}" if recipe.answers_alone else name,
        model=recipe.model,
        weights=file,
        digest=digest,
        outputs=recipe.classes,
        preprocessing=None if recipe.preprocessing is None else recipe.preprocessing.to_dict(),
        images=len(labels),
        accuracy=scores["accuracy"],
        nll=scores["nll"],
        temperature=fit_temperature(answers, labels) if group.calibrate else None,
    )


def _doubts(
    teacher: GivenTeacher, answers: np.ndarray, labels: np.ndarray, best: float
) -> list[str]:
    if guesses(answers, labels):
        return [f"no better than guessing: accuracy {100 * teacher.accuracy:.1f} %"]
    uniform = math.log(answers.shape[1])
    if teacher.nll > uniform:
        return [
            f"surer of itself than it is right: NLL {teacher.nll:.3g}, where equal probabilities "
            f"would have {uniform:.3g} (accuracy {100 * teacher.accuracy:.1f} %)"
        ]
    if teacher.accuracy < best - FAR_BELOW:
        return [
            f"far below the best teacher: accuracy {100 * teacher.accuracy:.1f} % where that has "
            f"{100 * best:.1f} %"
        ]
    return []


def _answered(study: StudyDefinition, data: Data, group: TeacherGroup) -> list[np.ndarray]:
    """What teachers whose networks are not here have answered for the validation split."""
    of_group = split_predictions(answers_folder(study, group), data, "validation", group)
    return [of_member.log_probabilities for of_member in of_group]


def _network(study: StudyDefinition, job: Job, dataset: Dataset, store: Store | None) -> Any:
    tensors = weights_of(job.recipe.weights or "", study.weight_files, store)
    return make_network(job, dataset, tensors)


def _predict(study: StudyDefinition, job: Job, dataset: Dataset, store: Store | None) -> np.ndarray:
    worker = Worker.here()
    try:
        network = _network(study, job, dataset, store).to(worker.device)
        return predict(network, dataset.images, dataset.validation, worker=worker)
    except (MemoryError, RuntimeError) as error:
        if (reason := out_of_memory(error)) is None:
            raise
        file = (job.recipe.weights or "").rpartition("@")[0]
        raise RunError(f"teacher {job.recipe.model} with weights {file}: {reason}") from error


def to_json(teachers: Sequence[GivenTeacher]) -> list[dict[str, Any]]:
    """The teachers as JSON values."""
    return [vars(teacher) | {"doubts": list(teacher.doubts)} for teacher in teachers]
