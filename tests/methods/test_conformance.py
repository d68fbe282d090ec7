"""What every method must keep. Run as a script, this file is one of the two workers of
`test_two_workers`.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill_ray.augmentation import (
    AUGMENTATIONS,
    Additional,
    Augmentation,
    AugMix,
    CropFlip,
    CutMix,
    Mixup,
)
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import (
    CRD,
    METHODS,
    AugmentedKD,
    DropoutKD,
    EnDD,
    EnsembleKD,
    GaussianKD,
    Hydra,
    HydraPlus,
    LatentBE,
    Method,
    Supervised,
)
from distill_ray.methods.method import Setup, Student
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    Outcome,
    Worker,
    load_network,
    predict,
    train,
)
from distill_ray.training.device import AUTO_PRECISION
from distill_ray.training.loop import make_network

HERE = Worker(torch.device("cpu"))
MODEL = "lenet-4-mlp-6"
"""Without batch normalisation, whose statistics are each worker's own, so that workers must agree
but for rounding.
"""

SMALL: dict[str, list[Method]] = {
    "supervised": [Supervised()],
    "kd": [EnsembleKD(combine="mean-loss", weights=(1.0, 3.0))],
    "latent-be": [LatentBE(alpha=0.7), LatentBE(perturb="tdiv-sdiv", merge="mean-of-products")],
    "hydra": [Hydra(heads=3, depth=1)],
    "hydra+": [HydraPlus(heads=3, depth=1, diversity_bias="joined")],
    "endd": [EnDD()],
    "augmented-kd": [AugmentedKD(mixed_labels=0.5)],
    "crd": [CRD(negatives=7, embedding=5)],
    "drop": [DropoutKD(samples=3)],
    "gauss": [GaussianKD(samples=3)],
}
METHODS_TRIED = [method for methods in SMALL.values() for method in methods]

PICKS = ("student-entropy", "teacher-entropy", "kl")
AUGMENTATIONS_TRIED: list[Augmentation] = [
    CropFlip(),
    Mixup(),
    CutMix(),
    AugMix(),
    AugMix(consistency=True),
    Additional(scheme="flip"),
    Additional(scheme="mixup", per="image"),
    *(Additional(scheme="cutmix", pick=pick) for pick in PICKS),
]


def text(value: Method | Augmentation) -> str:
    changed = {
        name: setting
        for name, setting in value.to_dict().items()
        if setting != type(value)().to_dict()[name]
    }
    return ",".join([value.name, *(f"{name}={setting}" for name, setting in changed.items())])


def fits(method: Method, augmentation: Augmentation) -> bool:
    try:
        method.check_fit(model=MODEL, augmentation=augmentation, teachers=2)
    except ValueError:
        return False
    return True


def simplest_augmentation(method: Method) -> Augmentation:
    return next(augmentation for augmentation in AUGMENTATIONS_TRIED if fits(method, augmentation))


FITTING = [
    (method, augmentation)
    for method in METHODS_TRIED
    for augmentation in AUGMENTATIONS_TRIED
    if fits(method, augmentation)
]
every_method = pytest.mark.parametrize("method", METHODS_TRIED, ids=text)
every_fitting_pair = pytest.mark.parametrize(
    ("method", "augmentation"), FITTING, ids=lambda value: text(value)
)


def dataset_of(channels: int = 3, num_classes: int = 3) -> Dataset:
    """Twenty-three images to train on and nine for validation, 8 by 8."""
    images = np.random.default_rng(1).integers(0, 256, (32, 8, 8, channels), dtype=np.uint8)
    names = tuple(map(str, range(num_classes)))
    rows = np.random.default_rng(2).permutation(32)
    moments = (0.5,) * channels
    return Dataset(
        images,
        np.arange(32) % num_classes,
        np.sort(rows[:23]),
        np.sort(rows[23:]),
        names,
        moments,
        moments,
    )


def job_of(method: Method, augmentation: Augmentation, **settings: Any) -> Job:
    recipe = Recipe(
        model=MODEL,
        method=method,
        augmentation=augmentation,
        epochs=2,
        batch_size=9,
        lr=0.02,
        keep="best-nll",
    )
    data = Data(
        name="small", digest="0" * 32, location="small", label="label", split=Split(validation=9)
    )
    teachers = ("a", "b") if method.needs_teachers else ()
    return Job(recipe=dataclasses.replace(recipe, **settings), data=data, seed=3, teachers=teachers)


def teachers_of(job: Job, dataset: Dataset) -> LiveTeachers:
    networks = [
        make_network(dataclasses.replace(job, seed=10 + member), dataset)
        for member, _ in enumerate(job.teachers)
    ]
    for network in networks:
        network.classifier.weight.data.mul_(8)
    return LiveTeachers(networks, HERE.device, "fp32")


def finish(
    job: Job, dataset: Dataset, worker: Worker = HERE, **arguments: Any
) -> tuple[list[dict[str, float]], Outcome]:
    records = []
    running = train(
        job,
        dataset,
        teachers_of(job, dataset) if job.teachers else None,
        worker=worker,
        **arguments,
    )
    while True:
        try:
            records.append(next(running))
        except StopIteration as end:
            return records, end.value


def test_every_registered_method_is_tried() -> None:
    assert {method.name for method in METHODS_TRIED} == set(METHODS)
    assert all(
        type(method) is METHODS[name] for name, methods in SMALL.items() for method in methods
    )


def test_which_augmentations_fit_which_methods() -> None:
    assert {augmentation.name for augmentation in AUGMENTATIONS_TRIED} <= set(AUGMENTATIONS)
    refused = {
        (method.name, text(augmentation))
        for method in METHODS_TRIED
        for augmentation in AUGMENTATIONS_TRIED
        if not fits(method, augmentation)
    }
    learners = set(METHODS) - {"supervised"}
    plain = {
        text(augmentation) for augmentation in AUGMENTATIONS_TRIED if augmentation.part_count == 1
    }
    assert refused == {
        *(
            ("supervised", text(augmentation))
            for augmentation in AUGMENTATIONS_TRIED
            if augmentation.picks
        ),
        *((method, text(AugMix(consistency=True))) for method in learners),
        *(("augmented-kd", augmentation) for augmentation in plain),
        *(("crd", augmentation) for augmentation in ("mixup", "cutmix")),
    }


@every_fitting_pair
def test_gradients_reach_the_student_and_nothing_else(
    method: Method, augmentation: Augmentation
) -> None:
    dataset = dataset_of()
    job = job_of(method, augmentation)
    teachers = teachers_of(job, dataset)
    of_teachers = [
        parameter.requires_grad_()
        for network in teachers.networks
        for parameter in network.parameters()
    ]
    setup = Setup(
        len(job.teachers), teachers.networks, dataset.train, dataset.labels[dataset.train]
    )
    network = method.student(make_network(job, dataset), setup).train()
    batch = next(batches(augmentation, dataset))
    terms = method.loss(Student(network, network), batch, teachers)
    assert all(
        term.shape == () and term.dtype == torch.float32 and term.isfinite()
        for term in terms.values()
    )
    terms["loss"].backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert idle == []
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert sum(bool(parameter.grad.any()) for parameter in network.parameters()) >= 4
    assert all(parameter.grad is None for parameter in of_teachers)
    assert network.training


def batches(augmentation: Augmentation, dataset: Dataset) -> Any:
    settings = {
        "rows": dataset.train,
        "mean": dataset.mean,
        "seed": 0,
        "epoch": 1,
        "batch_size": 9,
        "device": "cpu",
    }
    return epoch_batches(augmentation, dataset.images, dataset.labels, **settings)


@pytest.mark.parametrize(("channels", "num_classes"), [(1, 2), (3, 5)])
@every_method
def test_a_job_from_beginning_to_end(method: Method, channels: int, num_classes: int) -> None:
    """Any channels and classes; the same again after an interruption; the weights saved predict
    what was predicted.
    """
    dataset = dataset_of(channels, num_classes)
    job = job_of(method, simplest_augmentation(method))
    assert Job.from_dict(job.to_dict()) == job
    saved: list[bytes] = []
    torch.manual_seed(1)
    whole, outcome = finish(job, dataset, save=lambda pack: saved.append(pack()))
    assert outcome.log_probabilities.shape == (9, num_classes)
    assert outcome.log_probabilities.dtype == np.float32
    np.testing.assert_allclose(np.exp(outcome.log_probabilities).sum(1), 1, rtol=1e-5)

    torch.manual_seed(2)
    records, resumed = finish(job, dataset, saved=saved[0])
    assert [without_times(record) for record in records] == [
        without_times(record) for record in whole
    ]
    assert outcome.weights.keys() == resumed.weights.keys()
    assert all(
        torch.equal(outcome.weights[name], weight) for name, weight in resumed.weights.items()
    )

    network = load_network(job, outcome.weights, dataset)
    again = predict(network, dataset.images, dataset.validation, worker=HERE)
    np.testing.assert_allclose(again, outcome.log_probabilities, atol=1e-6)
    assert sum(parameter.numel() for parameter in network.parameters()) == outcome.parameters


@every_method
def test_half_precision_changes_little(method: Method) -> None:
    """What is trained stays float32, and so do losses; only forward passes are rounded."""
    job = job_of(
        method,
        next(
            augmentation
            for augmentation in reversed(AUGMENTATIONS_TRIED)
            if fits(method, augmentation)
        ),
        epochs=1,
        lr=0.001,
    )
    records, outcome = finish(job, dataset_of())
    rounded, of_rounded = finish(
        dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, precision="bf16")),
        dataset_of(),
    )
    assert rounded[0]["train/loss"] == pytest.approx(records[0]["train/loss"], rel=0.05, abs=0.02)
    assert all(
        weight.dtype == outcome.weights[name].dtype == torch.float32
        for name, weight in of_rounded.weights.items()
    )
    np.testing.assert_allclose(of_rounded.log_probabilities, outcome.log_probabilities, atol=0.05)


def without_times(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in ("time", "seconds")}


JOBS = [job_of(method, simplest_augmentation(method)) for method in METHODS_TRIED] + [
    job_of(METHODS_TRIED[number % len(METHODS_TRIED)], augmentation)
    for number, augmentation in enumerate(
        [augmentation for augmentation in AUGMENTATIONS_TRIED if augmentation.picks] * 4, start=1
    )
    if fits(METHODS_TRIED[number % len(METHODS_TRIED)], augmentation)
]
"""Every method, and every pick with several."""


def left_behind(job: Job, dataset: Dataset, worker: Worker) -> dict[str, Tensor]:
    """Losses, the last predictions and weights of a finished job."""
    records, outcome = finish(job, dataset, worker)
    losses = [
        [value for name, value in record.items() if name.startswith("train/")] for record in records
    ]
    found = {
        "losses": torch.tensor(losses),
        "predictions": torch.from_numpy(outcome.log_probabilities),
    }
    return found | {f"weights/{name}": weight.clone() for name, weight in outcome.weights.items()}


def test_two_workers(tmp_path: Path) -> None:
    """Batches of nine, and one of five, shared by two: steps differ from those of one worker by
    rounding alone.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    dataset = dataset_of()
    alone = [left_behind(job, dataset, HERE) for job in JOBS]
    said = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    # In bf16 each worker rounds its own part of a gradient, and steps drift apart.
    halves = os.environ[AUTO_PRECISION] == "bf16"
    for number, (job, expected) in enumerate(zip(JOBS, alone, strict=True)):
        first, second = (load_file(tmp_path / f"{number}-{rank}.safetensors") for rank in range(2))
        for name, value in expected.items():
            where = f"{text(job.recipe.method)} with {text(job.recipe.augmentation)}: {name}"
            torch.testing.assert_close(
                first[name],
                value,
                rtol=1e-2 if halves else 1e-3,
                atol=1e-2 if halves else 2e-5,
                msg=lambda found, at=where: f"{at}\n{found}",
            )
            assert torch.equal(first[name], second[name]), where
        weights = {
            name.removeprefix("weights/"): value
            for name, value in first.items()
            if name.startswith("weights/")
        }
        deployed = predict(
            load_network(job, weights, dataset), dataset.images, dataset.validation, worker=HERE
        )
        np.testing.assert_allclose(first["predictions"].numpy(), deployed, atol=1e-5)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    dataset = dataset_of()
    for number, job in enumerate(JOBS):
        save_file(
            left_behind(job, dataset, Worker(HERE.device, rank, 2)),
            folder / f"{number}-{rank}.safetensors",
        )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
