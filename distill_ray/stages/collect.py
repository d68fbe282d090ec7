"""The results of a study, read back from the store and from Optuna: what the report, `status` and `report --json` show."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import posixpath
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import TrialState

import distill_ray
from distill_ray.augment import View
from distill_ray.data import open_source
from distill_ray.events import Measurement, Metrics, Run
from distill_ray.job import Data
from distill_ray.metrics import fit_temperature, mean_log_probabilities
from distill_ray.records import JobRecord, Predictions, find_job
from distill_ray.report.results import (
    ENSEMBLE,
    TEACHER,
    Champion,
    Contender,
    Published,
    PublishedRow,
    ScreenRow,
    StageRow,
    StudyResults,
    TrialRow,
)
from distill_ray.stages.history import ABANDONED, best_recipes, is_over, open_history
from distill_ray.stages.resolve import CONFIRM, SCREEN, SEARCH, TEACH, confirm_runs, learned_from, teacher_runs, trial_run
from distill_ray.stages.screen import ENTROPY, T_STDDEV, Screening, deviations, found_metrics, kept_choices, narrowed, screenings
from distill_ray.store import Store
from distill_ray.study import Choice, Range, Study, members
from distill_ray.study.space import label_of

LABELS = {
    ENSEMBLE: "ensemble",
    TEACHER: "single teacher",
    "scratch": "student from scratch",
    "default-kd": "default KD",
    "student-ensemble": "ensemble of students",
    "best": "best found",
}
BEGUN = "begun"
"""Beside the stages in their file: when the study was first run."""

_STATES: dict[TrialState, Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING"]] = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAIL: "FAIL",
    TrialState.RUNNING: "RUNNING",
}
_PACKAGES = ("distill-ray", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pyarrow")


def collect(study: Study, data: Data, store: Store, *, search_storage: str | None, tracking_uri: str) -> StudyResults:
    """Everything there is to say about a study now; a study that is not finished has less of it."""
    teachers = teacher_runs(study, data)
    teacher_ids = [run.job.id for run in teachers]
    found_teachers = [record for run in teachers if (record := find_job(store, run.job.id)) is not None]
    trials: tuple[TrialRow, ...] = ()
    contenders: list[Contender] = []
    champion, finished = None, False
    screening: tuple[ScreenRow, ...] = ()
    wanted = screenings(study, data, learned_from(study, teacher_ids))
    deviation = deviations(wanted, store)
    if len(found_teachers) == len(teachers):
        contenders += _teachers(study, teachers, found_teachers)
        screening = _screening(study, wanted, store, deviation)
    if len(found_teachers) == len(teachers) and len(deviation) == len(wanted):
        searched = narrowed(study, deviation)
        history = open_history(searched, data, teacher_ids, store, search_storage)
        trials = _trials(searched, data, teacher_ids, store, history, deviation)
        if is_over(history, study.search):
            found = best_recipes(searched, history, study.confirm.top)
            confirmed = _contenders(confirm_runs(study, data, teacher_ids, found), store, deviation)
            contenders += [each for each in confirmed if not each.found]
            contenders += _ensembles(study, [*contenders, *confirmed])
            contenders += [each for each in confirmed if each.found]
            finished = len(confirmed) == len(study.confirm.baselines) + len(found) and all(each.test for each in contenders)
            champion = _champion(study, [contender for contender in contenders if contender.found])
    return StudyResults(
        name=study.name,
        digest=study.digest,
        study_file=study.source_text,
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(_begun(study, store))),
        status="finished" if finished else "running",
        objectives={name: "min" if mode == "min" else "max" for name, mode in study.search.objectives.items()},
        stages=_stages(study, store),
        trials=trials,
        contenders=tuple(contenders),
        champion=champion,
        screening=screening,
        published=_published(study),
        data=f"{data.name}, digest {data.digest[:12]}, {data.split.validation} validation images, {data.split.rule} split",
        class_names=tuple(open_source(data.location, label=data.label).class_names),
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


def _teachers(study: Study, runs: Sequence[Run], records: Sequence[JobRecord]) -> list[Contender]:
    """The ensemble, which averages probabilities; the single teachers as one contender with a run per member; named groups."""
    single = _contender(TEACHER, runs, records)
    sizes = sum(record.parameters for record in records)
    ensemble = replace(
        single,
        name=ENSEMBLE,
        label=LABELS[ENSEMBLE],
        parameters=sizes,
        validation=_pooled([single.validation]),
        test=_pooled([single.test]),
        members=len(runs),
    )
    groups = []
    for group in study.teachers:
        if group.name:
            places = members(study.teachers, [group.name])
            own = _contender(f"teacher-{group.name}", [runs[place] for place in places], [records[place] for place in places])
            groups.append(replace(own, label=f"teacher {group.name}"))
    return [ensemble, single, *groups]


def _pooled(groups: Sequence[Sequence[Predictions]], shares: Sequence[float] = ()) -> tuple[Predictions, ...]:
    """The mean prediction: of one group's runs, or of several groups run by run; nothing while some of them is missing."""
    runs = [groups[0]] if len(groups) == 1 else list(zip(*groups, strict=True)) if len(set(map(len, groups))) == 1 else []
    return tuple(
        Predictions(mean_log_probabilities([each.log_probabilities for each in run], shares or None), run[0].labels)
        for run in runs
        if run
    )


