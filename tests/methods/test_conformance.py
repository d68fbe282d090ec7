"""Every method of the package in the tests that `distill_ray.testing` has for methods."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest

from distill_ray.augmentation import AUGMENTATIONS, AugMix, CropFlip
from distill_ray.job import Job
from distill_ray.methods import (
    CRD,
    DIST,
    DKD,
    METHODS,
    MLKD,
    NKD,
    PKT,
    RKD,
    SP,
    AttentionTransfer,
    AugmentedKD,
    DropoutKD,
    EnDD,
    EnsembleKD,
    FitNet,
    GaussianKD,
    Hydra,
    HydraPlus,
    LatentBE,
    Method,
    ProxyEnDD,
    ReviewKD,
    Supervised,
)
from distill_ray.testing import MethodConformance
from distill_ray.testing.cases import settings_label
from distill_ray.testing.jobs import small_job
from distill_ray.testing.methods import AUGMENTATIONS_TRIED, fitting

METHODS_TRIED: tuple[Method, ...] = (
    Supervised(),
    EnsembleKD(combine="mean-loss", teacher_weights=(1.0, 3.0)),
    EnsembleKD(combine="confident", standardise=True, divergence="jensen-shannon"),
    LatentBE(alpha=0.7),
    LatentBE(perturb="tdiv-sdiv", merge="mean-of-products"),
    Hydra(heads=3, depth=1),
    HydraPlus(heads=3, depth=1, diversity_bias="joined"),
    EnDD(),
    AugmentedKD(mixed_labels=0.5),
    CRD(negatives=7, embedding=5),
    DropoutKD(samples=3),
    GaussianKD(samples=3),
    DKD(combine="confident"),
    NKD(temperature=2.0),
    DIST(combine="mean-loss", teacher_weights=(1.0, 3.0), standardise=True, temperature=1.0),
    MLKD(combine="mean-loss", pairs=5.0, class_pairs=5.0),
    RKD(alpha=0.5),
    SP(features="concatenated"),
    PKT(teacher_weights=(1.0, 3.0)),
    FitNet(),
    AttentionTransfer(attention=10.0, alpha=0.5),
    ReviewKD(),
    ProxyEnDD(),
    ProxyEnDD(direction="forward"),
)


class TestMethods(MethodConformance):
    methods = METHODS_TRIED

    @pytest.mark.slow
    def test_two_workers_train_what_one_does(self, tmp_path: Path) -> None:
        super().test_two_workers_train_what_one_does(tmp_path)

    def jobs_of_two_workers(self) -> list[Job]:
        """Picking needs the images of both workers: each pick with several methods. Besides,
        recipes that keep more than the weights.
        """
        picks = [augmentation for augmentation in AUGMENTATIONS_TRIED if augmentation.picks] * 4
        jobs = super().jobs_of_two_workers()
        for method, augmentation in zip(cycle(METHODS_TRIED), picks, strict=False):
            if augmentation in fitting(method):
                jobs.append(small_job(method, augmentation))
        jobs.append(small_job(Supervised(), CropFlip(), ema=0.8))
        jobs.append(small_job(LatentBE(), CropFlip(), ema=0.8, optimizer="adamw", lr=0.001))
        jobs.append(small_job(Supervised(), CropFlip(), accumulate=2, clip_norm=0.5))
        for model in ("resnet8", "pre-wrn-10-1"):
            shared = {"model": model, "sync_batch_norm": True, "lr": 0.002}
            jobs.append(small_job(Supervised(), CropFlip(), **shared))
        return jobs


def test_every_registered_method_is_tried() -> None:
    assert {method.name for method in METHODS_TRIED} == set(METHODS)


def test_which_augmentations_fit_which_methods() -> None:
    assert {augmentation.name for augmentation in AUGMENTATIONS_TRIED} <= set(AUGMENTATIONS)
    refused = {
        (method.name, settings_label(augmentation))
        for method in METHODS_TRIED
        for augmentation in AUGMENTATIONS_TRIED
        if augmentation not in fitting(method)
    }
    picking, plain = set(), set()
    for augmentation in AUGMENTATIONS_TRIED:
        label = settings_label(augmentation)
        if augmentation.picks:
            picking.add(label)
        if augmentation.part_count == 1:
            plain.add(label)
    learners = {method.name for method in METHODS_TRIED} - {"supervised"}
    assert refused == {
        *(("supervised", augmentation) for augmentation in picking),
        *((method, settings_label(AugMix(consistency=True))) for method in learners),
        *((method, augmentation) for method in ("augmented-kd", "mlkd") for augmentation in plain),
        *(("crd", augmentation) for augmentation in ("mixup", "cutmix")),
    }
