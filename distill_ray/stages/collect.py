"""The results of a study, read back from the store and from Optuna: what the report, `status` and `report --json` show."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import TrialState

from distill_ray.augment import View
from distill_ray.data import open_source
from distill_ray.job import Data
from distill_ray.metrics import fit_temperature
from distill_ray.records import find_job
from distill_ray.report.results import (
    Champion,
    Contender,
    Published,
    PublishedRow,
    ScreenRow,
    StudyResults,
    TrialRow,
)
from distill_ray.resolve import confirm_runs, learned_from, teacher_runs, trial_run
from distill_ray.search.history import begun, best_recipes, is_over, known_from, open_history
from distill_ray.stages.contenders import ensemble_contenders, student_contenders, teacher_contenders
from distill_ray.stages.screen import ENTROPY, T_STDDEV, Screening, deviations, found_metrics, kept_choices, narrowed, screenings
from distill_ray.stages.stage_log import first_run, stage_rows
from distill_ray.store import Store
from distill_ray.study import Choice, Range, Study

_STATES: dict[TrialState, Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING"]] = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAIL: "FAIL",
    TrialState.RUNNING: "RUNNING",
}
_PACKAGES = ("distill-ray", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pyarrow")


def collect(study: Study, data: Data, store: Store, *, search_storage: str | None, tracking_uri: str) -> StudyResults:
    """Everything there is to say about a study now; a study that is not finished has less of it."""
    source = open_source(data.location, label=data.label)
    teachers = teacher_runs(study, data)
    teacher_ids = [run.job.id for run in teachers]
    found_teachers = [record for run in teachers if (record := find_job(store, run.job.id)) is not None]
    trials: tuple[TrialRow, ...] = ()
    contenders: list[Contender] = []
    known: dict[str, int] = {}
    champion, finished = None, False
    screening: tuple[ScreenRow, ...] = ()
    wanted = screenings(study, data, learned_from(study, teacher_ids))
    deviation = deviations(wanted, store)
    if len(found_teachers) == len(teachers):
        contenders += teacher_contenders(study, teachers, found_teachers)
        screening = _screening(study, wanted, store, deviation)
    if len(found_teachers) == len(teachers) and len(deviation) == len(wanted):
        searched = narrowed(study, deviation)
        history = open_history(searched, data, teacher_ids, store, search_storage)
        trials = _trials(searched, data, teacher_ids, store, history, deviation)
        known = known_from(history)
        if is_over(history, study.search):
            found = best_recipes(searched, history, study.confirm.top)
            confirmed = student_contenders(confirm_runs(study, data, teacher_ids, found), store, deviation)
            contenders += [each for each in confirmed if not each.found]
            contenders += ensemble_contenders(study, [*contenders, *confirmed])
            contenders += [each for each in confirmed if each.found]
            finished = len(confirmed) == len(study.confirm.baselines) + len(found) and all(each.test for each in contenders)
            champion = _champion(study, [contender for contender in contenders if contender.found])
    return StudyResults(
        name=study.name,
        digest=study.digest,
        study_file=study.source_text,
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(first_run(study, store))),
        status="finished" if finished else "running",
        objectives={name: "min" if mode == "min" else "max" for name, mode in study.search.objectives.items()},
        stages=stage_rows(study, store),
        trials=trials,
        contenders=tuple(contenders),
        warm_start=known,
        champion=champion,
        screening=screening,
        published=_published(study),
        data=f"{data.name}, digest {data.digest[:12]}, {data.split.validation} validation images, {data.split.rule} split",
        class_names=tuple(source.class_names),
        task=source.task,
        log_scale=frozenset(
            dimension.name for dimension in study.search.space.dimensions if isinstance(dimension, Range) and dimension.log
        ),
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES},
        git_commit=_git_commit(),
        seeds=study.confirm_seeds,
        machine=f"{platform.machine()}, {platform.system()} {platform.release()}",
        command=" ".join(["distill-ray run", study.path, *(f"--set {override}" for override in study.overrides)]),
        tracking_uri=tracking_uri,
    )


def _screening(study: Study, wanted: Sequence[Screening], store: Store, deviation: Mapping[View, float]) -> tuple[ScreenRow, ...]:
    """The candidates, the lowest T. stddev first, and the choices of the search that were not measured."""
    if study.screen is None:
        return ()
    augment = next((each for each in study.search.space.dimensions if each.name == "augment"), None)
    choices = list(augment.values) if isinstance(augment, Choice) else []
    kept = kept_choices(study, deviation)
    rows = []
    for screening in wanted:
        metrics = found_metrics(store, screening) or {}
        chosen = (kept is None or screening.view in kept) if screening.view in choices else None
        rows.append(
            ScreenRow(
                screening.label,
                metrics.get(T_STDDEV),
                metrics.get(ENTROPY),
                chosen,
                "" if metrics else "not measured yet",
            )
        )
    for view in choices:
        if view not in study.screen.candidates:
            why = "picks images by the student" if view.asks_student else "no candidate"
            rows.append(ScreenRow(study.view_texts[view], None, None, True, why))
    return tuple(sorted(rows, key=lambda row: math.inf if row.t_stddev is None else row.t_stddev))


def _published(study: Study) -> Published | None:
    table = study.published
    if table is None:
        return None
    rows = tuple(PublishedRow(row.name, row.values, row.measured) for row in table.rows)
    return Published(table.source, table.difference, rows)


def _champion(study: Study, found: Sequence[Contender]) -> Champion | None:
    """Of the best configuration's trainings the one with the best first objective on the validation split."""
    if not found:
        return None
    from distill_ray.metrics import validation_score

    best = found[0]
    (objective, mode), *_ = study.search.objectives.items()
    metric = objective.removeprefix("val/")
    values = [validation_score(each.log_probabilities, each.labels)[metric] for each in best.validation]
    chosen = values.index(min(values) if mode == "min" else max(values))
    validation = best.validation[chosen]
    temperature = fit_temperature(validation.log_probabilities, validation.labels)
    return Champion(best.job_ids[chosen], best.params, temperature)


def _trials(
    study: Study, data: Data, teachers: Sequence[str], store: Store, history: optuna.Study, deviation: Mapping[View, float]
) -> tuple[TrialRow, ...]:
    rows = []
    (objective, *_) = study.search.objectives
    for trial in begun(history):
        run = trial_run(study, data, teachers, trial.number, trial.params)
        found = find_job(store, run.job.id) if trial.state == TrialState.COMPLETE else None
        values = [{"epoch": float(epoch), objective: value} for epoch, value in sorted(trial.intermediate_values.items())]
        complete = trial.state == TrialState.COMPLETE
        rows.append(
            TrialRow(
                number=trial.number,
                state=_STATES[trial.state],
                params=dict(run.searched),
                values=dict(zip(study.search.objectives, trial.values, strict=True)) if complete else {},
                epochs=tuple(found.epochs() if found else values),
                job_id=run.job.id,
                seconds=found.seconds if found else None,
                reason=trial.user_attrs.get("reason", ""),
                t_stddev=deviation.get(run.job.recipe.augment),
            )
        )
    return tuple(rows)


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
