"""From a study to its jobs: every teacher, trial and confirmation, with the identity its result has
in the store.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence

from distill_ray.data import Source, image_shape, open_source
from distill_ray.data.foreign import TEST, ForeignSet, find_foreign, frame_of
from distill_ray.data.unlabelled import open_unlabelled
from distill_ray.errors import RequestError
from distill_ray.events import StudyJob
from distill_ray.job import Data, Job, Recipe, Unlabelled, canonical_json
from distill_ray.study import StudyDefinition, check_against_data, members
from distill_ray.study.space import Label

TEACH, SCREEN, ANSWER, SEARCH, CONFIRM = "teach", "screen", "answer", "search", "confirm"
REPORT = "report"


def data_of(study: StudyDefinition) -> Data:
    """The data set of the study, found and identified. Raises `RequestError` when it is not there
    or the cut does not fit.
    """
    source = source_of(study)
    check_source(study, source)
    return Data(
        name=source.name,
        digest=source.digest,
        location=source.location,
        label=source.label,
        split=study.data.cut(source.rows("train"), source.validation_rows),
        size=study.data.size,
        resize=study.data.resize,
        memory_gb=study.data.memory_gb,
        unlabelled=_unlabelled(study, source),
        class_weights=study.data.class_weights,
    )


def foreign_sets(study: StudyDefinition, source: Source) -> tuple[ForeignSet, ...]:
    """The sets of foreign images that the study names, found and identified. Raises `RequestError`
    when one is not there or does not fit the images of `source`, the study's data set.
    """
    section = study.confirm.foreign
    if section is None:
        return ()
    frame = frame_of(source, study.data.size, study.data.resize)
    sets: list[ForeignSet] = []
    problems = []
    for kind in ("near", "far"):
        for index, location in enumerate(getattr(section, kind)):
            try:
                images = find_foreign(location, frame, kind=kind, resize=section.resize)
            except RequestError as error:
                problems.append((f"confirm.foreign.{kind}.{index}", f"{location}: {error}"))
                continue
            if images.name in {TEST, *(other.name for other in sets)}:
                message = f"{location}: another set is called {images.name} too; rename its folder"
                problems.append((f"confirm.foreign.{kind}.{index}", message))
            sets.append(images)
    if problems:
        raise study.error(problems)
    return tuple(sets)


def source_of(study: StudyDefinition) -> Source:
    """The data set of the study, found. Raises `RequestError` when it is not there."""
    data = study.data
    return open_source(data.source, label=data.label, cuts_test=data.cuts_test)


def _unlabelled(study: StudyDefinition, source: Source) -> Unlabelled | None:
    """The images without labels, found and counted."""
    if study.data.unlabelled is None:
        return None
    more = open_unlabelled(study.data.unlabelled)
    return Unlabelled(
        digest=more.digest,
        location=more.location,
        images=unlabelled_images(study, source),
        seed=study.data.seed,
    )


def image_counts(study: StudyDefinition, source: Source) -> dict[str, int]:
    """How many labelled images the study has for what, and how many it leaves out."""
    rows = source.rows("train")
    split = study.data.cut(rows, source.validation_rows)
    left = rows - split.validation - (split.test or 0)
    train = split.training_images(rows, functools.partial(source.labels, "train"))
    test = source.rows("test") if split.test is None else split.test
    counts = {"training": train, "validation": split.validation, "test": test}
    return counts | {"unused": left - train}


def unlabelled_images(study: StudyDefinition, source: Source) -> int:
    """How many images without labels are trained on."""
    data = study.data
    if data.unlabelled is None:
        return 0
    images = open_unlabelled(data.unlabelled).rows("train")
    if data.unlabelled_ratio is None:
        return images
    asked = round(data.unlabelled_ratio * image_counts(study, source)["training"])
    return max(1, min(images, asked))


def data_for(recipe: Recipe, data: Data) -> Data:
    """What a job with that recipe learns from: images without labels only where its method takes
    them.
    """
    return data if recipe.method.takes_unlabelled else data.labelled


def check_source(study: StudyDefinition, source: Source) -> None:
    """Raise `RequestError` when the study cannot be run on that data set."""
    rows = source.rows("train")
    if study.data.size is not None and source.real_valued:
        problem = f"{source.name} has no images but real numbers; leave it out"
        raise study.error([("data.size", f"found {study.data.size}, and {problem}")])
    if source.task == "classification" and source.num_classes < 2:
        problem = f"{source.location} has only one class, so there is nothing to learn"
        raise study.error([("data.source", problem)])
    shape = image_shape(source, study.data.size) if rows else None
    check_against_data(
        study,
        rows,
        source.num_classes,
        shape,
        own_validation=source.validation_rows,
        unlabelled=unlabelled_images(study, source),
        task=source.task,
        real_valued=source.real_valued,
        labels=functools.partial(source.labels, "train"),
    )
    foreign_sets(study, source)
    own_test = source.rows("test")
    if own_test == 0 and not study.data.cuts_test:
        problem = (
            f"{source.location} has no test split, which confirm needs; data.test: "
            f"{max(1, rows // 10)} holds so many of the {rows} training images out for it"
        )
        raise study.error([("data.source", problem)])
    if own_test and study.data.cuts_test:
        problem = f"found {study.data.test}, and {source.location} has a test split; leave it out"
        raise study.error([("data.test", problem)])


def teacher_runs(study: StudyDefinition, data: Data) -> list[StudyJob]:
    """The members of the ensemble, in their order."""
    workers = study.resources.workers_per_teacher
    jobs = [
        Job(recipe=group.recipe, data=data_for(group.recipe, data), seed=seed, workers=workers)
        for group in study.teachers
        for seed in group.seeds
    ]
    return [
        StudyJob(f"teach/{job.id}", TEACH, "teacher", job, number)
        for number, job in enumerate(jobs)
    ]


def trial_run(
    study: StudyDefinition,
    data: Data,
    teachers: Sequence[str],
    number: int,
    drawn: Mapping[str, Label],
) -> StudyJob:
    """The trial that has drawn these settings. Raises `ValueError` when they are incompatible."""
    recipe = study.search.space.recipe(study.student, drawn)
    job = _student(study, recipe, data, teachers, study.trial_seed)
    return StudyJob(f"trial/{number}", SEARCH, "trial", job, number, study.shown(drawn))


def confirm_runs(
    study: StudyDefinition, data: Data, teachers: Sequence[str], best: Sequence[Recipe]
) -> list[StudyJob]:
    """The baselines and the best configurations of the search in order, each once per seed."""
    contenders = dict(study.confirm.baselines) | dict(
        zip(study.confirm.best_names, best, strict=False)
    )
    return [
        StudyJob(
            f"confirm/{role}/{seed}",
            CONFIRM,
            role,
            _student(
                study,
                recipe,
                data,
                teachers,
                seed,
                groups=study.confirm.learns_from.get(role),
            ),
            number,
        )
        for role, recipe in contenders.items()
        for number, seed in enumerate(study.confirm_seeds)
    ]


def learned_from(
    study: StudyDefinition, teachers: Sequence[str], groups: Sequence[str] | None = None
) -> list[str]:
    """Of all teachers those that students learn from, or those in the groups of these names."""
    return [
        teachers[place]
        for place in members(study.teachers, study.learns_from if groups is None else groups)
    ]


def calibrated(study: StudyDefinition, teachers: Sequence[str]) -> list[str]:
    """Of all teachers those in groups that are calibrated."""
    groups = [group for group in study.teachers for _ in group.seeds]
    return [teacher for teacher, group in zip(teachers, groups, strict=True) if group.calibrate]


def comparable(study: StudyDefinition, data: Data, teachers: Sequence[str]) -> str:
    """The same for two searches whose trials can be compared where their spaces overlap: of one
    student, with the same data, teachers and objectives.
    """
    content = study.to_dict()
    identity = {
        "student": content["student"],
        "objectives": content["search"]["objectives"],
        "workers": study.resources.workers_per_trial,
        "seed": study.trial_seed,
        "data": data.identity,
        "teachers": list(teachers),
    }
    identity |= _calibrated_if_any(study, teachers) | _whole_if_so(study)
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def search_name(study: StudyDefinition, data: Data, teachers: Sequence[str]) -> str:
    """The name of the search in Optuna's storage: the same as long as its trials can be compared
    with each other.
    """
    content = study.to_dict()
    # So that searches from before keep their names
    unsaid = ["memory_gb"]
    later = (
        "size",
        "resize",
        "test",
        "imbalance",
        "unlabelled",
        "unlabelled_ratio",
        "class_weights",
    )
    unsaid += [name for name in later if getattr(study.data, name) is None]
    split = {name: value for name, value in content["data"].items() if name not in unsaid}
    student = dict(content["student"])
    if student["versions"] is None:
        del student["versions"], student["augmentation_seed"]
    identity = {
        "student": student,
        "space": content["search"]["space"],
        "objectives": content["search"]["objectives"],
        "workers": study.resources.workers_per_trial,
        "seed": study.trial_seed,
        "data": data.digest if data.unlabelled is None else data.identity,
        "split": split,
        "teachers": list(teachers),
    }
    # What is known of a trial's costs, where the search asks for them, is in its history
    costs = {
        name: content["search"][name] for name in ("limits", "latency") if name in content["search"]
    }
    identity |= {"costs": costs} if costs else {}
    identity |= _calibrated_if_any(study, teachers) | _whole_if_so(study)
    return f"{study.name}-{hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:8]}"


def _calibrated_if_any(study: StudyDefinition, teachers: Sequence[str]) -> dict[str, list[str]]:
    ids = calibrated(study, teachers)
    return {"calibrated": ids} if ids else {}


def _whole_if_so(study: StudyDefinition) -> dict[str, bool]:
    """Whether students crop from what lies outside the squares that images are made to."""
    whole = any(augmentation.crops_whole for augmentation in study.student_augmentations)
    return {"whole": True} if whole and study.data.size is not None else {}


def _student(
    study: StudyDefinition,
    recipe: Recipe,
    data: Data,
    teachers: Sequence[str],
    seed: int,
    *,
    groups: Sequence[str] | None = None,
) -> Job:
    """The job of a student that learns from those of all `teachers` that it should."""
    learned = learned_from(study, teachers, groups) if recipe.method.needs_teachers else []
    scaled = calibrated(study, teachers)
    return Job(
        recipe=recipe,
        data=data_for(recipe, data),
        seed=seed,
        teachers=tuple(learned),
        calibrated=tuple(teacher for teacher in learned if teacher in scaled),
        workers=study.resources.workers_per_trial,
    )
