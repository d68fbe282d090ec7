"""A made-up study, realistic enough to look at: nothing here was trained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from distill_ray.events import JobState
from distill_ray.metrics import mean_log_probabilities
from distill_ray.records import Predictions
from distill_ray.report.results import Champion, Contender, StageRow, StudyResults, TrialRow, Value

CLASSES = tuple(str(digit) for digit in range(10))

STUDY_FILE = """\
name: quickstart
data: {name: digits, train: 400, validation: 200}
teachers: {model: wrn-10-1, members: 3, epochs: 12, augmentation: crop-flip}
student: {model: wrn-10-1, method: kd, epochs: 12}
search:
  trials: 12
  objectives: {val/nll: min}
  scheduler: asha
  space:
    temperature: {log: [1, 20]}
    alpha: {uniform: [0.1, 1.0]}
    augmentation: {choice: [identity, crop-flip, cutout]}
    augmentation.size: {int: [2, 6], when: {augmentation: cutout}}
confirm: {seeds: 3, baselines: [scratch, default-kd]}
"""


def predictions(
    skill: float, sharpness: float, seed: int, samples: int, classes: int = 10
) -> Predictions:
    """Predictions of a network that is right more often with more `skill` and too sure of itself
    with `sharpness` above 1.
    """
    task, own = np.random.default_rng(samples), np.random.default_rng(seed)
    labels = task.integers(classes, size=samples)
    difficulty = task.normal(size=(samples, classes))
    logits = (
        0.8 * difficulty
        + 0.6 * own.normal(size=(samples, classes))
        + 2 * skill * np.eye(classes)[labels]
    )
    logits = 2.0 * sharpness * logits
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return Predictions(logs.astype(np.float32), labels)


def contender(
    name: str,
    label: str,
    skill: float,
    sharpness: float,
    first_seed: int,
    runs: int = 3,
    **params: Value,
) -> Contender:
    seeds = tuple(range(first_seed, first_seed + runs))
    return Contender(
        name=name,
        label=label,
        params={"model": "wrn-10-1", "method": "kd", "epochs": 12, **params},
        parameters=77_850,
        seeds=tuple(range(runs)),
        validation=tuple(predictions(skill, sharpness, seed, 200) for seed in seeds),
        test=tuple(predictions(skill, sharpness, seed, 1197) for seed in seeds),
        job_ids=tuple(f"{seed:020x}" for seed in seeds),
    )


def pooled(members: Contender) -> Contender:
    def mean(runs: tuple[Predictions, ...]) -> tuple[Predictions, ...]:
        return (
            Predictions(
                mean_log_probabilities(np.stack([run.log_probabilities for run in runs])),
                runs[0].labels,
            ),
        )

    return replace(
        members,
        name="ensemble",
        label=f"ensemble of {len(members.seeds)}",
        parameters=len(members.seeds) * members.parameters,
        validation=mean(members.validation),
        test=mean(members.test),
        members=len(members.seeds),
        averaged=True,
    )


def trials(count: int = 12) -> tuple[TrialRow, ...]:
    """Trials of a search over a log-uniform, a uniform, a categorical and a conditional setting;
    some pruned, one failed.
    """
    rng = np.random.default_rng(7)
    rows: list[TrialRow] = []
    for number in range(count):
        temperature, alpha = float(np.exp(rng.uniform(0, math.log(20)))), float(rng.uniform(0.1, 1))
        augmentation = str(rng.choice(["identity", "crop-flip", "cutout"]))
        params: dict[str, str | int | float | bool] = {
            "temperature": temperature,
            "alpha": alpha,
            "augmentation": augmentation,
        }
        if augmentation == "cutout":
            params["augmentation.size"] = int(rng.integers(2, 7))
        final = (
            0.22
            + 0.06 * abs(math.log(temperature / 4))
            + 0.1 * (1 - alpha)
            + 0.08 * (augmentation == "identity")
        )
        curve = [
            {
                "epoch": epoch,
                "train/loss": 2.3 * math.exp(-epoch / 3) + 0.1,
                "val/nll": final + 2.0 * math.exp(-epoch / 2.5) + float(rng.normal(0, 0.02)),
                "val/accuracy": 0.97
                - 0.3 * final
                - 0.6 * math.exp(-epoch / 2.5)
                + float(rng.normal(0, 0.005)),
            }
            for epoch in range(1, 13)
        ]
        job = f"{number + 100:020x}"
        if number == 7:
            rows.append(
                TrialRow(
                    number,
                    JobState.FAILED,
                    params,
                    {},
                    tuple(curve[:2]),
                    job,
                    1.1,
                    "loss became NaN in epoch 3",
                )
            )
        elif number >= 4 and curve[3]["val/nll"] > 0.72:
            rows.append(
                TrialRow(
                    number,
                    JobState.PRUNED,
                    params,
                    {},
                    tuple(curve[:4]),
                    job,
                    1.8,
                    "ASHA, after epoch 4",
                )
            )
        else:
            values = {"val/nll": curve[-1]["val/nll"], "val/accuracy": curve[-1]["val/accuracy"]}
            rows.append(
                TrialRow(
                    number,
                    JobState.FINISHED,
                    params,
                    {"val/nll": values["val/nll"]},
                    tuple(curve),
                    job,
                    5.2,
                )
            )
    return tuple(rows)


def made_up() -> StudyResults:
    finished = (trial for trial in trials() if trial.values)
    leader = min(finished, key=lambda trial: trial.values["val/nll"])
    teachers = contender("teacher", "single teacher", 1.6, 1.5, 10)
    best: dict[str, Value] = {
        "temperature": 4.2,
        "alpha": 0.9,
        "augmentation": "cutout",
        "augmentation.size": 3,
    }
    return StudyResults(
        name="quickstart",
        digest="5b1f0c9d2e7a",
        study_file=STUDY_FILE,
        created="2026-03-01 12:00 UTC",
        status="finished",
        objectives={"val/nll": "min"},
        stages=(
            StageRow("teach", 18.2, 3, 0),
            StageRow("search", 61.0, 12, 0),
            StageRow("confirm", 34.7, 8, 1),
            StageRow("report", 4.1, 0, 0),
        ),
        trials=trials(),
        contenders=(
            pooled(teachers),
            teachers,
            contender("scratch", "student from scratch", 1.5, 1.7, 20, method="supervised"),
            contender("default-kd", "default KD", 1.6, 1.4, 30, temperature=4.0, alpha=0.5),
            replace(
                contender("best", "best found", 1.75, 1.1, 40),
                params={"model": "wrn-10-1", "method": "kd", "epochs": 12, **best},
                trial=leader.number,
            ),
        ),
        champion=Champion(f"{40:020x}", {"model": "wrn-10-1", "method": "kd", **best}, 1.18),
        data="digits: 400 training, 200 validation and 1197 test images, 10 classes",
        class_names=CLASSES,
        log_scale=frozenset({"temperature"}),
        versions={
            "distill_ray": "0.1.0",
            "python": "3.11.9",
            "torch": "2.15.0",
            "ray": "2.60.0",
            "optuna": "5.0.0",
        },
        git_commit="0e984d9c0ffee",
        seeds=(0, 1, 2),
        machine="Linux x86_64, 2 CPUs, 8 GB, no GPU",
        command="distill-ray run studies/quickstart.yaml",
        tracking_uri="https://someone:secret@tracking.example.org/path",
    )


@pytest.fixture(scope="session")
def study() -> StudyResults:
    """A finished study with one objective."""
    return made_up()


@pytest.fixture(scope="session")
def young_study(study: StudyResults) -> StudyResults:
    """The same study while its search is under way: teachers, five trials, nothing confirmed."""
    ensemble, teacher = (replace(each, test=()) for each in study.contenders[:2])
    running = replace(
        study.trials[5],
        state=JobState.RUNNING,
        values={},
        epochs=study.trials[5].epochs[:2],
        seconds=None,
    )
    return replace(
        study,
        status="running",
        stages=(study.stages[0], StageRow("search", 20.0, 5, 0)),
        trials=(*study.trials[:5], running),
        contenders=(ensemble, teacher),
        champion=None,
    )
