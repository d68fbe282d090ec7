"""`class_weights: balanced`: the weights are scikit-learn's, and so is the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from distill_ray.augmentation.augmentation import Part
from distill_ray.errors import RequestError
from distill_ray.job import Data
from distill_ray.methods.losses import cross_entropy
from distill_ray.resolve import data_of, search_name, teacher_runs, trial_run
from distill_ray.study import check_against_data, load_study
from distill_ray.testing.jobs import train_to_end
from distill_ray.training import Dataset
from support.small import tiny_job

LABELS = np.array([0] * 20 + [1] * 5 + [3] * 15)
TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.fixture
def imbalanced(small_dataset: Dataset) -> Dataset:
    """Twelve images of the first class, four of each other one."""
    train = np.concatenate([np.arange(0, 36, 3), np.arange(1, 12, 3), np.arange(2, 12, 3)])
    return replace(small_dataset, train=train)


def noise(*shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).normal(size=shape))


def weights_of(dataset: Dataset, labels: np.ndarray, classes: int) -> np.ndarray:
    names = tuple(map(str, range(classes)))
    rows = np.arange(len(labels))
    return replace(dataset, labels=labels, train=rows, class_names=names).balanced_weights


def test_weights_are_those_of_scikit_learn(small_dataset: Dataset) -> None:
    """A class that does not occur has none, and images without a label count nowhere."""
    weights = weights_of(small_dataset, np.append(LABELS, [-1, -1]), 4)
    np.testing.assert_allclose(weights[[0, 1, 3]], [2 / 3, 8 / 3, 8 / 9], rtol=1e-6)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-6)
    assert weights[2] == 0


def test_the_loss_is_that_of_scikit_learn(small_dataset: Dataset) -> None:
    """Over the whole training split, whose weights are 1 on average."""
    weights = weights_of(small_dataset, LABELS, 4)
    logits = noise(40, 4)
    part = Part(logits, torch.tensor(LABELS), class_weights=torch.tensor(weights))
    expected = log_loss(
        LABELS, logits.softmax(-1).numpy(), sample_weight=weights[LABELS], labels=range(4)
    )
    assert float(cross_entropy(logits, part)) == pytest.approx(expected, rel=1e-6)
    unlabelled = replace(part, labels=torch.tensor(np.append(LABELS, [-1] * 5)))
    more = torch.cat([logits, noise(5, 4)])
    assert float(cross_entropy(more, unlabelled)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_mixed_and_smoothed_labels_count_class_by_class(smoothing: float, mixed: bool) -> None:
    """As torch has it for labels that are probabilities, for members too."""
    logits, weights = noise(6, 3), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    part = Part(
        logits, torch.tensor([0, 1, 2, 0, 1, 2]), label_smoothing=smoothing, class_weights=weights
    )
    if mixed:
        shares = torch.linspace(0, 1, 6, dtype=torch.float64)
        part = replace(part, partner_labels=part.labels.flip(0), label_weight=shares)
    expected = functional.cross_entropy(
        logits, part.targets(3).double(), weight=weights, label_smoothing=smoothing
    )
    torch.testing.assert_close(cross_entropy(logits, part), expected, atol=1e-6, rtol=1e-6)
    members = logits.unsqueeze(1).expand(-1, 2, -1)
    torch.testing.assert_close(cross_entropy(members, part), expected, atol=1e-6, rtol=1e-6)


def test_training_counts_classes_alike(imbalanced: Dataset, small_data: Data) -> None:
    """A rare class is given more probability."""
    balanced = replace(small_data, class_weights="balanced")
    job = tiny_job(small_data, lr=0.01)
    weighted = replace(job, data=balanced)
    plain, counted = (
        np.exp(train_to_end(each, imbalanced)[1].log_probabilities) for each in (job, weighted)
    )
    assert (counted > plain)[:, 1:].all()
    assert job.id != weighted.id


def test_teachers_and_students_are_other_jobs() -> None:
    plain, balanced = load_study(TINY), load_study(TINY, ["data.class_weights=balanced"])
    here, there = data_of(plain), data_of(balanced)
    assert "class_weights" not in here.identity and there.class_weights == "balanced"
    ids = [[run.job.id for run in teacher_runs(plain, data)] for data in (here, there)]
    assert not set(ids[0]) & set(ids[1])
    drawn = {"temperature": 4.0, "alpha": 0.9, "augmentation": "crop"}
    assert trial_run(balanced, there, ids[0], 0, drawn).job.data.class_weights == "balanced"
    assert search_name(plain, here, ids[0]) != search_name(balanced, there, ids[0])


def test_regression_has_no_classes_to_weigh() -> None:
    for setting in ("class_weights=balanced", "imbalance=10"):
        study = load_study(TINY, [f"data.{setting}"])
        name = setting.partition("=")[0]
        with pytest.raises(RequestError, match=rf"data\.{name}: is about classes"):
            check_against_data(study, 1797, 1, (1, 8, 8), task="regression")