def _ensembles(study: Study, others: Sequence[Contender]) -> list[Contender]:
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
                parameters=sum(each.parameters for each in of) if together else members * first.parameters,
                validation=_pooled([each.validation for each in of], mean.shares),
                test=_pooled([each.test for each in of], mean.shares),
                job_ids=tuple(job for each in of for job in each.job_ids),
                members=members,
                t_stddev=None,
            )
        )
    return found


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
            rows.append(ScreenRow(str(label_of(view)), None, None, True, why))
    return tuple(sorted(rows, key=lambda row: math.inf if row.t_stddev is None else row.t_stddev))


def _published(study: Study) -> Published | None:
    table = study.published
    if table is None:
        return None
    rows = tuple(PublishedRow(row.name, row.values, row.measured) for row in table.rows)
    return Published(table.source, table.difference, rows)


def _contenders(runs: Sequence[Run], store: Store, deviation: Mapping[View, float]) -> list[Contender]:
    """Those that are confirmed with all their seeds."""
    contenders = []
    for role in dict.fromkeys(run.role for run in runs):
        own = [run for run in runs if run.role == role]
        records = [record for run in own if (record := find_job(store, run.job.id)) is not None]
        if len(records) == len(own):
            recipe = records[0].job.recipe
            value = deviation.get(recipe.augment) if recipe.method.needs_teachers else None
            contenders.append(replace(_contender(role, own, records), t_stddev=value))
    return contenders


def _contender(name: str, runs: Sequence[Run], records: Sequence[JobRecord]) -> Contender:
    validation = tuple(found for record in records if (found := record.predictions("validation")) is not None)
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
    for trial in history.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING or trial.user_attrs.get("reason") == ABANDONED:
            continue
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


class StageLog:
    """Keeps in the store when a study was begun, how long each of its stages has taken and how many jobs it trained, over all
    its runs.
    """

    def __init__(self, study: Study, store: Store) -> None:
        self._store = store
        self._path = _stage_file(study)
        content = store.read(self._path)
        self._stages: dict[str, dict[str, float]] = json.loads(content) if content else {}
        self._begun: dict[str, float] = {}

    def stage_started(self, stage: str, jobs: int) -> None:
        if not self._stages:
            self._stages[BEGUN] = {"time": time.time()}
            self._store.write(self._path, json.dumps(self._stages).encode())
        self._begun[stage] = time.monotonic()
        entry = self._stages.setdefault(stage, {"seconds": 0.0, "trained": 0})
        entry["jobs"] = jobs

    def past(self, run: Run, state: str, epochs: object, metrics: Metrics, reason: str) -> None:
        pass

    def started(self, run: Run) -> None:
        pass

    def epoch(self, run: Run, record: Metrics) -> None:
        pass

    def ended(self, run: Run, state: str, metrics: Metrics, reason: str) -> None:
        self._stages[run.stage]["trained"] += 1

    def measured(self, measurement: Measurement) -> None:
        self._stages[SCREEN]["trained"] += not measurement.reused

    def stage_ended(self, stage: str) -> None:
        self._stages[stage]["seconds"] += time.monotonic() - self._begun[stage]
        self._store.write(self._path, json.dumps(self._stages).encode())


def _stage_file(study: Study) -> str:
    return posixpath.join("studies", study.name, f"stages-{study.digest}.json")


def _begun(study: Study, store: Store) -> float:
    """When the study was first run, in seconds since 1970; now, where that is not known."""
    content = store.read(_stage_file(study))
    entry = json.loads(content).get(BEGUN) if content else None
    return float(entry["time"]) if entry else time.time()


def _stages(study: Study, store: Store) -> tuple[StageRow, ...]:
    content = store.read(_stage_file(study))
    stages = json.loads(content) if content else {}
    return tuple(
        StageRow(name, entry["seconds"], int(entry["trained"]), max(0, int(entry["jobs"] - entry["trained"])))
        for name, entry in ((name, stages.get(name)) for name in (TEACH, SCREEN, SEARCH, CONFIRM))
        if entry is not None
    )


def _git_commit() -> str | None:
    folder = Path(distill_ray.__file__).parent
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
