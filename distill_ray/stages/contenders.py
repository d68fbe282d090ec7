"""The rows of a study's table: teachers, students and ensembles, with what the store has of their
predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from distill_ray.data.foreign import TEST, ForeignSet
from distill_ray.events import JobState, StudyJob
from distill_ray.job import Recipe
from distill_ray.metrics import determines_temperature, mean_prediction
from distill_ray.metrics.judgement import Judgement, pooled
from distill_ray.records import JobRecord, Predictions
from distill_ray.report.results import ENSEMBLE, TEACHER, CalibratedTeacher, Contender
from distill_ray.search.history import job_state
from distill_ray.stages.state import StudyState
from distill_ray.study import StudyDefinition, members

T = TypeVar("T")

LABELS = {
    ENSEMBLE: "ensemble",
    TEACHER: "single teacher",
    "scratch": "student from scratch",
    "fine-tuned": "fine-tuned student",
    "default-kd": "default KD",
    "student-ensemble": "ensemble of students",
    "best": "best found",
}


def teacher_contenders(
    study: StudyDefinition,
    runs: Sequence[StudyJob],
    records: Sequence[JobRecord],
    foreign: Sequence[ForeignSet] = (),
) -> list[Contender]:
    """The ensemble, which averages probabilities; the single teachers, one contender for each
    architecture with a run per member; and the groups that have names.
    """
    sources = [group.source for group in study.teachers for _ in group.seeds]
    everyone = replace(_contender(TEACHER, runs, records, foreign), source=_source(sources))
    ensemble = replace(
        everyone,
        name=ENSEMBLE,
        label=LABELS[ENSEMBLE],
        parameters=_sum([_parameters(record) for record in records]),
        validation=_pooled([everyone.validation]),
        test=_pooled([everyone.test]),
        judged=_pooled_judgements([everyone.judged]),
        members=len(runs),
        averaged=True,
    )
    groups = []
    for group in study.teachers:
        if group.name:
            places = members(study.teachers, [group.name])
            of_group = _teachers(group.name, places, runs, records, foreign)
            groups.append(replace(of_group, source=group.source))
    singles = [everyone]
    models = dict.fromkeys(run.job.recipe.model for run in runs)
    if len(models) > 1:
        # A mean over networks of different architectures would be that of no network
        listed = {group.job_ids for group in groups} | {(group.name,) for group in groups}
        singles = []
        for model in models:
            places = [place for place, run in enumerate(runs) if run.job.recipe.model == model]
            of_model = _teachers(model, places, runs, records, foreign)
            of_model = replace(of_model, source=_source([sources[place] for place in places]))
            if of_model.job_ids not in listed and (of_model.name,) not in listed:
                singles.append(of_model)
    return [ensemble, *singles, *groups]


def _teachers(
    name: str,
    places: Sequence[int],
    runs: Sequence[StudyJob],
    records: Sequence[JobRecord],
    foreign: Sequence[ForeignSet],
) -> Contender:
    """Some of the teachers as one contender."""
    chosen = [runs[place] for place in places], [records[place] for place in places]
    return replace(_contender(f"{TEACHER}-{name}", *chosen, foreign), label=f"{TEACHER} {name}")


def calibrated_teachers(
    study: StudyDefinition, records: Sequence[JobRecord]
) -> tuple[CalibratedTeacher, ...]:
    """The teachers of groups with `calibrate: true`, in their order; `records` are those of all."""
    groups = [group for group in study.teachers for _ in group.seeds]
    teachers = []
    for group, record in zip(groups, records, strict=True):
        predictions = record.predictions("validation") if group.calibrate else None
        if predictions is not None:
            determined = determines_temperature(predictions.log_probabilities, predictions.labels)
            job, name = record.job, group.name or group.recipe.model
            teachers.append(
                CalibratedTeacher(job.id, name, job.seed, record.temperature, not determined)
            )
    return tuple(teachers)


def _runs_of(groups: Sequence[Sequence[T]]) -> list[Sequence[T]]:
    """What is averaged: one group's runs, or several groups run by run; nothing while some of them
    is missing.
    """
    if len(groups) == 1:
        return [groups[0]]
    return list(zip(*groups, strict=True)) if len(set(map(len, groups))) == 1 else []


def _pooled_judgements(
    groups: Sequence[Mapping[str, Sequence[Judgement]]], shares: Sequence[float] = ()
) -> dict[str, tuple[Judgement, ...]]:
    """The judgements of the mean of networks, by set."""
    return {
        name: tuple(
            pooled(run, shares or None) for run in _runs_of([group[name] for group in groups])
        )
        for name in groups[0]
        if all(name in group for group in groups)
    }


def _source(sources: Sequence[str]) -> str:
    """Where teachers come from, if all of them are from earlier studies."""
    return " and ".join(dict.fromkeys(sources)) if all(sources) else ""


def _pooled(
    groups: Sequence[Sequence[Predictions]], shares: Sequence[float] = ()
) -> tuple[Predictions, ...]:
    """The mean predictions; see `_runs_of`."""
    return tuple(
        Predictions(
            mean_prediction(
                [predictions.log_probabilities for predictions in run],
                run[0].labels,
                shares or None,
            ),
            run[0].labels,
        )
        for run in _runs_of(groups)
        if run
    )


def ensemble_contenders(study: StudyDefinition, others: Sequence[Contender]) -> list[Contender]:
    """The means of what others predict, as far as those are there."""
    by_name = {contender.name: contender for contender in others}
    means = []
    for name, mean in study.confirm.ensembles.items():
        of = [by_name[member] for member in mean.of if member in by_name]
        if len(of) < len(mean.of):
            continue
        first, together = of[0], len(of) > 1
        members = len(of) if together else len(first.seeds)
        means.append(
            replace(
                first,
                name=name,
                label=LABELS.get(name, name),
                parameters=_sum(
                    [contender.parameters for contender in of]
                    if together
                    else [first.parameters] * members
                ),
                validation=_pooled([contender.validation for contender in of], mean.shares),
                test=_pooled([contender.test for contender in of], mean.shares),
                judged=_pooled_judgements([contender.judged for contender in of], mean.shares),
                job_ids=tuple(job for contender in of for job in contender.job_ids),
                members=members,
                averaged=True,
                t_stddev=None,
                diversity=(),
            )
        )
    return means


def student_contenders(state: StudyState) -> list[Contender]:
    """Those that are confirmed with all their seeds."""
    contenders, deviation = [], state.deviation
    for role in dict.fromkeys(run.role for run in state.confirmations):
        own = [run for run in state.confirmations if run.role == role]
        records = state.finished(own)
        if len(records) == len(own):
            recipe = records[0].job.recipe
            screened = deviation.get(recipe.augmentation) if recipe.method.needs_teachers else None
            value = None if screened is None else screened.value
            inside = tuple(record.diversity for record in records if record.diversity)
            contender = _contender(role, own, records, state.foreign)
            contender = replace(contender, t_stddev=value, diversity=inside)
            if contender.found:
                contender = replace(contender, trial=_trial_of(state, own[0].job.recipe))
            name = state.asked.search.for_each
            if contender.found and name is not None:
                label = f"searched {contender.params[name]}"
                contender = replace(contender, label=label)
            contenders.append(contender)
    return contenders


def _trial_of(state: StudyState, recipe: Recipe) -> int | None:
    """The number of the trial that had this configuration."""
    for run, trial in state.trials:
        if job_state(trial) == JobState.FINISHED and run.job.recipe == recipe:
            return trial.number
    return None


def _contender(
    name: str,
    runs: Sequence[StudyJob],
    records: Sequence[JobRecord],
    foreign: Sequence[ForeignSet],
) -> Contender:
    validation = tuple(
        predictions
        for record in records
        if (predictions := record.predictions("validation")) is not None
    )
    test = tuple(
        predictions for record in records if (predictions := record.predictions("test")) is not None
    )
    return Contender(
        name=name,
        label=LABELS.get(name, name),
        params=runs[0].job.recipe.params(),
        parameters=_parameters(records[0]),
        seeds=tuple(run.job.seed for run in runs),
        validation=validation,
        test=test if len(test) == len(records) else (),
        judged=_judged(records, foreign),
        job_ids=tuple(run.job.id for run in runs),
    )


def _parameters(record: JobRecord) -> int | None:
    """The weights of a network, if it is here."""
    return None if record.job.recipe.answers_alone else record.parameters


def _sum(counts: Sequence[int | None]) -> int | None:
    """Their sum, if all are known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _judged(
    records: Sequence[JobRecord], foreign: Sequence[ForeignSet]
) -> dict[str, tuple[Judgement, ...]]:
    """What all runs say of the test split and of each foreign set that all of them have judged."""
    judged = {}
    for name, key in {
        TEST: TEST,
        **{images.name: images.key for images in foreign},
    }.items():
        judgements = [record.judgement(key) for record in records] if foreign else []
        present = tuple(judgement for judgement in judgements if judgement is not None)
        if present and len(present) == len(records):
            judged[name] = present
    return judged
