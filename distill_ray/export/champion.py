"""From the results of a study to a folder with its best student, which is there only when it has
passed its check.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill_ray.errors import RequestError, RunError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.export.card import model_card
from distill_ray.export.int8 import Change, Quantised
from distill_ray.export.load import GRAPH, open_model
from distill_ray.job import Data
from distill_ray.records import WEIGHTS, find_job
from distill_ray.report.results import StudyResults
from distill_ray.report.summary import best_settings
from distill_ray.store import Store
from distill_ray.task import Task
from distill_ray.tracking.champion import StudentModel, write_description
from distill_ray.training.dataset import load_split

TOLERANCE = 1e-4
"""How far a probability of the exported model may be from the trained student's: the rounding of
float32 in another order.
"""

IMAGES = 256
"""How many images of the test split the check looks at."""


@dataclass(frozen=True)
class Exported:
    """A checked export: the largest difference of a probability from the trained student's, over so
    many images; `changes` is what int8 has changed.
    """

    folder: Path
    difference: float
    images: int
    changes: tuple[Change, ...] = ()


def find_champion(results: StudyResults, store: Store, data: Data) -> StudentModel:
    """The best student of a study on `data` with its weights, ready to be exported. Raises
    `RequestError` when there is none yet, or when the study is a regression.
    """
    _check_task(results.name, results.task)
    champion = results.champion
    finished = find_job(store, champion.job_id) if champion else None
    if champion is None or finished is None:
        raise RequestError(
            f"study {results.name} has no champion yet; finish it with `distill-ray run`"
        )
    images = load_split(data, "test")
    return StudentModel(
        job=replace(finished.job, data=data),
        weights=finished.record.read(WEIGHTS),
        class_names=images.class_names,
        examples=images.images[:4],
        temperature=champion.temperature,
        description=f"Best student of study {results.name}: {best_settings(results)}",
        coverage=results.coverage,
        thresholds=champion.thresholds,
    )


def export_champion(
    results: StudyResults,
    store: Store,
    data: Data,
    out: Path,
    *,
    format: str,
    calibrated: bool = True,
    license: str = "unknown",
    most_lost: float | None = None,
) -> Exported:
    """Write the best student of a study into the new folder `out`, with its model card.

    The model takes uint8 images (N, H, W, C) and returns float32 probabilities (N, K), after
    temperature scaling when `calibrated`. It is loaded again and compared with the trained student
    on images of the test split; `out` is made only when no probability differs by more than
    `TOLERANCE`. In int8 they do, and are compared on the whole test split instead; `most_lost` is
    how many points of accuracy that may cost.

    Raises `RequestError` when there is no champion, `out` is taken or a package is missing,
    `RunError` when the check fails.
    """
    from distill_ray.export.formats import WRITERS

    _check_free(out)
    champion = find_champion(results, store, data)
    exported = champion if calibrated else replace(champion, temperature=1.0, thresholds={})
    with _explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as staging:
            folder = Path(staging, "model")
            folder.mkdir()
            WRITERS[format](exported, folder)
            within = 1.0 if format == "onnx-int8" else TOLERANCE
            check = _check(exported, folder, format, within=within)
            quantised = None
            if format == "onnx-int8":
                quantised = _quantised(exported, folder, Path(staging, "float32"), most_lost)
                champion = replace(champion, thresholds=quantised.thresholds)
            card = model_card(
                results,
                champion,
                format=format,
                calibrated=calibrated,
                license=license,
                difference=check.difference,
                images=check.images,
                quantised=quantised,
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            folder.rename(out)  # an empty folder may be there
    return replace(check, folder=out, changes=quantised.changes if quantised else ())


def _quantised(
    champion: StudentModel, folder: Path, plain: Path, most_lost: float | None
) -> Quantised:
    """What int8 has changed; the thresholds in `champion.json` become those of the student in int8.
    Raises `RunError` where the change is more than the user allows.
    """
    from distill_ray.export.formats import WRITERS
    from distill_ray.export.int8 import measure

    plain.mkdir()
    WRITERS["onnx"](champion, plain)
    quantised = measure(champion, plain, folder)
    accuracy = quantised.changes[0]
    lost = accuracy.before - accuracy.after
    if most_lost is not None and lost > most_lost:
        raise RunError(
            f"int8 costs {lost:.2f} points of accuracy on the test split ({accuracy.before:.2f} % "
            f"to {accuracy.after:.2f} %), and --most-lost allows {most_lost:g}; nothing was "
            "written"
        )
    write_description(replace(champion, thresholds=quantised.thresholds), folder, GRAPH)
    return quantised


def check_exportable(study: str, task: Task, out: Path) -> None:
    """Raise `RequestError` when the champion of the study named `study` could not be written into
    `out` once there is one: the study is a regression, or `out` is taken.
    """
    _check_task(study, task)
    _check_free(out)


def _check_task(study: str, task: Task) -> None:
    if task == "regression":
        raise RequestError(
            f"study {study} is a regression, and only classifiers are exported; the weights of its "
            "champion are in the store, under the champion's job"
        )


def _check_free(out: Path) -> None:
    """Raise `RequestError` unless `out` is a name for a new folder, or an empty folder."""
    with _explained(out):
        try:
            mode = out.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode):
            raise RequestError(f"{for_terminal(str(out))} is a link; name a new folder")
        if not stat.S_ISDIR(mode) or any(out.iterdir()):
            raise RequestError(
                f"{for_terminal(str(out))} is there already and not empty; name a new folder"
            )


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Turn what the file system says against `out` into a `RequestError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RequestError(
            f"{for_terminal(str(out))}: cannot be made ({reason}); name another folder"
        ) from None


def _check(champion: StudentModel, folder: Path, format: str, *, within: float) -> Exported:
    """Load the model again and compare it with the trained student. Raises `RunError` when a
    probability differs by more than `within`.
    """
    images, expected = _trained(champion)
    probabilities = open_model(folder, device="cpu").predict(images)
    difference = float(np.abs(probabilities - expected).max())
    if not difference <= within:
        raise RunError(
            f"the model in format {format} gives other probabilities than the trained student: "
            f"one differs by {difference:.2g} over {len(images)} test images, {within:g} is "
            "allowed; nothing was written"
        )
    return Exported(folder, difference, len(images))


def _trained(champion: StudentModel) -> tuple[np.ndarray, np.ndarray]:
    """Images of the test split, and their probabilities by the student of the training code, in
    float32 on the CPU.
    """
    import torch
    from safetensors.torch import load

    from distill_ray.training import Worker, load_dataset, load_network, predict

    job = champion.job
    network = load_network(job, load(champion.weights), load_dataset(job.data))
    images = np.array(load_split(job.data, "test").images[:IMAGES])
    logs = predict(
        network,
        images,
        np.arange(len(images)),
        worker=Worker(torch.device("cpu")),
        precision="fp32",
    )
    scaled = torch.log_softmax(torch.from_numpy(logs) / champion.temperature, dim=1)
    return images, scaled.exp().numpy()
