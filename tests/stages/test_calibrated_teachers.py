"""The temperatures of calibrated teachers, in all that people and programs see."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from distill_ray.cli import main
from distill_ray.metrics.calibration import PRIOR_IMAGES
from distill_ray.records import JobRecord, find_job
from distill_ray.report.write import write_report
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages.collect import load_results
from distill_ray.stages.locations import Locations
from distill_ray.study import StudyDefinition, load_study

if TYPE_CHECKING:
    from conftest import FinishedStudy


def fitted(record: JobRecord) -> float:
    """The temperature by minimising the NLL, with its prior, as the formula has it."""
    predictions = record.predictions("validation")
    assert predictions is not None
    logits, labels = predictions.log_probabilities.astype(np.float64), predictions.labels

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        prior = np.exp(-log_temperature) - 1 + log_temperature
        return float(-scaled[np.arange(len(labels)), labels].sum() + PRIOR_IMAGES * prior)

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


@pytest.fixture
def study(finished_calibrated: FinishedStudy) -> StudyDefinition:
    return load_study(finished_calibrated.file)


@pytest.fixture
def temperatures(finished_calibrated: FinishedStudy, study: StudyDefinition) -> dict[str, float]:
    """Of the two teachers that are calibrated, by job."""
    found = {}
    for run in teacher_runs(study, data_of(study))[:2]:
        record = find_job(finished_calibrated.store, run.job.id)
        assert record is not None
        found[run.job.id] = fitted(record)
    return found


@pytest.fixture
def command(
    finished_calibrated: FinishedStudy, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command prints of the study."""

    def run(*words: str) -> str:
        file, store = str(finished_calibrated.file), finished_calibrated.store.uri
        assert main([words[0], file, "--store", store, *words[1:]]) == 0
        return " ".join(capsys.readouterr().out.split())

    return run


def test_they_are_in_the_report(
    command: Callable[..., str],
    finished_calibrated: FinishedStudy,
    study: StudyDefinition,
    temperatures: dict[str, float],
    tmp_path: Path,
) -> None:
    listed: list[dict[str, Any]] = json.loads(command("report", "--json"))["calibrated_teachers"]
    assert {each["job_id"]: each["temperature"] for each in listed} == pytest.approx(
        temperatures, rel=1e-3
    )
    assert [(each["group"], each["seed"]) for each in listed] == [("wide", 0), ("wide", 1)]
    first, second = (f"{each['temperature']:.3g}" for each in listed)
    sentence = f"fitted on the validation split: wide (T {first} and {second})."
    assert sentence in command("report")

    results, _, _ = load_results(study, Locations(finished_calibrated.store.uri))
    for file in write_report(results, tmp_path / "report"):
        if file.name in ("report.html", "report.md"):
            assert sentence in " ".join(file.read_text().split())


def test_where_no_teacher_is_calibrated_nothing_is_said(
    finished_study: FinishedStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(finished_study.file), "--store", finished_study.store.uri]
    assert main(words) == 0
    assert "calibrated teachers" not in capsys.readouterr().out


def test_they_are_metrics_of_the_teachers_in_mlflow(
    command: Callable[..., str],
    tracking_uri: str,
    temperatures: dict[str, float],
) -> None:
    """And the number of such teachers is a parameter of the students that learn from them."""
    from mlflow import MlflowClient

    command("sync", "--tracking-uri", tracking_uri)
    client = MlflowClient(tracking_uri, tracking_uri)
    experiment = client.get_experiment_by_name("calibrated")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    name = "calibration/temperature"
    logged = {
        run.data.tags["job_id"]: run.data.metrics[name] for run in runs if name in run.data.metrics
    }
    assert logged == pytest.approx(temperatures, rel=1e-3)
    taught = [run for run in runs if run.data.tags["stage"] in ("search", "confirm")]
    counts = {run.data.tags["role"]: run.data.params.get("calibrated_teachers") for run in taught}
    assert counts == {"trial": "2", "best": "2", "scratch": None}
    (parent,) = (run for run in runs if run.data.tags["stage"] == "study")
    assert "Students learn from calibrated teachers" in parent.data.tags["mlflow.note.content"]


def test_they_are_in_the_model_card(
    command: Callable[..., str], temperatures: dict[str, float], tmp_path: Path
) -> None:
    command("export", "--out", str(tmp_path / "model"), "--format", "safetensors")
    card = (tmp_path / "model" / "README.md").read_text()
    for job, temperature in temperatures.items():
        (written,) = re.findall(rf"{job} by ([\d.]+\d)", card)
        assert float(written) == pytest.approx(temperature, rel=1e-3)


def test_given_teachers_are_listed_with_them(
    finished_calibrated: FinishedStudy,
    study: StudyDefinition,
    temperatures: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As soon as they are looked at, before anything is run."""
    (job, temperature), *_ = temperatures.items()
    record = find_job(finished_calibrated.store, job)
    assert record is not None
    weights = record.record.files["weights.safetensors"]["path"]
    shutil.copy(Path(finished_calibrated.store.uri, weights), tmp_path / "wide.safetensors")
    content = yaml.safe_load(finished_calibrated.file.read_text())
    given = {"model": "mlp-8", "weights": str(tmp_path / "wide.safetensors")}
    content["teachers"] = [
        {"name": "given", "calibrate": True, **given},
        {"name": "as-it-is", **given},
    ]
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(content))
    assert main(["teachers", str(tmp_path / "given.yaml"), "--store", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert listed[1]["temperature"] is None
    assert main(["validate", str(tmp_path / "given.yaml"), "--deep"]) == 0
    assert f"calibrated by T {listed[0]['temperature']:.3g}" in capsys.readouterr().out
