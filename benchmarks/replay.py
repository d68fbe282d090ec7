"""Replays recorded searches against every scheduler and every sampler: epochs spent, and regret.

    uv run python benchmarks/record_trials.py benchmarks/replay/digits.yaml digits.json
    uv run python benchmarks/replay.py benchmarks/replay/digits.yaml digits.json

A scheduler meets the recorded trials in random order, four at a time, as a search on four workers
would; nothing is trained. Regret is the value of the configuration it ends with less that of the
best one among those it met. A sampler is answered by the recorded trial that is nearest to what it
suggests, at full length; its regret is against the best recorded trial. With two objectives, the
loss and the calibration error, samplers are judged by the area that their front dominates, as a
share of that of all recorded trials. Schedulers and samplers are the package's own classes. `grid`
has the ends and the middle of every range.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
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
from distill_ray.study import Choice, Dimension, Range, StudyDefinition, load_study

SCHEDULERS = ("none", "asha", "hyperband", "median", "paired")
SAMPLERS = ("random", "qmc", "tpe", "gp", "cmaes", "grid", "nsga2")
SAMPLERS_OF_FRONTS = ("random", "tpe", "nsga2", "nsga3")
SECOND = "val/ece"
"""The second objective."""
AFTER = (15, 30, 60)
"""Trials after which samplers are judged."""

WORKERS = 4

GP_REPLAYS = 60
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
    study: StudyDefinition,
    recorded: StudyDefinition,
    trials: Sequence[dict[str, Any]],
    seed: int,
    steps: int,
) -> list[int]:
    """The `trials` of the `recorded` study, by place, that answer the suggestions one after the
    other: the nearest ones.
    """
    names = [dimension.name for dimension in study.search.space.dimensions]
    points = np.array(
        [_point(recorded, {name: trial["params"][name] for name in names}) for trial in trials]
    )
    search = replace(study.search, seed=seed)
    history = optuna.create_study(directions=["minimize"] * len(search.objectives))
    history.sampler = make_sampler(search, 0)
    met = []
    for _ in range(steps):
        asked = history.ask()
        drawn = search.space.suggest(asked)
        place = int(np.square(points - _point(recorded, drawn)).sum(axis=1).argmin())
        if _complete(study, trials[place]):
            history.tell(asked, [trials[place]["ended"][name] for name in search.objectives])
        else:
            history.tell(asked, state=TrialState.FAIL)
        met.append(place)
    return met


def _complete(study: StudyDefinition, trial: dict[str, Any]) -> bool:
    return len(trial["values"]) == study.student.epochs


def _sampled(path: str, sampler: str, trials: int, *overrides: str) -> StudyDefinition:
    """The study with that sampler; for `cmaes`, which draws no choices, without these; for `grid`
    with three values of every number.
    """
    study = load_study(path, [f"search.trials={trials}", *overrides])
    if sampler not in ("cmaes", "grid"):
        return load_study(
            path, [f"search.trials={trials}", *overrides, f"search.sampler={sampler}"]
        )
    dimensions: list[Dimension] = []
    for dimension in study.search.space.dimensions:
        if isinstance(dimension, Choice) and sampler == "grid":
            dimensions.append(dimension)
        elif isinstance(dimension, Range):
            dimensions.append(_three(dimension) if sampler == "grid" else dimension)
    space = replace(study.search.space, dimensions=tuple(dimensions))
    return replace(study, search=replace(study.search, sampler=sampler, space=space))


def _three(numbers: Range) -> Choice:
    """The ends and the middle of a range."""
    low, high = numbers.low, numbers.high
    values = (low, math.sqrt(low * high) if numbers.log else (low + high) / 2, high)
    return Choice(name=numbers.name, values=values)


def dominated(costs: np.ndarray, corner: np.ndarray) -> float:
    """The area between the front of points (N, 2) and a corner that is worse."""
    area, height = 0.0, corner[1]
    for first, second in sorted(costs[(costs < corner).all(axis=1)].tolist()):
        if second < height:
            area += (corner[0] - first) * (height - second)
            height = second
    return area


def _point(study: StudyDefinition, drawn: Mapping[str, Any]) -> np.ndarray:
    """A configuration in a cube of side 1, by the settings of the study that it has; choices that
    differ are a side apart.
    """
    place: list[float] = []
    for dimension in study.search.space.dimensions:
        if dimension.name not in drawn:
            continue
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
    parser.add_argument("--samplers-of-fronts", nargs="*", default=SAMPLERS_OF_FRONTS)
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
    steps = chosen.trials
    values = np.array(
        [trial["values"][-1] if _complete(plain, trial) else math.inf for trial in trials]
    )
    print("\n| sampler | replays | regret after 15 | after 30 | after 60 | seconds per search |")
    print("|---|---|---|---|---|---|")
    for name in chosen.samplers:
        study = _sampled(chosen.study, name, steps)
        replays = min(chosen.replays, GP_REPLAYS) if name == "gp" else chosen.replays
        begun = time.process_time()
        met = [replay_sampler(study, plain, trials, seed, steps) for seed in range(replays)]
        seconds = (time.process_time() - begun) / replays
        regrets = np.minimum.accumulate(values[np.array(met)], axis=1) - min(full)
        after = [f"{regrets[:, n - 1].mean():.5f}" for n in AFTER if n <= steps]
        print(f"| {name} | {replays} | {' | '.join(after)} | {seconds:.2f} |", flush=True)

    (first,) = plain.search.objectives
    two = f"search.objectives={{{first}: min, {SECOND}: min}}"
    costs = np.array(
        [
            [
                trial["ended"][metric] if _complete(plain, trial) else math.inf
                for metric in (first, SECOND)
            ]
            for trial in trials
        ]
    )
    corner = np.median(costs, axis=0)
    everything = dominated(costs, corner)
    print(f"\n| {first} and {SECOND} | replays | area after 15 | after 30 | after 60 |")
    print("|---|---|---|---|---|")
    for name in chosen.samplers_of_fronts:
        study = _sampled(chosen.study, name, steps, two)
        met = [replay_sampler(study, plain, trials, seed, steps) for seed in range(chosen.replays)]
        after = [
            f"{np.mean([dominated(costs[places[:n]], corner) for places in met]) / everything:.1%}"
            for n in AFTER
            if n <= steps
        ]
        print(f"| {name} | {chosen.replays} | {' | '.join(after)} |", flush=True)


if __name__ == "__main__":
    main()
