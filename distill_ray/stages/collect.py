"""The results of a study, read back from the store and from Optuna: what the report, `status` and
`report --json` show.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import platform
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from distill_ray.data import open_source
from distill_ray.events import JobState
from distill_ray.extensions import extensions_of, versions_of
from distill_ray.job import Computation, Data, Split
from distill_ray.metrics import fit_temperature
from distill_ray.metrics.augmentation import not_behind
from distill_ray.models.own_modules import loaded_module_files
from distill_ray.report.conformal import thresholds
from distill_ray.report.results import (
    CalibratedTeacher,
    Champion,
    Contender,
    ScreenRow,
    StudyResults,
    TrialRow,
)
from distill_ray.search.costs import CostMeter
from distill_ray.search.history import COSTS, job_state, known_from
from distill_ray.stages.contenders import (
    calibrated_teachers,
    ensemble_contenders,
    student_contenders,
    teacher_contenders,
)
from distill_ray.stages.locations import Locations
from distill_ray.stages.screen import ENTROPY, kept_choices
from distill_ray.stages.stage_log import first_run, stage_rows
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import Choice, Range, StudyDefinition
from distill_ray.task import task_of

_PACKAGES = ("distill-ray", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pyarrow")


def load_results(study: StudyDefinition, locations: Locations) -> tuple[StudyResults, Data, Store]:
    """What there is of a study by now, finished or not, with its data and its store, which are only
    read.

    Raises `RequestError` when one of them is not there.
    """
    state = StudyState.at(study, locations)
    return collect(state, locations), state.data, state.store


def collect(state: StudyState, locations: Locations) -> StudyResults:
    """Everything there is to say about a study now; a study that is not finished has less of it."""
    study, data, store = state.asked, state.data, state.store
    source = open_source(data.location, label=data.label, cuts_test=data.cuts_test)
    contenders: list[Contender] = []
    screening: tuple[ScreenRow, ...] = ()
    calibrated: tuple[CalibratedTeacher, ...] = ()
    if state.is_taught:
        records = state.finished(state.teachers)
        contenders += teacher_contenders(study, state.teachers, records, state.foreign)
        calibrated = calibrated_teachers(study, records)
        screening = _screening(state)
    champion, finished = None, False
    if state.search_is_over:
        confirmed = student_contenders(state)
        contenders += [contender for contender in confirmed if not contender.found]
        contenders += ensemble_contenders(study, [*contenders, *confirmed])
        contenders += _best_first(study, [contender for contender in confirmed if contender.found])
        roles = {run.role for run in state.confirmations}
        evaluated = all(
            contender.test and _has_judged(state, contender) for contender in contenders
        )
        finished = len(confirmed) == len(roles) and evaluated
        champion = _champion(study, [contender for contender in contenders if contender.found])
    return StudyResults(
        name=study.name,
        digest=study.digest,
        study_file=study.source_text,
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(first_run(study, store))),
        status="finished" if finished else "running",
        objectives={
            name: "min" if mode == "min" else "max"
            for name, mode in study.search.objectives.items()
        },
        stages=stage_rows(study, store),
        teacher_images=state.teacher_images(),
        trials=_trials(state),
        contenders=tuple(_with_costs(state, contenders)),
        calibrated=calibrated,
        warm_start=known_from(state.history) if state.history else {},
        champion=champion,
        screening=screening,
        published=study.published,
        data=f"{data.name}, digest {data.digest[:12]}, {_described(data.split)}",
        class_names=tuple(source.class_names),
        coverage=study.confirm.coverage,
        foreign={images.name: images.kind for images in state.foreign},
        for_each=study.search.for_each,
        task=source.task,
        log_scale=frozenset(
            dimension.name
            for dimension in study.search.space.dimensions
            if isinstance(dimension, Range) and dimension.log
        ),
        ranges={
            dimension.name: dimension.limits
            for dimension in study.search.space.dimensions
            if isinstance(dimension, Range)
        },
        limits=study.search.limits,
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES}
        | _extension_versions(state),
        git_commit=git_commit(),
        seeds=study.confirm_seeds,
        computations=_computations(state),
        machine=f"{platform.machine()}, {platform.system()} {platform.release()}",
        command=shlex.join(
            [
                "distill-ray",
                "run",
                study.path,
                *itertools.chain(*(("--set", override) for override in study.overrides)),
                *(f"--extension={file.name}.py" for file in loaded_module_files()),
            ]
        ),
        tracking_uri=locations.shown_tracking(),
    )


def _has_judged(state: StudyState, contender: Contender) -> bool:
    return all(images.name in contender.judged for images in state.foreign)


def _computations(state: StudyState) -> Mapping[Computation, int]:
    """How many of the study's finished jobs each kind of device has computed."""
    runs = [*state.teachers, *(run for run, _ in state.trials), *state.confirmations]
    records = {record.record.key: record for record in state.finished(runs)}
    return Counter(
        record.computation for record in records.values() if record.computation is not None
    )


