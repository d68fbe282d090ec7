"""Whole studies with the schedulers that are not the usual one, killed and run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna.trial import TrialState

from distill_ray.search.paired import FEWEST_FINISHED
from support.studies import TINY, command, job_folders, kill_in_the_search, only_search

EPOCHS = 6
HOPELESS = 1e-7
"""A learning rate with which nothing is learned."""

GOOD = [0.2, 0.1, 0.05, 0.15, 0.12, 0.07, 0.09, 0.18, 0.14, 0.11][:FEWEST_FINISHED]
RATES = [*GOOD, HOPELESS, 2 * HOPELESS]
SETTINGS = (
    f"student.epochs={EPOCHS}",
    "student.warmup_epochs=0",
    f"search.trials={len(RATES)}",
    "search.space={lr: {log: [0.00000001, 1.0]}}",
    f"search.try_first={[{'lr': rate} for rate in RATES]}",
    "resources.cpus_per_worker=2",  # one after the other, the hopeless ones last
    "confirm.seeds=1",
    "confirm.baselines=[]",
)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["hyperband", "median", "paired"])
def test_a_whole_study_is_pruned_by_it(tmp_path: Path, scheduler: str) -> None:
    store = tmp_path / "store"
    study = [str(TINY), "--store", str(store), "--set", f"search.scheduler={scheduler}"]
    for setting in SETTINGS:
        study += ["--set", setting]
    kill_in_the_search("run", *study)
    before = job_folders(store)
    again = command("run", *study)
    assert again.returncode == 0, again.stdout + again.stderr
    assert before <= job_folders(store)

    trials = only_search(store).trials
    assert [trial.params["lr"] for trial in trials] == RATES
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    spent = [len(trial.intermediate_values) for trial in trials]
    assert max(spent) == EPOCHS and min(spent) < EPOCHS
    if scheduler != "hyperband":  # which draws what is compared with what
        assert spent[:2] == [EPOCHS] * 2 and min(spent[-2:]) < EPOCHS
    best = min((trial.value, trial.params["lr"]) for trial in trials if trial.value is not None)
    assert best[1] > 2 * HOPELESS

    report = json.loads(command("report", *study, "--json").stdout)
    assert [trial["epochs"] for trial in report["trials"]] == spent
    nothing = command("run", *study)
    assert nothing.returncode == 0 and "begins" not in nothing.stdout
