"""The uncertainty of a study's networks and its sources: on the test split, shifted test images and
out-of-distribution images.

The networks are loaded from the store and evaluated in this process; nothing is trained or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from distill_ray.augmentation.kernels.shifts import LEVELS, shifted
from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError, StoreError
from distill_ray.execution.train_job import cached_dataset
from distill_ray.job import Data
from distill_ray.methods import EnDD
from distill_ray.methods.mixture import MeanPrediction
from distill_ray.metrics import mean_log_probabilities, score
from distill_ray.metrics.regression import mixture
from distill_ray.metrics.uncertainty import (
    Uncertainty,
    auroc,
    decompose,
    decompose_dirichlet,
    total_variation,
)
from distill_ray.records import find_job
from distill_ray.report.results import ENSEMBLE, Contender
from distill_ray.report.table import Cell
from distill_ray.store import Store
from distill_ray.task import Task
from distill_ray.training import Worker, load_network, load_split, predict

TEST = "test"


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W, C) to evaluate networks on, with their labels (N,), or None where they
    belong to no class.

    `name` says what they are; the levels of one shift have the same name.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class UncertaintyRow:
    """One contender on one set of images: mean and spread of every measure over its runs.

    - accuracy, nll, ece and the other scores, where images have labels;
    - total, aleatoric, epistemic: means over the images. In nats for classification, where the
      first is the entropy of the prediction; standard deviations for regression. A network without
      members, heads or samples has no epistemic uncertainty;
    - auroc: how well the total uncertainty separates these images from the test split;
      epistemic-auroc: the epistemic one;
    - total-tv, epistemic-tv: total-variation distance, 0 to 1, of the histograms over images from
      those of the ensemble.

    With several levels of a shift, a run's value is the mean over them.
    """

    contender: str
    label: str
    on: str
    cells: Mapping[str, Cell]


def uncertainties(
    contenders: Sequence[Contender],
    store: Store,
    data: Data,
    *,
    foreign: Sequence[str] = (),
    shifts: bool = False,
    resize: bool = False,
) -> list[UncertaintyRow]:
    """A row for each contender and set of images: the test split, the shifted test images, each of
    the `foreign` data sets.

    The ensemble of teachers comes first; means of students are left out. `foreign` names data sets
    as `data.source` does; `resize` brings their images to the size and channels of the study's,
    where they differ.

    Raises `RequestError` for a data set that cannot be shown to the networks, `StoreError` for a
    network that is gone.
    """
    evaluated = [each for each in contenders if each.name == ENSEMBLE or each.members == 1]
    networks = {job: _Network.of(store, job) for each in evaluated for job in each.job_ids}
    # Of every contender its uncertainty on the test split, run by run
    familiar: dict[str, list[Uncertainty]] = {}
    # Of every set of images and contender, for each level of a shift, the measures run by run
    measures: dict[tuple[str, str], list[list[dict[str, float]]]] = {}
    for images in _sets(data, foreign, shifts, resize):
        predictions = {job: network.predict(images.images) for job, network in networks.items()}
        reference: Uncertainty | None = None
        for contender in evaluated:
            network = networks[contender.job_ids[0]]
            runs = _judge_runs(contender, network, predictions, images.labels)
            uncertainty = [each for _, each in runs]
            if images.name == TEST:
                familiar[contender.name] = uncertainty
            if contender.name == ENSEMBLE:
                reference = uncertainty[0]
            measured = []
            for (scores, found), before in zip(runs, familiar[contender.name], strict=True):
                values = scores | _means(found)
                if images.name != TEST:
                    values |= _separation(before, found)
                if contender.name != ENSEMBLE and reference is not None:
                    values |= _fidelity(found, reference, network)
                measured.append(values)
            measures.setdefault((images.name, contender.name), []).append(measured)
    labels = {contender.name: contender.label for contender in evaluated}
    return [
        UncertaintyRow(name, labels[name], on, _cells(levels))
        for (on, name), levels in measures.items()
    ]


def _judge_runs(
    contender: Contender,
    network: _Network,
    predictions: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
) -> list[tuple[dict[str, float], Uncertainty]]:
    """The scores and the uncertainty of every run; an ensemble is one run of all its members."""
    jobs = contender.job_ids
    runs = [list(jobs)] if contender.name == ENSEMBLE else [[job] for job in jobs]
    return [_judge([predictions[job] for job in run], network, labels) for run in runs]


def _sets(data: Data, foreign: Sequence[str], shifts: bool, resize: bool) -> Iterator[ImageSet]:
    test = load_split(data, "test")
    images, labels = test.images[:], test.labels  # a test split fits into memory
    others = [(name, _foreign(name, images, resize)) for name in foreign]
    if shifts and images.dtype != np.uint8:
        raise RequestError(
            f"{data.name}: its inputs are real numbers, which cannot be shifted or turned as "
            "images can"
        )
    yield ImageSet(TEST, images, labels)
    for kind, amounts in LEVELS.items() if shifts else ():
        for amount in amounts:
            yield ImageSet(kind, shifted(images, kind, amount), labels)
    for name, pixels in others:
        yield ImageSet(name, pixels, None)


def _foreign(name: str, like: np.ndarray, resize: bool) -> np.ndarray:
    source = open_source(name)
    pixels = load_images(source, "test" if source.rows("test") else "train").images[:]
    if pixels.dtype != like.dtype:
        kinds = (
            ("pixels", "real numbers") if pixels.dtype == np.uint8 else ("real numbers", "pixels")
        )
        raise RequestError(
            f"--foreign {name}: its inputs are {kinds[0]}, those of the study {kinds[1]}"
        )
    if pixels.shape[1:] == like.shape[1:]:
        return pixels
    if not resize or pixels.dtype != np.uint8:
        shapes = f"its images are {pixels.shape[1:]}, those of the study {like.shape[1:]}"
        raise RequestError(
            f"--foreign {name}: {shapes} (height, width, channels); --resize makes them alike"
        )
    height, width, channels = like.shape[1:]
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    if images.shape[1] != channels:
        images = images.float().mean(1, keepdim=True).round().byte().expand(-1, channels, -1, -1)
    resized = nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True, eq=False)
class _Network:
    """The network of a finished job, opened to its members, heads or samples if it has some."""

    module: nn.Module
    dirichlet: bool
    task: Task
    classes: int

    @classmethod
    def of(cls, store: Store, job_id: str) -> _Network:
        record = find_job(store, job_id)
        if record is None:
            raise StoreError(f"store {store.shown}: job {job_id} is gone; run the study again")
        dataset, worker = cached_dataset(record.job.data), Worker.here()
        network = load_network(record.job, record.weights(), dataset).to(worker.device)
        module = network.members if isinstance(network, MeanPrediction) else network
        method = record.job.recipe.method
        return cls(module, isinstance(method, EnDD), dataset.task, dataset.num_classes)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Log-probabilities, or means and log-variances, of each member (M, N, K); raw logits of a
        Dirichlet distribution. In float32, as the network is deployed.
        """
        worker = Worker(Worker.here().device)
        raw: Task = "regression" if self.dirichlet else self.task
        outputs = predict(
            self.module,
            images,
            np.arange(len(images)),
            worker=worker,
            task=raw,
            batch_size=250,
        )
        return outputs.transpose(1, 0, 2) if outputs.ndim == 3 else outputs[None]


