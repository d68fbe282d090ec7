"""The model card: what the model is, where it comes from, how good it is, and how it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from distill_ray.escaping import code_span, for_markdown
from distill_ray.export.int8 import Quantised, changes_table
from distill_ray.extensions import extensions_for_inference, extensions_of
from distill_ray.metric import METRICS, title_of
from distill_ray.metrics import calibrated_score, determines_temperature, score
from distill_ray.metrics.calibration import with_temperature
from distill_ray.metrics.conformal import Score, conformal
from distill_ray.records import Predictions
from distill_ray.report.cautions import cautions
from distill_ray.report.conformal import TITLES, ConformalRow
from distill_ray.report.format import counted, listed, metric_text, parameter_count, setting
from distill_ray.report.per_sample import bootstrap, calibrated_nll, sample_scores
from distill_ray.report.results import ENSEMBLE, StudyResults
from distill_ray.report.table import Cell, Row, markdown_table
from distill_ray.study.reference import method_in_brief
from distill_ray.tracking.champion import StudentModel

LOADING = {
    "safetensors": """\
from distill_ray.export import open_model

model = open_model("FOLDER")
probabilities = model.predict(images)""",
    "torch-export": """\
import torch

model = torch.export.load("FOLDER/model.pt2").module()
with torch.inference_mode():
    probabilities = model(torch.from_numpy(images)).numpy()""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(probabilities,) = session.run(None, {"images": images})""",
    "onnx-int8": """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(probabilities,) = session.run(None, {"images": images})""",
    "mlflow": """\
import mlflow

model = mlflow.pyfunc.load_model("FOLDER")
probabilities = model.predict(images)""",
}
"""How a model of each format is used."""

READING = """\
import numpy as np
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("IMAGE")).convert("{mode}")
{fit}images = np.asarray(image, np.uint8).reshape(1, {height}, {width}, {channels})"""
"""How an image file becomes `images` without distill_ray."""

FITTING = """\
scale = min(image.width / {width}, image.height / {height})
left, top = (image.width - scale * {width}) / 2, (image.height - scale * {height}) / 2
box = (left, top, left + scale * {width}, top + scale * {height})
image = image.resize(({width}, {height}), Image.Resampling.BILINEAR, box=box)
"""


MIDDLE = """\
left, top = (image.width - {width}) // 2, (image.height - {height}) // 2
image = image.crop((left, top, left + {width}, top + {height}))
"""


def model_card(
    results: StudyResults,
    champion: StudentModel,
    *,
    format: str,
    calibrated: bool,
    license: str,
    difference: float,
    images: int,
    quantised: Quantised | None = None,
) -> str:
    """The card in Markdown, with the front matter that model hubs read.

    Args:
        results: the study that the model comes from.
        champion: the model.
        format: one of `FORMATS`.
        calibrated: whether its temperature is part of the exported model.
        license: the licence to name.
        difference: the largest difference of a probability that the check found.
        images: over how many images it looked.
        quantised: how it was measured in int8, if it is.
    """
    import jinja2

    job, best = champion.job, results.best
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    # Everything that others have named is written by one of these
    environment.filters |= {"words": for_markdown, "code": code_span, "yaml": _yaml_text}
    brief, source = method_in_brief(job.recipe.method.name)
    metrics: list[tuple[str, str, str, str]] = []
    sets: dict[str, list[str]] = {}
    if (row := _best_row(results, champion)) is not None:
        trained = row.predictions[row.contender.job_ids.index(champion.job.id)]
        test = _scaled(trained, champion.temperature if calibrated else 1.0)
        test = quantised.test if quantised else test
        metrics = list(_metrics(row, champion, test, calibrated))
        sets = _sets(row, champion, test) if calibrated else {}
    settings = job.recipe.params() | {"seed": job.seed}
    return environment.from_string(template).render(
        results=results,
        job=job,
        recipe=job.recipe,
        classes=champion.class_names,
        preprocessing=champion.preprocessing,
        reading=_reading(champion),
        loading=LOADING[format],
        dtype=champion.examples.dtype.name,
        calibrated=calibrated,
        temperature=champion.temperature,
        temperature_from_prior=_from_prior(results, champion),
        conformal=champion.conformal if calibrated else None,
        sets=sets,
        titles=TITLES,
        license=license,
        difference=difference,
        images=images,
        quantised=quantised
        and markdown_table(
            ("on the test split", "float32", "int8"), *changes_table(quantised.changes)
        ),
        split=results.split,
        runs=len(best.seeds) if best else 0,
        metrics=metrics
        and markdown_table(
            (
                "metric",
                "this model",
                "95 % interval",
                "over seeds, float32" if quantised else "over seeds",
            ),
            *metrics,
        ),
        teachers=_teachers(results, champion),
        cautions=cautions(results.rows),
        brief=brief,
        source=source,
        settings=markdown_table(
            ("setting", "value"), *((name, setting(value)) for name, value in settings.items())
        ),
        extensions=_extensions(champion),
        parameters=parameter_count(best.parameters) if best else "",
        versions=", ".join(f"{name} {version}" for name, version in results.versions.items()),
    )


def _from_prior(results: StudyResults, champion: StudentModel) -> bool:
    """Whether validation predictions do not determine the temperature of this model."""
    best = results.best
    if best is None or champion.job.id not in best.job_ids:
        return False
    predictions = best.validation[best.job_ids.index(champion.job.id)]
    return not determines_temperature(predictions.log_probabilities, predictions.labels)


def _reading(champion: StudentModel) -> str:
    """The code from an image file to `images`; empty where inputs are no images."""
    steps = champion.preprocessing
    if steps.real_valued:
        return ""
    sizes = {"height": steps.height, "width": steps.width}
    square = sizes if steps.resize is None else dict.fromkeys(sizes, steps.resize)
    fit = FITTING.format(**square) if steps.fit else ""
    if steps.resize is not None:
        fit += MIDDLE.format(**sizes)
    mode = "L" if steps.channels == 1 else "RGB"
    return READING.format(mode=mode, fit=fit, channels=steps.channels, **sizes)


def _best_row(results: StudyResults, champion: StudentModel) -> Row | None:
    """The runs that this model is one of, evaluated."""
    for row in results.rows:
        if row.contender.found and champion.job.id in row.contender.job_ids and row.runs:
            return row
    return None


def _scaled(predictions: Predictions, temperature: float) -> Predictions:
    scaled = with_temperature(predictions.log_probabilities, temperature)
    return Predictions(scaled, predictions.labels)


def _metrics(
    row: Row, champion: StudentModel, test: Predictions, calibrated: bool
) -> Iterator[tuple[str, str, str, str]]:
    """A line per metric: its name, this model's value, the interval over test samples, mean and
    spread over seeds. All are after temperature scaling where the model is.
    """
    values = score(test.log_probabilities, test.labels)
    intervals = bootstrap(sample_scores(test))
    runs: Sequence[Mapping[str, float]] = row.runs
    if calibrated:
        scaled = map(_scaled, row.predictions, row.temperatures)
        runs = [score(run.log_probabilities, run.labels) for run in scaled]
    else:
        values |= calibrated_score(test.log_probabilities, test.labels, champion.temperature)
        intervals |= bootstrap({"cnll": calibrated_nll(test, champion.temperature)})
    for name in METRICS:
        if name in values and name in runs[0]:
            interval = intervals.get(name)
            bounds = ""
            if interval is not None:
                low, high = metric_text(name, interval.low), metric_text(name, interval.high)
                bounds = f"{low} to {high}"
            value = metric_text(name, values[name])
            yield title_of(name), value, bounds, Cell.of(run[name] for run in runs).text(name)


def _sets(row: Row, champion: StudentModel, test: Predictions) -> dict[str, list[str]]:
    """How this model's sets of classes did on the test split, for each score."""
    texts = {}
    for name, threshold in champion.thresholds.items():
        kind = cast(Score, name)
        sets = conformal(test.log_probabilities, test.labels, kind, threshold)
        texts[name] = ConformalRow(row, {kind: (sets,)}).texts(kind)
    return texts


