"""Multi-level distillation against the formulas of the paper, spelled out in NumPy."""

import numpy as np
import pytest
import torch

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import MLKD
from distill_ray.methods.mlkd import products
from distill_ray.methods.targets import Targets
from oracles.formulas import Floats, cross_entropy, exact, kl, softmax, z_score
from oracles.logits import LABELS, PART, STUDENT, TEACHERS, check_gradient, terms_of

COPY = Part(STUDENT.flip(1) / 2, PART.labels)


def distances(p: Floats, q: Floats) -> tuple[float, float]:
    """Squared distance of the Gram matrices of images and of classes, element by element."""
    images, classes = p.shape
    pairs = sum((q[i] @ q[j] - p[i] @ p[j]) ** 2 for i in range(images) for j in range(images))
    by_class = sum(
        (q[:, k] @ q[:, m] - p[:, k] @ p[:, m]) ** 2 for k in range(classes) for m in range(classes)
    )
    return float(pairs / images), float(by_class / classes)


def test_products_by_hand() -> None:
    """P = (1/2, 1/2), q = (1, 0), one image: (1 - 1/2)² / 1 = 1/4 for the pairs of images.

    Classes: q'q = (1, 0; 0, 0), p'p = 1/4 everywhere: (9/16 + 3/16 ... ) is ((3/4)² + 3 (1/4)²) / 2
    = (9 + 3) / 32 = 3/8.
    """
    p = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    q = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    pairs, classes = products(p, Targets(q.log(), torch.ones(1, 1, dtype=torch.float64)))
    assert pairs.item() == pytest.approx(1 / 4)
    assert classes.item() == pytest.approx(3 / 8)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("combine", ["mean-softmax", "mean-loss"])
def test_terms_of_several_teachers(combine: str, standardise: bool) -> None:
    scale = z_score if standardise else exact
    share = exact((1, 2, 5)) / 8
    images = pairs = classes = 0.0
    for temperature in (2, 3, 4, 5, 6):
        q = softmax(scale(exact(TEACHERS)), temperature)
        goals = [(1.0, (share[:, None, None] * q).sum(0))]
        if combine == "mean-loss":
            goals = list(zip(share, q, strict=True))
        p, p_copy = (
            softmax(scale(exact(logits)), temperature) for logits in (STUDENT, COPY.images)
        )
        for part, goal in goals:
            divergence = kl(goal, p).mean() + kl(goal, p_copy).mean()
            of_pairs, of_classes = distances(p, goal)
            images += float(part * temperature**2 * divergence)
            pairs += float(part) * of_pairs
            classes += float(part) * of_classes
    labels = float(
        cross_entropy(exact(STUDENT), LABELS).mean()
        + cross_entropy(exact(COPY.images), LABELS).mean()
    )
    method = MLKD(
        standardise=standardise,
        combine=combine,
        teacher_weights=(1.0, 2.0, 5.0),
        labels=0.2,
        images=0.7,
        pairs=0.3,
        class_pairs=1.5,
    )
    terms = terms_of(method, PART, COPY)
    expected = {"labels": labels, "images": images, "pairs": pairs, "classes": classes}
    for name, value in expected.items():
        assert terms[f"loss/{name}"].item() == pytest.approx(value, rel=1e-9), name
    total = 0.2 * labels + 0.7 * images + 0.3 * pairs + 1.5 * classes
    assert terms["loss"].item() == pytest.approx(total, rel=1e-9)


def test_temperatures_scale_with_the_setting() -> None:
    """At twice the temperature, logits twice as large make the same pairs and classes."""
    double = Part(2 * PART.images, PART.labels)
    one = terms_of(MLKD(temperature=4.0), PART, COPY)
    other = terms_of(MLKD(temperature=8.0), double, COPY, teachers=2 * TEACHERS)
    torch.testing.assert_close(one["loss/pairs"], other["loss/pairs"])
    torch.testing.assert_close(one["loss/classes"], other["loss/classes"])
    assert not torch.isclose(one["loss/images"], other["loss/images"])


def test_default_weights_are_those_that_the_published_code_has_in_effect() -> None:
    """Its mask of half the images multiplies a mean, and so halves 0.9."""
    method = MLKD()
    assert (method.labels, method.images) == (0.1, 0.9)
    assert method.pairs == method.class_pairs == np.mean([0.0, 0.9])


def test_gradient() -> None:
    check_gradient(MLKD(labels=0.0, images=0.0, pairs=9.0, combine="mean-loss"), PART, COPY)
    check_gradient(MLKD(standardise=True), PART, COPY)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="must not all be 0"):
        MLKD(labels=0.0, images=0.0, pairs=0.0, class_pairs=0.0)
    MLKD().check_fit(model="wrn-10-1", augmentation=AUGMENTATIONS["additional"](), teachers=1)
    with pytest.raises(ValueError, match="'mlkd' needs images and augmented copies beside them"):
        MLKD().check_fit(model="wrn-10-1", augmentation=AUGMENTATIONS["crop-flip"](), teachers=1)
