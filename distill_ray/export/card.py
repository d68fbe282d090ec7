"""The model card: what the model is, where it comes from, how good it is, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill_ray.metric import METRICS, title_of
from distill_ray.metrics import calibrated_score, determines_temperature, score
from distill_ray.metrics.calibration import with_temperature
from distill_ray.records import Predictions
from distill_ray.report.format import setting
from distill_ray.report.results import ENSEMBLE, TEACHER, StudyResults
from distill_ray.report.table import figure_of, parameter_count, table
from distill_ray.study.reference import method_in_brief
from distill_ray.tracking.champion import Champion

LOADING = {
    "safetensors": """\
from distill_ray.export import open_model

model = open_model("FOLDER")
probabilities = model.predict(images)""",
    "torch-export": """\
import torch

model = torch.export.load("FOLDER/model.pt2").module()
probabilities = model(torch.from_numpy(images))""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(probabilities,) = session.run(None, {"images": images})""",
    "mlflow": """\
import mlflow

model = mlflow.pyfunc.load_model("FOLDER")
probabilities = model.predict(images)""",
}
RESAMPLES = 1000


def model_card(
    results: StudyResults,
    champion: Champion,
    *,
    format: str,
    calibrated: bool,
    license: str,
    difference: float,
    images: int,
) -> str:
    """The card in Markdown, with the front matter that model hubs read. `difference` is what the
    check over `images` found.
    """
    import jinja2

    job = champion.job
    height, width, channels = champion.examples.shape[1:]
    best = results.best
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(template).render(
        results=results,
        job=job,
        recipe=job.recipe,
        classes=champion.class_names,
        height=height,
        width=width,
        channels=channels,
        loading=LOADING[format],
        dtype=champion.examples.dtype.name,
        calibrated=calibrated,
        temperature=champion.temperature,
        temperature_from_prior=_from_prior(results, champion),
        license=license,
        difference=difference,
        images=images,
        split=results.split,
        runs=len(best.seeds) if best else 0,
        metrics=list(_metrics(results, champion)),
        teachers=_teachers(results, champion),
        method=method_in_brief(job.recipe.method.name),
        settings=[
            (name, setting(value))
            for name, value in (job.recipe.params() | {"seed": job.seed}).items()
        ],
        parameters=parameter_count(best.parameters) if best else "",
        versions=", ".join(f"{name} {version}" for name, version in results.versions.items()),
    )


def _from_prior(results: StudyResults, champion: Champion) -> bool:
    """Whether validation predictions do not determine the temperature of this model."""
    best = results.best
    if best is None or champion.job.id not in best.job_ids:
        return False
    predictions = best.validation[best.job_ids.index(champion.job.id)]
    return not determines_temperature(predictions.log_probabilities, predictions.labels)


def _metrics(results: StudyResults, champion: Champion) -> Iterator[tuple[str, str, str, str]]:
    """A line per metric: its name, this model's value, the interval over test samples, mean and
    spread over seeds.
    """
    row = next((row for row in table(results) if row.contender.found), None)
    if row is None or champion.job.id not in row.contender.job_ids or not row.runs:
        return
    own = row.predictions[row.contender.job_ids.index(champion.job.id)]
    values = score(own.log_probabilities, own.labels)
    values |= calibrated_score(own.log_probabilities, own.labels, champion.temperature)
    intervals = dict(_intervals(own, champion.temperature))
    for name in METRICS:
        if name in row.cells:
            low, high = intervals.get(name, (None, None))
            interval = (
                ""
                if low is None or high is None
                else f"{figure_of(name, low)} to {figure_of(name, high)}"
            )
            cell = row.cells[name]
            spread = "" if cell.std is None else f" ± {figure_of(name, cell.std)}"
            yield (
                title_of(name),
                figure_of(name, values[name]),
                interval,
                figure_of(name, cell.mean) + spread,
            )


def _intervals(
    predictions: Predictions, temperature: float
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Percentile bootstrap intervals of the metrics that are means over samples."""
    logs = np.asarray(predictions.log_probabilities, np.float64)
    labels, size = predictions.labels, len(predictions.labels)

    def right(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
        return found

    samples = {
        "accuracy": (logs.argmax(axis=1) == labels).astype(np.float64),
        "nll": -right(logs),
        "brier": (np.exp(logs) ** 2).sum(axis=1) - 2 * np.exp(right(logs)) + 1,
        "cnll": -right(with_temperature(logs, temperature)),
    }
    columns, rng = np.stack(list(samples.values()), axis=1), np.random.default_rng(0)
    means = (
        np.stack(
            [
                np.bincount(rng.integers(size, size=size), minlength=size) @ columns
                for _ in range(RESAMPLES)
            ]
        )
        / size
    )
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    for index, name in enumerate(samples):
        yield name, (float(low[index]), float(high[index]))


def _teachers(results: StudyResults, champion: Champion) -> str:
    """Who they were and what they are worth."""
    if not champion.job.teachers:
        return "None: this student learned from the labels alone."
    rows = {row.contender.name: row for row in table(results) if row.runs}
    single, ensemble = rows.get(TEACHER), rows.get(ENSEMBLE)
    said = [
        f"{len(champion.job.teachers)} networks, jobs "
        + ", ".join(f"`{job}`" for job in champion.job.teachers)
        + "."
    ]
    if single is not None:
        params = single.contender.params
        said.append(
            f"The first is {params['model']}, trained for {params['epochs']} epochs with augmentation {params['augmentation']}."
        )
    if single is not None and ensemble is not None:
        alone, together = (
            figure_of("accuracy", each.cells["accuracy"].mean) for each in (single, ensemble)
        )
        said.append(f"Accuracy: {alone} % each, {together} % together.")
    return " ".join(said)
