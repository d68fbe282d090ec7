"""The uncertainty of a study's networks and its sources: on the test split, shifted test images and
out-of-distribution images.

The networks are loaded from the store and evaluated in this process; nothing is trained or written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_ray.augmentation.kernels.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    corrupted,
    refusal,
)
from distill_ray.augmentation.kernels.shifts import LEVELS, shifted
from distill_ray.data import open_source
from distill_ray.data.foreign import TEST, Kind, find_foreign, frame_of
from distill_ray.errors import RequestError, StoreError
from distill_ray.execution.judging import JudgingNetwork
from distill_ray.job import Data
from distill_ray.metrics import score
from distill_ray.metrics.judgement import Judgement, pooled, separations
from distill_ray.metrics.uncertainty import Uncertainty, total_variation
from distill_ray.records import JobRecord, find_job
from distill_ray.report.results import ENSEMBLE, SCRATCH, Contender
from distill_ray.report.table import Cell
from distill_ray.report.uncertainty import UncertaintyRow
from distill_ray.stages.shifted_sets import shifted_sets
from distill_ray.store import Store
from distill_ray.training import Worker, load_split

CORRUPTED = "corruptions"
"""The mean over all corruptions; `corruptions/fog` is one of them."""

_SEED = 0  # of what is random in corruptions: every study's images are corrupted alike


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W, C) to evaluate networks on, with their labels (N,), or None where they
    belong to no class.

    `name` says what they are; the levels of one shift have the same name. `kind` is what a foreign
    set was declared as.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    kind: Kind = ""


def uncertainties(
    contenders: Sequence[Contender],
    store: Store,
    data: Data,
    *,
    foreign: Mapping[str, Kind] | None = None,
    shifts: bool = False,
    corruptions: bool = False,
    shifted_from: Sequence[str] = (),
    resize: bool = False,
) -> list[UncertaintyRow]:
    """A row for each contender and set of images: the test split, the shifted and the corrupted
    test images, each of the `foreign` data sets.

    The ensemble of teachers comes first; means of students are left out, and teachers whose
    networks are not here. `foreign` names data sets
    as `data.source` does, each with its kind; `resize` brings their images to the size and channels
    of the study's, where they differ. `shifted_from` names labelled images under a shift, see
    `shifted_sets`.

    Raises `RequestError` for a data set that cannot be shown to the networks, `StoreError` for a
    network that is gone.
    """
    evaluated = [
        contender
        for contender in contenders
        if contender.name == ENSEMBLE or contender.members == 1
    ]
    # Teachers that are known by their answers alone cannot be shown images
    records = {job: _record(store, job) for contender in evaluated for job in contender.job_ids}
    absent = {job for job, record in records.items() if record.job.recipe.answers_alone}
    evaluated = [contender for contender in evaluated if not absent & set(contender.job_ids)]
    device = Worker.here().device
    shown = {job for contender in evaluated for job in contender.job_ids}
    networks = {job: JudgingNetwork.of(records[job], device) for job in shown}
    # Of every contender its uncertainty on the test split, run by run
    familiar: dict[str, list[Judgement]] = {}
    # Of every set of images and contender, for each level of a shift, the measures run by run
    measures: dict[tuple[str, str], list[list[dict[str, float]]]] = {}
    kinds: dict[str, Kind] = {}
    for images in _sets(data, foreign or {}, shifts, corruptions, shifted_from, resize):
        kinds[images.name] = images.kind
        judged = {job: network.judge(images.images) for job, network in networks.items()}
        reference: Uncertainty | None = None
        for contender in evaluated:
            network = networks[contender.job_ids[0]]
            runs = [judged[job] for job in contender.job_ids]
            if contender.name == ENSEMBLE:  # one run of all its members
                runs = [pooled(runs)]
            if images.name == TEST:
                familiar[contender.name] = runs
            if contender.name == ENSEMBLE:
                reference = runs[0].uncertainty
            measured = []
            for run, before in zip(runs, familiar[contender.name], strict=True):
                values = {} if images.labels is None else score(run.prediction, images.labels)
                values |= _means(run.uncertainty)
                if images.name != TEST:
                    values |= separations(before, run)
                if contender.name != ENSEMBLE and reference is not None:
                    values |= _fidelity(run.uncertainty, reference, network)
                measured.append(values)
            measures.setdefault((images.name, contender.name), []).append(measured)
    labels = {contender.name: contender.label for contender in evaluated}
    rows = [
        UncertaintyRow(name, labels[name], on, _cells(levels), kinds[on])
        for (on, name), levels in measures.items()
    ]
    if corruptions:
        relative = _mean_corruption_errors(measures, list(labels))
        for name, label in labels.items():
            levels = [
                level for kind in CORRUPTIONS for level in measures[f"{CORRUPTED}/{kind}", name]
            ]
            cells = _cells(levels) | relative.get(name, {})
            rows.append(UncertaintyRow(name, label, CORRUPTED, cells, over=len(CORRUPTIONS)))
    return rows


def _mean_corruption_errors(
    measures: Mapping[tuple[str, str], Sequence[Sequence[Mapping[str, float]]]],
    contenders: Sequence[str],
) -> dict[str, dict[str, Cell]]:
    """The mean corruption error (mCE) of every contender, 1 for the reference: the student from
    scratch, or the ensemble where there is none.

    For each run and corruption the sum of its errors over the severities is divided by that of the
    reference, its mean over runs; the mean over corruptions. Source: Hendrycks & Dietterich 2019,
    section 4.2. Nothing where there is no reference, no accuracy, or a corruption under which the
    reference makes no error.
    """
    reference = SCRATCH if SCRATCH in contenders else ENSEMBLE
    if reference not in contenders:
        return {}
    if "accuracy" not in measures[f"{CORRUPTED}/{CORRUPTIONS[0]}", reference][0][0]:
        return {}
    errors = {
        # (corruptions, severities, runs), the mean over severities
        name: np.array(
            [
                [
                    [1 - run["accuracy"] for run in level]
                    for level in measures[f"{CORRUPTED}/{kind}", name]
                ]
                for kind in CORRUPTIONS
            ]
        ).mean(axis=1)
        for name in contenders
    }
    of_reference = errors[reference].mean(axis=1, keepdims=True)
    if not of_reference.all():
        return {}
    return {
        name: {f"mce-{reference}": Cell.of((of_contender / of_reference).mean(axis=0).tolist())}
        for name, of_contender in errors.items()
    }


def _record(store: Store, job_id: str) -> JobRecord:
    record = find_job(store, job_id)
    if record is None:
        raise StoreError(f"store {store.shown}: job {job_id} is gone; run the study again")
    return record


def _sets(
    data: Data,
    foreign: Mapping[str, Kind],
    shifts: bool,
    corruptions: bool,
    shifted_from: Sequence[str],
    resize: bool,
) -> Iterator[ImageSet]:
    test = load_split(data, "test")
    images, labels = test.images[:], test.labels  # a test split fits into memory
    others = [(name, _foreign(name, kind, data, resize)) for name, kind in foreign.items()]
    if (shifts or corruptions) and images.dtype != np.uint8:
        raise RequestError(
            f"{data.name}: its inputs are real numbers, which cannot be shifted or turned as "
            "images can"
        )
    refused = refusal(images.shape[1:]) if corruptions else None
    if refused is not None:
        raise RequestError(f"--corruptions: {data.name}: {refused}")
    classes = tuple(test.class_names)
    imported = [shifted_sets(place, images.shape[1:], classes) for place in shifted_from]
    yield ImageSet(TEST, images, labels)
    for kind, amounts in LEVELS.items() if shifts else ():
        for amount in amounts:
            yield ImageSet(kind, shifted(images, kind, amount), labels)
    for kind in CORRUPTIONS if corruptions else ():
        for severity in SEVERITIES:
            pixels = corrupted(images, kind, severity, _SEED)
            yield ImageSet(f"{CORRUPTED}/{kind}", pixels, labels)
    for name, pixels, truth in itertools.chain(*imported):
        yield ImageSet(name, pixels, truth)
    for name, pixels in others:
        yield ImageSet(name, pixels, None, foreign[name])


def _foreign(name: str, kind: Kind, data: Data, resize: bool) -> np.ndarray:
    source = open_source(data.location, label=data.label, cuts_test=data.cuts_test)
    frame = frame_of(source, data.size, data.resize)
    try:
        return find_foreign(name, frame, resize=resize).load()
    except RequestError as error:
        raise RequestError(f"--{kind or 'foreign'} {name}: {error}") from None


def _means(uncertainty: Uncertainty) -> dict[str, float]:
    return {
        name: float(getattr(uncertainty, name).mean())
        for name in ("total", "aleatoric", "epistemic")
    }


def _fidelity(
    uncertainty: Uncertainty, reference: Uncertainty, network: JudgingNetwork
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
