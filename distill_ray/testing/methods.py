"""What every method must keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from distill_ray.augmentation import (
    Additional,
    Augmentation,
    AugMix,
    CropFlip,
    CutMix,
    Mixup,
)
from distill_ray.job import Job
from distill_ray.methods import METHODS, Method
from distill_ray.methods.method import Setup, Student
from distill_ray.testing.cases import Conformance, is_accepted, settings_label
from distill_ray.testing.jobs import (
    CPU,
    MODEL,
    PRECISION,
    first_batch,
    result_of,
    small_dataset,
    small_job,
    train_to_end,
    untrained_teachers,
    without_times,
)
from distill_ray.testing.two_workers import results_of_two_workers
from distill_ray.training import load_network, predict
from distill_ray.training.loop import make_network

AUGMENTATIONS_TRIED: tuple[Augmentation, ...] = (
    CropFlip(),
    Mixup(),
    CutMix(),
    AugMix(),
    AugMix(consistency=True),
    Additional(scheme="flip"),
    Additional(scheme="mixup", per="image"),
    Additional(scheme="cutmix", pick="student-entropy"),
    Additional(scheme="cutmix", pick="teacher-entropy"),
    Additional(scheme="cutmix", pick="kl"),
)
"""One augmentation of each kind that a method may meet: one or several parts, versions, picks."""


def fitting(method: Method, model: str = MODEL) -> list[Augmentation]:
    """Those of `AUGMENTATIONS_TRIED` that `method` accepts."""
    return [
        augmentation
        for augmentation in AUGMENTATIONS_TRIED
        if is_accepted(method.check_fit, model=model, augmentation=augmentation, teachers=2)
    ]


class MethodConformance(Conformance):
    """A method trains, resumes, is saved and shares its batches as the training loop expects.

    For `methods` of classification, which must be registered.
    """

    methods: ClassVar[Sequence[Method]]
    argument = "method"

    def cases(self) -> Sequence[Method]:
        return self.methods

    def label(self, case: Method) -> str:
        return settings_label(case)

    def test_it_is_registered_under_its_name(self, method: Method) -> None:
        assert METHODS[method.name] is type(method)

    def test_gradients_reach_the_student_and_nothing_else(self, method: Method) -> None:
        """With each kind of augmentation that the method accepts, one at least."""
        dataset = small_dataset()
        augmentations = fitting(method)
        assert augmentations
        for augmentation in augmentations:
            job = small_job(method, augmentation)
            teachers = untrained_teachers(job, dataset)
            weights_of_teachers = [
                parameter.requires_grad_()
                for network in teachers.networks
                for parameter in network.parameters()
            ]
            setup = Setup(
                len(job.teachers),
                teachers.networks,
                dataset.train,
                dataset.labels[dataset.train],
                dataset.image_shape,
            )
            network = method.student(make_network(job, dataset), setup).train()

            terms = method.loss(
                Student(network, network), first_batch(augmentation, dataset), teachers
            )
            for term in terms.values():
                assert term.shape == ()
                assert term.dtype == torch.float32
                assert term.isfinite()
            terms["loss"].backward()

            gradients = {name: weight.grad for name, weight in network.named_parameters()}
            assert [name for name, gradient in gradients.items() if gradient is None] == []
            present = [gradient for gradient in gradients.values() if gradient is not None]
            assert all(gradient.isfinite().all() for gradient in present)
            assert sum(bool(gradient.any()) for gradient in present) >= 4
            assert all(weight.grad is None for weight in weights_of_teachers)
            assert network.training

    @pytest.mark.parametrize(("channels", "num_classes"), [(1, 2), (3, 5)])
    def test_a_job_from_beginning_to_end(
        self, method: Method, channels: int, num_classes: int
    ) -> None:
        """Any channels and classes; the same again after an interruption; the weights saved
        predict what was predicted.
        """
        dataset = small_dataset(channels, num_classes)
        job = small_job(method, fitting(method)[0])
        assert Job.from_dict(job.to_dict()) == job
        teachers = untrained_teachers(job, dataset) if job.teachers else None
        checkpoints: list[bytes] = []
        torch.manual_seed(1)
        records, outcome = train_to_end(
            job, dataset, teachers, save=lambda pack: checkpoints.append(pack())
        )
        assert outcome.log_probabilities.shape == (9, num_classes)
        assert outcome.log_probabilities.dtype == np.float32
        np.testing.assert_allclose(np.exp(outcome.log_probabilities).sum(1), 1, rtol=1e-5)

        torch.manual_seed(2)
        resumed, again = train_to_end(job, dataset, teachers, saved=checkpoints[0])
        assert list(map(without_times, resumed)) == list(map(without_times, records))
        assert outcome.weights.keys() == again.weights.keys()
        for name, weight in again.weights.items():
            assert torch.equal(outcome.weights[name], weight), name

        network = load_network(job, outcome.weights, dataset)
        predictions = predict(network, dataset.images, dataset.validation, worker=CPU)
        np.testing.assert_allclose(predictions, outcome.log_probabilities, atol=1e-5)
        assert sum(parameter.numel() for parameter in network.parameters()) == outcome.parameters

    def test_half_precision_changes_little(self, method: Method) -> None:
        """What is trained stays float32, and so do losses; only forward passes are rounded."""
        job = small_job(method, fitting(method)[-1], epochs=1, lr=0.0003, precision="fp32")
        half = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, precision="bf16"))
        dataset = small_dataset()
        teachers = untrained_teachers(job, dataset) if job.teachers else None
        records, outcome = train_to_end(job, dataset, teachers)
        rounded, rounded_outcome = train_to_end(half, dataset, teachers)
        assert rounded[0]["train/loss"] == pytest.approx(
            records[0]["train/loss"], rel=0.05, abs=0.02
        )
        for name, weight in rounded_outcome.weights.items():
            assert weight.dtype == outcome.weights[name].dtype == torch.float32, name
        np.testing.assert_allclose(
            rounded_outcome.log_probabilities, outcome.log_probabilities, atol=0.05
        )

    def test_two_workers_train_what_one_does(self, tmp_path: Path) -> None:
        """Batches of nine, and one of five, shared by two: steps differ from those of one worker by
        rounding alone.
        """
        check_two_workers(self.jobs_of_two_workers(), tmp_path)

    def jobs_of_two_workers(self) -> list[Job]:
        """What two workers train together: each method with the first augmentation that fits.
        Layers that normalise over a batch, which the method may add, see the images of both.
        """
        return [
            small_job(method, fitting(method)[0], sync_batch_norm=True) for method in self.methods
        ]


def check_two_workers(jobs: Sequence[Job], folder: Path) -> None:
    """Assert that two workers give the same weights as each other, and in fp32 those of one but for
    rounding. `folder` is an empty one.
    """
    dataset = small_dataset()
    for job, (first, second) in zip(jobs, results_of_two_workers(jobs, folder), strict=True):
        recipe = job.recipe
        where = f"{settings_label(recipe.method)} with {settings_label(recipe.augmentation)}"
        for name, value in result_of(job).items():
            assert torch.equal(first[name], second[name]), f"{where}: {name}"
            # In bf16 each worker rounds its own part of a gradient. Methods that divide by small
            # norms or spreads, relational ones and z-scores, then drift far from one worker.
            if PRECISION != "bf16":
                assert torch.allclose(first[name], value, rtol=1e-3, atol=2e-5), f"{where}: {name}"
        weights = {
            name.removeprefix("weights/"): value
            for name, value in first.items()
            if name.startswith("weights/")
        }
        deployed = predict(
            load_network(job, weights, dataset), dataset.images, dataset.validation, worker=CPU
        )
        np.testing.assert_allclose(first["predictions"].numpy(), deployed, atol=1e-5)