def _judge(
    outputs: Sequence[np.ndarray], network: _Network, labels: np.ndarray | None
) -> tuple[dict[str, float], Uncertainty]:
    """The scores of the mean prediction, none without labels, and the uncertainty (N,) with its
    sources.
    """
    members = np.concatenate(outputs).astype(np.float64)
    if network.task == "regression":
        mean, deviations = mixture(members[..., 0], np.exp(members[..., 1]))
        prediction = np.stack([mean, 2 * np.log(deviations.total)], axis=1)
        return {} if labels is None else score(prediction, labels), deviations
    if network.dirichlet:
        uncertainty = decompose_dirichlet(np.exp(members[0]))
        members = members - np.logaddexp.reduce(members, axis=-1, keepdims=True)
    else:
        uncertainty = decompose(members)
    return {} if labels is None else score(mean_log_probabilities(members), labels), uncertainty


def _means(uncertainty: Uncertainty) -> dict[str, float]:
    return {
        name: float(getattr(uncertainty, name).mean())
        for name in ("total", "aleatoric", "epistemic")
    }


def _separation(before: Uncertainty, uncertainty: Uncertainty) -> dict[str, float]:
    """How well the uncertainty tells these images from the test split."""
    values = {"auroc": auroc(before.total, uncertainty.total)}
    if uncertainty.epistemic.any():
        values["epistemic-auroc"] = auroc(before.epistemic, uncertainty.epistemic)
    return values


def _fidelity(
    uncertainty: Uncertainty, reference: Uncertainty, network: _Network
) -> dict[str, float]:
    """How far the histograms over images are from those of the ensemble; nothing for regression."""
    if network.task != "classification":
        return {}
    highest = float(np.log(network.classes))
    return {
        f"{name}-tv": total_variation(getattr(uncertainty, name), getattr(reference, name), highest)
        for name in ("total", "epistemic")
    }


def _cells(levels: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Cell]:
    """Over runs, of the means over levels."""
    runs = list(zip(*levels, strict=True))
    names = [name for name in runs[0][0] if all(name in level for run in runs for level in run)]
    return {
        name: Cell.of(float(np.mean([level[name] for level in run])) for run in runs)
        for name in names
    }