def _teachers(results: StudyResults, champion: StudentModel) -> str:
    """What the teachers are, and how accurate."""
    count = len(champion.job.teachers)
    if not count:
        return "None: this student learned from the labels alone."
    jobs = ", ".join(champion.job.teachers)
    sentences = [f"{count} networks, jobs {jobs}."]
    if champion.job.calibrated:
        temperatures = {teacher.job_id: teacher.temperature for teacher in results.calibrated}
        calibrated = [
            f"{teacher} by {temperatures[teacher]:.4g}" for teacher in champion.job.calibrated
        ]
        sentences.append(
            "It learned from calibrated logits, divided by a temperature fitted on the validation "
            f"split: {listed(calibrated)}."
        )
    rows = [row for row in results.rows if row.runs and "accuracy" in row.cells]
    for row in rows:
        if row.contender.is_teacher:
            params = row.contender.params
            accuracy = metric_text("accuracy", row.cells["accuracy"].mean)
            sentences.append(
                f"{row.contender.label}: {params['model']}, "
                f"{counted(int(params['epochs']), 'epoch')} with "
                f"augmentation {params['augmentation']}, accuracy {accuracy} % on average."
            )
        elif row.contender.name == ENSEMBLE:
            accuracy = metric_text("accuracy", row.cells["accuracy"].mean)
            sentences.append(f"Together their accuracy is {accuracy} %.")
    return for_markdown(" ".join(sentences))


def _extensions(champion: StudentModel) -> str:
    """The extensions that the model was trained with, and which it needs to run."""
    used = extensions_of(champion.job.recipe)
    if not used:
        return ""
    needed = extensions_for_inference(champion.job.recipe)
    sentence = f"Trained with {listed([extension.title for extension in used])}. "
    if not needed:
        return for_markdown(sentence + "The model runs without.")
    return for_markdown(
        sentence + f"The network needs {listed([extension.title for extension in needed])}."
    )


def _yaml_text(text: str) -> str:
    """`text` as a value in the front matter, quoted where YAML would take it for anything else."""
    return text if re.fullmatch(r"[A-Za-z][\w.+-]*", text) else json.dumps(text)
