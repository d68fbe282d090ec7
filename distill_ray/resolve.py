"""From a study to its jobs: every teacher, trial and confirmation, with the identity its result has
in the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from distill_ray.data import Source, image_shape, open_source
from distill_ray.events import StudyJob
from distill_ray.job import Data, Job, Recipe, canonical_json
from distill_ray.study import Study, check_against_data, members
from distill_ray.study.space import Label

TEACH, SCREEN, SEARCH, CONFIRM, REPORT = "teach", "screen", "search", "confirm", "report"


def data_of(study: Study) -> Data:
    """The data set of the study, found and identified. Raises `RequestError` when it is not there
    or the cut does not fit.
    """
    source = open_source(study.data.source, label=study.data.label)
    check_source(study, source)
    return Data(
        name=source.name,
        digest=source.digest,
        location=source.location,
        label=source.label,
        split=study.data.cut(source.rows("train")),
        size=study.data.size,
        memory_gb=study.data.memory_gb,
    )


def check_source(study: Study, source: Source) -> None:
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
        study, rows, source.num_classes, shape, task=source.task, real_valued=source.real_valued
    )
    if source.rows("test") == 0:
        raise study.error(
            [("data.source", f"{source.location} has no test split, which confirm needs")]
        )


def teacher_runs(study: Study, data: Data) -> list[StudyJob]:
    """The members of the ensemble, in their order."""
    workers = study.resources.workers_per_teacher
    jobs = [
        Job(recipe=group.recipe, data=data, seed=seed, workers=workers)
        for group in study.teachers
        for seed in group.seeds
    ]
    return [
        StudyJob(f"teach/{job.id}", TEACH, "teacher", job, number)
        for number, job in enumerate(jobs)
    ]


def trial_run(
    study: Study, data: Data, teachers: Sequence[str], number: int, drawn: Mapping[str, Label]
) -> StudyJob:
    """The trial that has drawn these settings. Raises `ValueError` when they are incompatible."""
    recipe = study.search.space.recipe(study.student, drawn)
    job = _student(study, recipe, data, learned_from(study, teachers), study.trial_seed)
    return StudyJob(f"trial/{number}", SEARCH, "trial", job, number, study.shown(drawn))


def confirm_runs(
    study: Study, data: Data, teachers: Sequence[str], found: Sequence[Recipe]
) -> list[StudyJob]:
    """The baselines and the best configurations of the search in order, each once per seed."""
    contenders = dict(study.confirm.baselines) | dict(
        zip(study.confirm.best_names, found, strict=False)
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
                learned_from(study, teachers, study.confirm.learns_from.get(role)),
                seed,
            ),
            number,
        )
        for role, recipe in contenders.items()
        for number, seed in enumerate(study.confirm_seeds)
    ]


def learned_from(
    study: Study, teachers: Sequence[str], groups: Sequence[str] | None = None
) -> list[str]:
    """Of all teachers those that students learn from, or those in the groups of these names."""
    return [
        teachers[place]
        for place in members(study.teachers, study.learns_from if groups is None else groups)
    ]


def search_name(study: Study, data: Data, teachers: Sequence[str]) -> str:
    """The name of the search in Optuna's storage: the same as long as its trials can be compared
    with each other.
    """
    content = study.to_dict()
    # So that searches from before keep their names
    unsaid = ["memory_gb"] if study.data.size else ["memory_gb", "size"]
    split = {name: value for name, value in content["data"].items() if name not in unsaid}
    identity = {
        "student": content["student"],
        "space": content["search"]["space"],
        "objectives": content["search"]["objectives"],
        "workers": study.resources.workers_per_trial,
        "seed": study.trial_seed,
        "data": data.digest,
        "split": split,
        "teachers": list(teachers),
    }
    return f"{study.name}-{hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:8]}"


def _student(study: Study, recipe: Recipe, data: Data, teachers: Sequence[str], seed: int) -> Job:
    return Job(
        recipe=recipe,
        data=data,
        seed=seed,
        teachers=tuple(teachers) if recipe.method.needs_teachers else (),
        workers=study.resources.workers_per_trial,
    )
