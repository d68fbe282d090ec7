"""Trains every trial of a study to its last epoch, in one process, and writes down the course of
each, and all metrics of its last epoch: what `replay.py` replays.

    uv run python benchmarks/record_trials.py benchmarks/replay/digits.yaml digits.json

The settings of the trials are those that Optuna's random sampler draws with the study's seed. What
was trained is in the store, so that the command can be stopped and run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import optuna

from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import confirm_sharing, trial_sharing
from distill_ray.resolve import data_of, teacher_runs, trial_run
from distill_ray.search.history import quiet
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training.loop import DivergedError


def main() -> None:
    """Train the teachers and the trials, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("table", type=Path)
    parser.add_argument("--store", default="replay-store")
    chosen = parser.parse_args()
    study = load_study(chosen.study)
    data, store = data_of(study), Store.open(chosen.store)
    runs = teacher_runs(study, data)
    for run in runs:
        for _ in run_job(store, run.job, WorkerResources.of(study, confirm_sharing(study))):
            pass
    teachers = [run.job.id for run in runs]
    resources = WorkerResources.of(study, trial_sharing(study))
    quiet()
    sampler = optuna.samplers.RandomSampler(seed=study.search.seed)
    history = optuna.create_study(sampler=sampler)
    (objective,) = study.search.objectives
    trials = []
    for number in range(study.search.trials):
        drawn = study.search.space.suggest(history.ask())
        job = trial_run(study, data, teachers, number, drawn).job
        course: list[Mapping[str, float]] = []
        try:
            for records in run_job(store, job, resources):
                course += records
        except DivergedError:  # it has fewer epochs than the others, and no result
            pass
        values = [record[objective] for record in course]
        ended = dict(course[-1]) if course else {}
        trials.append({"params": drawn, "values": values, "ended": ended})
        print(number, len(values), values[-1:], flush=True)
    table = {"study": study.name, "objective": objective, "trials": trials}
    chosen.table.write_text(json.dumps(table) + "\n")


if __name__ == "__main__":
    main()
