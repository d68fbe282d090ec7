"""The results of a study, read back from the store and from Optuna: what the report, `status` and `report --json` show."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import posixpath
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import TrialState

import distill_ray
from distill_ray.data import open_source
from distill_ray.events import Metrics, Run
from distill_ray.job import Data
from distill_ray.metrics import fit_temperature, mean_log_probabilities
from distill_ray.records import JobRecord, Predictions, find_job
from distill_ray.report.results import (
    ENSEMBLE,
    TEACHER,
    Champion,
    Contender,
    StageRow,
    StudyResults,
    TrialRow,
)
from distill_ray.stages.history import ABANDONED, best_recipes, is_over, open_history
from distill_ray.stages.resolve import CONFIRM, SEARCH, TEACH, confirm_runs, teacher_runs, trial_run
from distill_ray.store import Store
from distill_ray.study import Study
from distill_ray.study.space import Range

LABELS = {
    ENSEMBLE: "ensemble",
    TEACHER: "single teacher",
    "scratch": "student from scratch",
    "default-kd": "default KD",
    "best": "best found",
}
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
    champion, over = None, False
    if len(found_teachers) == len(teachers):
        contenders += _teachers(teachers, found_teachers)
        history = open_history(study, data, teacher_ids, store, search_storage)
        over = is_over(history, study.search)
        trials = _trials(study, data, teacher_ids, store, history)
        if over:
            found = best_recipes(study, history, study.confirm.top)
            contenders += _contenders(confirm_runs(study, data, teacher_ids, found), store)
            champion = _champion(study, [contender for contender in contenders if contender.found])
    confirmed = [contender for contender in contenders if contender.test]
    finished = over and len(confirmed) == 2 + len(study.confirm.baselines) + study.confirm.top
    return StudyResults(
        name=study.name,
        digest=study.digest,
        study_file=study.source_text,
        created=time.strftime("%Y-%m-%d %H:%M"),
        status="finished" if finished else "running",
        objectives={name: "min" if mode == "min" else "max" for name, mode in study.search.objectives.items()},
        stages=_stages(study, store),
        trials=trials,
        contenders=tuple(contenders),
        champion=champion,
        data=f"{data.name} ({data.location}), {data.split.validation} validation images, {data.split.rule} split",
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


def _teachers(runs: Sequence[Run], records: Sequence[JobRecord]) -> list[Contender]:
    """The single teachers as one contender with a run per member, and their ensemble, which averages probabilities."""
    single = _contender(TEACHER, runs, records)
    sizes = sum(record.parameters for record in records)

    def pooled(members: Sequence[Predictions]) -> tuple[Predictions, ...]:
        if not members:
            return ()
        mean = mean_log_probabilities([member.log_probabilities for member in members])
        return (Predictions(mean, members[0].labels),)

    ensemble = Contender(
        name=ENSEMBLE,
        label=LABELS[ENSEMBLE],
        params=single.params,
        parameters=sizes,
        seeds=single.seeds,
        validation=pooled(single.validation),
        test=pooled(single.test),
        job_ids=single.job_ids,
    )
    return [ensemble, single]


def _contenders(runs: Sequence[Run], store: Store) -> list[Contender]:
    """Those that are confirmed with all their seeds."""
    contenders = []
    for role in dict.fromkeys(run.role for run in runs):
        own = [run for run in runs if run.role == role]
        records = [record for run in own if (record := find_job(store, run.job.id)) is not None]
        if len(records) == len(own):
            contenders.append(_contender(role, own, records))
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
    from distill_ray.metrics import score

    best = found[0]
    (objective, mode), *_ = study.search.objectives.items()
    metric = objective.removeprefix("val/")
    values = [score(each.log_probabilities, each.labels)[metric] for each in best.validation]
    chosen = values.index(min(values) if mode == "min" else max(values))
    validation = best.validation[chosen]
    temperature = fit_temperature(validation.log_probabilities, validation.labels)
    return Champion(best.job_ids[chosen], best.params, temperature)


def _trials(study: Study, data: Data, teachers: Sequence[str], store: Store, history: optuna.Study) -> tuple[TrialRow, ...]:
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
            )
        )
    return tuple(rows)


class StageLog:
    """Keeps in the store how long each stage of a study has taken and how many jobs it trained, over all its runs."""

    def __init__(self, study: Study, store: Store) -> None:
        self._store = store
        self._path = _stage_file(study)
        content = store.read(self._path)
        self._stages: dict[str, dict[str, float]] = json.loads(content) if content else {}
        self._begun: dict[str, float] = {}

    def stage_started(self, stage: str, jobs: int) -> None:
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

    def stage_ended(self, stage: str) -> None:
        self._stages[stage]["seconds"] += time.monotonic() - self._begun[stage]
        self._store.write(self._path, json.dumps(self._stages).encode())


def _stage_file(study: Study) -> str:
    return posixpath.join("studies", study.name, f"stages-{study.digest}.json")


def _stages(study: Study, store: Store) -> tuple[StageRow, ...]:
    content = store.read(_stage_file(study))
    stages = json.loads(content) if content else {}
    return tuple(
        StageRow(name, entry["seconds"], int(entry["trained"]), max(0, int(entry["jobs"] - entry["trained"])))
        for name, entry in ((name, stages.get(name)) for name in (TEACH, SEARCH, CONFIRM))
        if entry is not None
    )


def _git_commit() -> str | None:
    folder = Path(distill_ray.__file__).parent
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
