"""Replays recorded searches against every scheduler and every sampler: epochs spent, and regret.

    uv run python benchmarks/record_trials.py benchmarks/replay/digits.yaml digits.json
    uv run python benchmarks/replay.py benchmarks/replay/digits.yaml digits.json

A scheduler meets the recorded trials in random order, four at a time, as a search on four workers
would; nothing is trained. Regret is the value of the configuration it ends with less that of the
best one among those it met. A sampler is answered by the recorded trial that is nearest to what it
suggests, at full length; its regret is against the best recorded trial. Both are the package's own
classes. (`grid` needs steps, which these spaces have not; `nsga3` several objectives.)
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from distill_ray.search.history import quiet
from distill_ray.search.samplers import make_sampler
from distill_ray.search.scheduler import make_scheduler, rungs
from distill_ray.study import Choice, StudyDefinition, load_study

SCHEDULERS = ("none", "asha", "hyperband", "median", "paired")
SAMPLERS = ("random", "qmc", "tpe", "gp", "cmaes", "nsga2")
WORKERS = 4

GP_REPLAYS = 6
"""Replays of `gp`, which takes a hundred times as long as the others."""


def replay_scheduler(
    study: StudyDefinition, courses: Sequence[Sequence[float]]
) -> tuple[int, float]:
    """Epochs spent on trials with these courses, and the value of the one that is chosen."""
    (metric, mode) = next(iter(study.search.objectives.items()))
    last = study.student.epochs
    history = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    numbers: dict[str, int] = {}
    scheduler = make_scheduler(study, history, numbers.__getitem__)
    stops = rungs(study)
    waiting, spent, best = list(enumerate(courses)), 0, math.inf
    running: list[Iterator[int]] = []

    def course_of(number: int, course: Sequence[float]) -> Iterator[int]:
        """The trial, an epoch at a time."""
        nonlocal best
        trial = history.ask()
        stand_in: Any = SimpleNamespace(trial_id=str(number), is_finished=lambda: False)
        numbers[stand_in.trial_id] = trial.number
        if scheduler is not None:
            scheduler.on_trial_add(None, stand_in)
        unreported: list[dict[str, float]] = []
        for epoch, value in enumerate(course, 1):
            yield 1
            unreported.append({"epoch": epoch, metric: value})
            decision = TrialScheduler.CONTINUE
            if scheduler is not None and epoch in stops:
                result = unreported[-1] | {"epochs": list(unreported)}
                decision = scheduler.on_trial_result(None, stand_in, result)
            if epoch in stops or epoch == len(course):
                for record in unreported:
                    trial.report(record[metric], int(record["epoch"]))
                unreported.clear()
            if decision == TrialScheduler.STOP and epoch < last:
                history.tell(trial, state=TrialState.PRUNED)
                return
        if len(course) < last:
            history.tell(trial, state=TrialState.FAIL)
            return
        history.tell(trial, course[-1])
        best = min(best, course[-1])

    while waiting or running:
        while waiting and len(running) < WORKERS:
            running.append(course_of(*waiting.pop(0)))
        for trial in list(running):
            try:
                spent += next(trial)
            except StopIteration:
                running.remove(trial)
    return spent, best


def replay_sampler(
    study: StudyDefinition, trials: Sequence[dict[str, Any]], seed: int, steps: int
) -> list[float]:
    """The best value so far after each suggestion."""
    history = optuna.create_study(direction="minimize")
    search = study.search
    history.sampler = make_sampler(search, seed * 1000)
    points = np.array([_point(study, trial["params"]) for trial in trials])
    best, course = math.inf, []
    for _ in range(steps):
        asked = history.ask()
        drawn = search.space.suggest(asked)
        place = int(np.square(points - _point(study, drawn)).sum(axis=1).argmin())
        values = trials[place]["values"]
        if len(values) == study.student.epochs:
            history.tell(asked, values[-1])
            best = min(best, values[-1])
        else:
            history.tell(asked, state=TrialState.FAIL)
        course.append(best)
    return course


def _sampled(path: str, sampler: str, trials: int) -> StudyDefinition:
    """The study with that sampler; for `cmaes`, which draws no choices, without these."""
    overrides = [f"search.trials={trials}"]
    if sampler != "cmaes":
        return load_study(path, [*overrides, f"search.sampler={sampler}"])
    study = load_study(path, overrides)
    dimensions = study.search.space.dimensions
    numbers = tuple(one for one in dimensions if not isinstance(one, Choice))
    space = replace(study.search.space, dimensions=numbers)
    return replace(study, search=replace(study.search, sampler="cmaes", space=space))


def _point(study: StudyDefinition, drawn: dict[str, Any]) -> np.ndarray:
    """A configuration in a cube of side 1; choices that differ are a side apart."""
    place: list[float] = []
    for dimension in study.search.space.dimensions:
        if isinstance(dimension, Choice):
            place += [
                math.sqrt(0.5) * (drawn[dimension.name] == label) for label in dimension.labels
            ]
            continue
        scale = math.log if dimension.log else float
        low, high = scale(dimension.low), scale(dimension.high)
        place.append((scale(drawn[dimension.name]) - low) / (high - low))
    return np.array(place)


def main() -> None:
    """Replay, and print both tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study")
    parser.add_argument("table", type=Path)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--trials", type=int, default=60, help="trials of one replay")
    parser.add_argument("--samplers", nargs="*", default=SAMPLERS)
    parser.add_argument("--schedulers", nargs="*", default=SCHEDULERS)
    chosen = parser.parse_args()
    quiet()
    trials = json.loads(chosen.table.read_text())["trials"]
    plain = load_study(chosen.study)
    full = [trial["values"][-1] for trial in trials if len(trial["values"]) == plain.student.epochs]
    spread = float(np.std(sorted(full)[: len(full) // 2]))
    print(
        f"{len(trials)} trials, {len(trials) - len(full)} diverged; best {min(full):.4f}, "
        f"median {np.median(full):.4f}, stddev of the better half {spread:.4f}\n"
    )
    print("| scheduler | epochs, share of all | mean regret | 90th percentile | best found |")
    print("|---|---|---|---|---|")
    for name in chosen.schedulers:
        study = load_study(chosen.study, [f"search.scheduler={name}"])
        shares, regrets = [], []
        for number in range(chosen.replays):
            rng = np.random.default_rng(number)
            np.random.seed(number)  # Hyperband's choice of rungs
            met = [
                trials[place]["values"] for place in rng.permutation(len(trials))[: chosen.trials]
            ]
            spent, value = replay_scheduler(study, met)
            least = min(course[-1] for course in met if len(course) == study.student.epochs)
            shares.append(spent / sum(map(len, met)))
            regrets.append(value - least)
        found = np.mean(np.array(regrets) == 0)
        print(
            f"| {name} | {np.mean(shares):.3f} | {np.mean(regrets):.5f} | "
            f"{np.quantile(regrets, 0.9):.5f} | {found:.0%} |",
            flush=True,
        )
    print("\n| sampler | replays | regret after 15 | after 30 | after 60 | seconds per search |")
    print("|---|---|---|---|---|---|")
    for name in chosen.samplers:
        study = _sampled(chosen.study, name, chosen.trials)
        replays = min(chosen.replays, GP_REPLAYS) if name == "gp" else chosen.replays
        begun = time.process_time()
        courses = np.array(
            [replay_sampler(study, trials, seed, chosen.trials) for seed in range(replays)]
        )
        seconds = (time.process_time() - begun) / replays
        after = [
            f"{np.mean(courses[:, place - 1] - min(full)):.5f}"
            for place in (15, 30, 60)
            if place <= chosen.trials
        ]
        print(f"| {name} | {replays} | {' | '.join(after)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
