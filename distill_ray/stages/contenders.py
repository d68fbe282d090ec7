"""The rows of a study's table: teachers, students and ensembles, with what the store has of their
predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distill_ray.events import StudyJob
from distill_ray.metrics import mean_prediction
from distill_ray.records import JobRecord, Predictions
from distill_ray.report.results import ENSEMBLE, TEACHER, Contender
from distill_ray.stages.state import StudyState
from distill_ray.study import Study, members

LABELS = {
    ENSEMBLE: "ensemble",
    TEACHER: "single teacher",
    "scratch": "student from scratch",
    "default-kd": "default KD",
    "student-ensemble": "ensemble of students",
    "best": "best found",
}


def teacher_contenders(
    study: Study, runs: Sequence[StudyJob], records: Sequence[JobRecord]
) -> list[Contender]:
    """The ensemble, which averages probabilities; the single teachers, one contender for each
    architecture with a run per member; and the groups that have names.
    """
    everyone = _contender(TEACHER, runs, records)
    ensemble = replace(
        everyone,
        name=ENSEMBLE,
        label=LABELS[ENSEMBLE],
        parameters=sum(record.parameters for record in records),
        validation=_pooled([everyone.validation]),
        test=_pooled([everyone.test]),
        members=len(runs),
        averaged=True,
    )
    groups = []
    for group in study.teachers:
        if group.name:
            places = members(study.teachers, [group.name])
            groups.append(_teachers(group.name, places, runs, records))
    singles = [everyone]
    models = dict.fromkeys(run.job.recipe.model for run in runs)
    if len(models) > 1:
        # A mean over networks of different architectures would be that of no network
        known = {group.job_ids for group in groups} | {(group.name,) for group in groups}
        singles = []
        for model in models:
            places = [place for place, run in enumerate(runs) if run.job.recipe.model == model]
            of_model = _teachers(model, places, runs, records)
            if of_model.job_ids not in known and (of_model.name,) not in known:
                singles.append(of_model)
    return [ensemble, *singles, *groups]


def _teachers(
    name: str, places: Sequence[int], runs: Sequence[StudyJob], records: Sequence[JobRecord]
) -> Contender:
    """Some of the teachers as one contender."""
    chosen = [runs[place] for place in places], [records[place] for place in places]
    return replace(_contender(f"{TEACHER}-{name}", *chosen), label=f"{TEACHER} {name}")


def _pooled(
    groups: Sequence[Sequence[Predictions]], shares: Sequence[float] = ()
) -> tuple[Predictions, ...]:
    """The mean prediction: of one group's runs, or of several groups run by run; nothing while some
    of them is missing.
    """
    runs: list[Sequence[Predictions]] = []
    if len(groups) == 1:
        runs = [groups[0]]
    elif len(set(map(len, groups))) == 1:
        runs = list(zip(*groups, strict=True))
    return tuple(
        Predictions(
            mean_prediction(
                [each.log_probabilities for each in run], run[0].labels, shares or None
            ),
            run[0].labels,
        )
        for run in runs
        if run
    )


def ensemble_contenders(study: Study, others: Sequence[Contender]) -> list[Contender]:
    """The means of what others predict, as far as those are there."""
    by_name = {contender.name: contender for contender in others}
    found = []
    for name, mean in study.confirm.ensembles.items():
        of = [by_name[each] for each in mean.of if each in by_name]
        if len(of) < len(mean.of):
            continue
        first, together = of[0], len(of) > 1
        members = len(of) if together else len(first.seeds)
        found.append(
            replace(
                first,
                name=name,
                label=LABELS.get(name, name),
                parameters=sum(each.parameters for each in of)
                if together
                else members * first.parameters,
                validation=_pooled([each.validation for each in of], mean.shares),
                test=_pooled([each.test for each in of], mean.shares),
                job_ids=tuple(job for each in of for job in each.job_ids),
                members=members,
                averaged=True,
                t_stddev=None,
                diversity=(),
            )
        )
    return found


def student_contenders(state: StudyState) -> list[Contender]:
    """Those that are confirmed with all their seeds."""
    contenders, deviation = [], state.deviation
    for role in dict.fromkeys(run.role for run in state.confirmations):
        own = [run for run in state.confirmations if run.role == role]
        records = state.finished(own)
        if len(records) == len(own):
            recipe = records[0].job.recipe
            value = deviation.get(recipe.augmentation) if recipe.method.needs_teachers else None
            inside = tuple(found for record in records if (found := record.diversity))
            contenders.append(
                replace(_contender(role, own, records), t_stddev=value, diversity=inside)
            )
    return contenders


def _contender(name: str, runs: Sequence[StudyJob], records: Sequence[JobRecord]) -> Contender:
    validation = tuple(
        found for record in records if (found := record.predictions("validation")) is not None
    )
    test = tuple(found for record in records if (found := record.predictions("test")) is not None)
    return Contender(
        name=name,
        label=LABELS.get(name, name),
        params=runs[0].job.recipe.params(),
        parameters=records[0].parameters,
        seeds=tuple(run.job.seed for run in runs),
        validation=validation,
        test=test if len(test) == len(records) else (),
        job_ids=tuple(run.job.id for run in runs),
    )
