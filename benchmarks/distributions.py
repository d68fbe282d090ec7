"""Whether students of `endd` and `proxy-endd` diverge, with 10 classes and with 100.

    uv run python benchmarks/distributions.py

Ten classes are scikit-learn's digits, a hundred are pairs of them side by side. Three teachers,
then students of each method at four learning rates, without gradient clipping: prints accuracy and
NLL on the images that are held out, or "diverged".
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from distill_ray.augmentation import Identity
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import EnDD, Method, ProxyEnDD, Supervised
from distill_ray.training import Dataset, LiveTeachers, Outcome, Worker, load_network, train
from distill_ray.training.loop import DivergedError

CPU = Worker(torch.device("cpu"))
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
METHODS = (EnDD(temperature=1.0), EnDD(), ProxyEnDD(), ProxyEnDD(direction="forward"))


def digits(classes: int) -> Dataset:
    """A thousand digits, or 4,000 random pairs of digits; a fifth is held out."""
    found = load_digits()
    images, labels = (found.images * 255 / 16).astype(np.uint8), found.target
    if classes == 100:
        left, right = np.random.default_rng(0).integers(0, len(images), (2, 4000))
        images = np.concatenate([images[left], images[right]], 2)
        labels = 10 * labels[left] + labels[right]
    else:
        images, labels = images[:1000], labels[:1000]
    cut = len(images) * 4 // 5
    return Dataset(
        np.ascontiguousarray(images[..., None]),
        labels.astype(np.int64),
        np.arange(cut),
        np.arange(cut, len(images)),
        tuple(map(str, range(classes))),
        (0.3,),
        (0.37,),
    )


def trained(
    dataset: Dataset, method: Method, lr: float, seed: int, teachers: LiveTeachers | None = None
) -> tuple[Job, Outcome]:
    """A network trained for twelve epochs. Raises `DivergedError`."""
    recipe = Recipe(
        model="lenet-8-16-mlp-64",
        method=method,
        augmentation=Identity(),
        epochs=12,
        batch_size=64,
        lr=lr,
        precision="fp32",
    )
    data = Data(name="x", digest="0" * 32, location="x", label="y", split=Split(validation=9))
    job = Job(recipe=recipe, data=data, seed=seed, teachers=("a", "b", "c") if teachers else ())
    epochs = train(job, dataset, teachers, worker=CPU)
    while True:
        try:
            next(epochs)
        except StopIteration as end:
            return job, end.value


def main() -> None:
    """Teachers and students for ten classes, then for a hundred."""
    torch.set_num_threads(1)
    for classes in (10, 100):
        dataset = digits(classes)
        teachers = []
        for seed in range(3):
            job, outcome = trained(dataset, Supervised(), 0.1, seed)
            teachers.append(load_network(job, outcome.weights, dataset))
        live = LiveTeachers(teachers, CPU.device, "fp32")
        for method in METHODS:
            for lr in LEARNING_RATES:
                try:
                    _, outcome = trained(dataset, method, lr, 9, live)
                    scores = outcome.epochs[-1]
                    result = f"{scores['val/accuracy']:.3f}  {scores['val/nll']:.2f}"
                except DivergedError:
                    result = "diverged"
                settings = {key: value for key, value in method.to_dict().items() if value}
                print(classes, settings, f"lr {lr}: {result}", flush=True)


if __name__ == "__main__":
    main()
