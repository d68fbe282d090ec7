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
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill_ray.data import open_source
from distill_ray.events import JobState
from distill_ray.extensions import extensions_of, versions_of
from distill_ray.job import Computation, Data
from distill_ray.metrics import fit_temperature
from distill_ray.report.results import (
    Champion,
    Contender,
    ScreenRow,
    StudyResults,
    TrialRow,
)
from distill_ray.search.history import JOB_STATES, known_from
from distill_ray.stages.contenders import (
    ensemble_contenders,
    student_contenders,
    teacher_contenders,
)
from distill_ray.stages.locations import Locations
from distill_ray.stages.screen import ENTROPY, T_STDDEV, kept_choices
from distill_ray.stages.stage_log import first_run, stage_rows
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import Choice, Range, Study

_PACKAGES = ("distill-ray", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pyarrow")


def load_results(study: Study, locations: Locations) -> tuple[StudyResults, Data, Store]:
    """What there is of a study by now, finished or not, with its data and its store, which are only
    read.

    Raises `RequestError` when one of them is not there.
    """
    state = StudyState.at(study, locations)
    return collect(state, locations), state.data, state.store


def collect(state: StudyState, locations: Locations) -> StudyResults:
    """Everything there is to say about a study now; a study that is not finished has less of it."""
    study, data, store = state.asked, state.data, state.store
    source = open_source(data.location, label=data.label)
    contenders: list[Contender] = []
    screening: tuple[ScreenRow, ...] = ()
    if state.is_taught:
        contenders += teacher_contenders(study, state.teachers, state.finished(state.teachers))
        screening = _screening(state)
    champion, finished = None, False
    if state.search_is_over:
        confirmed = student_contenders(state)
        contenders += [each for each in confirmed if not each.found]
        contenders += ensemble_contenders(study, [*contenders, *confirmed])
        contenders += [each for each in confirmed if each.found]
        roles = {run.role for run in state.confirmations}
        finished = len(confirmed) == len(roles) and all(each.test for each in contenders)
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
        trials=_trials(state),
        contenders=tuple(contenders),
        warm_start=known_from(state.history) if state.history else {},
        champion=champion,
        screening=screening,
        published=study.published,
        data=f"{data.name}, digest {data.digest[:12]}, "
        f"{data.split.validation} validation images, {data.split.rule} split",
        class_names=tuple(source.class_names),
        task=source.task,
        log_scale=frozenset(
            dimension.name
            for dimension in study.search.space.dimensions
            if isinstance(dimension, Range) and dimension.log
        ),
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
                *itertools.chain(*(("--set", each) for each in study.overrides)),
            ]
        ),
        tracking_uri=locations.shown_tracking(),
    )


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
        (each for each in study.search.space.dimensions if each.name == "augmentation"), None
    )
    choices = list(augmentation.values) if isinstance(augmentation, Choice) else []
    kept = kept_choices(study, state.deviation)
    rows = []
    for screening in state.screenings:
        metrics = state.screened(screening) or {}
        chosen = (
            (kept is None or screening.augmentation in kept)
            if screening.augmentation in choices
            else None
        )
        rows.append(
            ScreenRow(
                screening.label,
                metrics.get(T_STDDEV),
                metrics.get(ENTROPY),
                chosen,
                "" if metrics else "not measured yet",
            )
        )
    for augmentation in choices:
        if augmentation not in study.screen.candidates:
            why = "picks images by the student" if augmentation.asks_student else "no candidate"
            rows.append(ScreenRow(study.augmentation_texts[augmentation], None, None, True, why))
    return tuple(sorted(rows, key=lambda row: math.inf if row.t_stddev is None else row.t_stddev))


def _champion(study: Study, found: Sequence[Contender]) -> Champion | None:
    """Of the best configuration's trainings the one with the best first objective on the validation
    split.
    """
    if not found:
        return None
    from distill_ray.metrics import validation_score

    best = found[0]
    (objective, mode), *_ = study.search.objectives.items()
    metric = objective.removeprefix("val/")
    values = [
        validation_score(each.log_probabilities, each.labels)[metric] for each in best.validation
    ]
    chosen = values.index(min(values) if mode == "min" else max(values))
    validation = best.validation[chosen]
    temperature = fit_temperature(validation.log_probabilities, validation.labels)
    return Champion(best.job_ids[chosen], best.params, temperature)


def _trials(state: StudyState) -> tuple[TrialRow, ...]:
    study, rows = state.study, []
    (objective, *_) = study.search.objectives
    for run, trial in state.trials:
        job_state = JOB_STATES[trial.state]
        finished = job_state == JobState.FINISHED
        record = state.record(run) if finished else None
        values = [
            {"epoch": float(epoch), objective: value}
            for epoch, value in sorted(trial.intermediate_values.items())
        ]
        rows.append(
            TrialRow(
                number=trial.number,
                state=job_state,
                params=dict(run.searched),
                values=dict(zip(study.search.objectives, trial.values, strict=True))
                if finished
                else {},
                epochs=tuple(record.epochs() if record else values),
                job_id=run.job.id,
                seconds=record.seconds if record else None,
                reason=trial.user_attrs.get("reason", ""),
                t_stddev=state.deviation.get(run.job.recipe.augmentation),
            )
        )
    return tuple(rows)


def _extension_versions(state: StudyState) -> dict[str, str]:
    """The packages of others that the study's jobs use, with their versions."""
    recipes = [job.job.recipe for job in (*state.teachers, *state.confirmations)]
    return versions_of(each for recipe in recipes for each in extensions_of(recipe))


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