def _screening(state: StudyState) -> tuple[ScreenRow, ...]:
    """The candidates, the lowest T. stddev first, and the choices of the search that were not
    measured.
    """
    study = state.asked
    if study.screen is None:
        return ()
    augmentation = next(
        (
            dimension
            for dimension in study.search.space.dimensions
            if dimension.name == "augmentation"
        ),
        None,
    )
    choices = list(augmentation.values) if isinstance(augmentation, Choice) else []
    kept = kept_choices(study, state.deviation)
    level_with_best = not_behind(state.deviation)
    rows = []
    for screening in state.screenings:
        screened = state.screened(screening)
        chosen = (
            (kept is None or screening.augmentation in kept)
            if screening.augmentation in choices
            else None
        )
        rows.append(
            ScreenRow(screening.label, None, None, chosen, "not measured yet")
            if screened is None
            else ScreenRow(
                screening.label,
                screened.deviation.value,
                screened.metrics[ENTROPY],
                chosen,
                interval=screened.deviation.interval,
                over_images=screened.deviation.over_images,
                over_teachers=screened.deviation.over_teachers,
                behind=screening.augmentation not in level_with_best,
            )
        )
    for augmentation in choices:
        if augmentation not in study.screen.candidates:
            why = "picks images by the student" if augmentation.asks_student else "no candidate"
            rows.append(ScreenRow(study.augmentation_texts[augmentation], None, None, True, why))
    return tuple(sorted(rows, key=lambda row: math.inf if row.t_stddev is None else row.t_stddev))


def _best_first(study: StudyDefinition, candidates: Sequence[Contender]) -> list[Contender]:
    """The configurations that the search found, by the mean of the first objective over their
    confirmations: the best of many trials is also a lucky one, and trained again it may be behind
    the next.
    """
    from distill_ray.metrics import validation_score

    (objective, mode), *_ = study.search.objectives.items()
    metric, sign = objective.removeprefix("val/"), 1 if mode == "min" else -1

    def mean(contender: Contender) -> float:
        scores = [validation_score(r.log_probabilities, r.labels) for r in contender.validation]
        return sign * sum(score[metric] for score in scores) / len(scores)

    return sorted(candidates, key=mean) if len(candidates) > 1 else list(candidates)


def _champion(study: StudyDefinition, students: Sequence[Contender]) -> Champion | None:
    """Of the best configuration's trainings the one with the best first objective on the validation
    split.
    """
    if not students:
        return None
    from distill_ray.metrics import validation_score

    best = students[0]
    (objective, mode), *_ = study.search.objectives.items()
    metric = objective.removeprefix("val/")
    values = [
        validation_score(predictions.log_probabilities, predictions.labels)[metric]
        for predictions in best.validation
    ]
    chosen = values.index(min(values) if mode == "min" else max(values))
    validation = best.validation[chosen]
    temperature = fit_temperature(validation.log_probabilities, validation.labels)
    classifies = task_of(validation.labels) == "classification"
    sets: dict[str, float] = {}
    if classifies:
        found_thresholds = thresholds(validation, temperature, study.confirm.coverage)
        sets = {str(score): threshold for score, threshold in found_thresholds.items()}
    return Champion(best.job_ids[chosen], best.params, temperature, sets)


def _with_costs(state: StudyState, contenders: Sequence[Contender]) -> Iterator[Contender]:
    """The contenders with what they cost: their parameters, and the other costs where the search
    asks for such.
    """
    meter = CostMeter(state.study, state.data, state.store)
    recipes = {run.job.id: run.job.recipe for run in (*state.teachers, *state.confirmations)}
    for contender in contenders:
        known = [meter.known(recipes[job]) for job in contender.job_ids if job in recipes]
        costs: dict[str, float] = {}
        if contender.parameters is not None:
            costs["cost/parameters"] = contender.parameters
        for name in set.intersection(*map(set, known)) if known else ():
            costs[name] = contender.members * sum(cost[name] for cost in known) / len(known)
        yield replace(contender, costs=costs)


def _trials(state: StudyState) -> tuple[TrialRow, ...]:
    study, deviation, rows = state.study, state.deviation, []
    (objective, *_) = study.search.objectives
    for run, trial in state.trials:
        state_of_job = job_state(trial)
        finished = state_of_job == JobState.FINISHED
        record = state.record(run) if finished else None
        augmentation = run.job.recipe.augmentation
        values = [
            {"epoch": float(epoch), objective: value}
            for epoch, value in sorted(trial.intermediate_values.items())
        ]
        rows.append(
            TrialRow(
                number=trial.number,
                state=state_of_job,
                params=dict(run.searched),
                values=dict(zip(study.search.objectives, trial.values, strict=True))
                if finished
                else {},
                epochs=tuple(record.epochs() if record else values),
                job_id=run.job.id,
                seconds=record.seconds if record else None,
                reason=trial.user_attrs.get("reason", ""),
                t_stddev=deviation[augmentation].value if augmentation in deviation else None,
                costs=trial.user_attrs.get(COSTS)
                or ({"cost/parameters": record.parameters} if record else {}),
            )
        )
    return tuple(rows)


def _extension_versions(state: StudyState) -> dict[str, str]:
    """The packages of others that the study's jobs use, with their versions."""
    recipes = [job.job.recipe for job in (*state.teachers, *state.confirmations)]
    return versions_of(extension for recipe in recipes for extension in extensions_of(recipe))


def git_commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """The commit that the package is checked out from, with `-dirty` where its files are others by
    now.

    None when it is installed, though it may lie in the working tree of another repository.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(package), *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    if (
        git("ls-files", "--error-unmatch", "__init__.py") is None
        or (commit := git("rev-parse", "HEAD")) is None
    ):
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit


def _described(split: Split) -> str:
    """How many images are held out, and how they were chosen."""
    kind = "the data set's own" if split.rule == "own" else f"{split.rule} split"
    test = "" if split.test is None else f", {split.test} test images held out of training"
    return f"{split.validation} validation images, {kind}{test}"
