"""T. stddev: the printed oracle, the bound that a certain teacher reaches, and how groups are
formed.
"""

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax

from distill_ray.metrics.augmentation import BLOCKS, Deviation, TeacherDeviation, not_behind
from distill_ray.metrics.classification import FloatArray

# Oracle of good-augmentation, section 12: three groups of two original and two augmented rows.
GROUPS = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]],
        [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]],
        [[0.1, 0.1, 0.8], [0.9, 0.05, 0.05], [0.25, 0.25, 0.5], [0.6, 0.2, 0.2]],
    ]
)


def feed(blocks: Iterable[FloatArray], per_group: int) -> TeacherDeviation:
    deviation = TeacherDeviation(per_group)
    for block in blocks:
        deviation.update(block)
    return deviation


def test_oracle() -> None:
    deviation = TeacherDeviation(blocks=2)
    for group, expected in zip(GROUPS, (None, 0.08249579, 0.10487771), strict=True):
        deviation.update(np.log(group[:2]))
        deviation.update(np.log(group[2:]))
        if expected:
            assert_allclose(deviation.value, expected, atol=5e-9)
    assert deviation.groups == 3
    assert_allclose(deviation.mean_entropy, 0.87913279, atol=5e-9)
    means = GROUPS.mean(axis=1)
    assert_allclose(means, [[0.375, 0.45, 0.175], [0.375, 0.275, 0.35], [0.4625, 0.15, 0.3875]])
    assert_allclose(means.std(axis=0, ddof=1), [0.05051815, 0.15069284, 0.11342215], atol=5e-9)
    # The biased deviation, which it must not be
    assert_allclose(means.std(axis=0).mean(), 0.08563229, atol=5e-9)


@pytest.mark.parametrize(("classes", "bound"), [(100, 0.00556215), (200, 0.00394295)])
def test_a_certain_teacher_without_augmentation_comes_near_the_bound(
    classes: int, bound: float
) -> None:
    """Independent one-hot rows, each fed as original and as copy, 5 iterations of 64 a group."""
    assert_allclose(np.sqrt((1 / classes) * (1 - 1 / classes) / 320), bound, atol=5e-9)
    generator = np.random.default_rng(0)
    with np.errstate(divide="ignore"):
        one_hot = np.log(np.eye(classes))
    deviation = TeacherDeviation()
    for _ in range(250 * 5):
        block = one_hot[generator.integers(0, classes, 64)]
        deviation.update(block)
        deviation.update(block)
    assert deviation.groups == 250
    assert_allclose(deviation.value, bound, rtol=0.015)
    assert deviation.mean_entropy == 0


def test_short_blocks_weigh_by_their_rows() -> None:
    rows = GROUPS.reshape(12, 3)
    uneven = feed(np.split(np.log(rows), [3, 4, 6, 8, 9]), 2)
    expected = np.std(
        [rows[:4].mean(axis=0), rows[4:8].mean(axis=0), rows[8:].mean(axis=0)], axis=0, ddof=1
    ).mean()
    assert_allclose(uneven.value, expected, rtol=1e-12)


def test_an_unfinished_group_does_not_count_until_it_is_complete() -> None:
    blocks = log_softmax(np.random.default_rng(0).normal(size=(25, 8, 4)), axis=-1)
    unfinished = feed(blocks, 10)
    assert unfinished.groups == 2
    assert unfinished.value == feed(blocks[:20], 10).value
    for block in blocks[:5]:
        unfinished.update(block)
    assert unfinished.groups == 3
    assert unfinished.value != feed(blocks[:20], 10).value


def test_one_group_has_no_deviation() -> None:
    with pytest.raises(ValueError, match="2 groups"):
        _ = feed(np.log(GROUPS[:1]), 1).value
    with pytest.raises(ValueError, match="block"):
        _ = TeacherDeviation().mean_entropy


@pytest.mark.parametrize(
    "block", [np.zeros(3), np.zeros((2, 4)), np.zeros((0, 3)), np.full((2, 3), np.nan)]
)
@pytest.mark.parametrize("before", [1, 2])
def test_blocks_that_do_not_fit_are_refused(block: FloatArray, before: int) -> None:
    deviation = feed(np.log(GROUPS[:before]), 2)
    with pytest.raises(ValueError, match=r"^log_probabilities: "):
        deviation.update(block)


def measured(generator: np.random.Generator, mixing: float = 0.0) -> Deviation:
    """600 images of three classes, each predicted anew in three epochs, in groups of 40 rows;
    `mixing` draws predictions towards their mean.
    """
    images = generator.dirichlet([0.3] * 3, 600)
    images = (1 - mixing) * images + mixing / 3
    places = np.arange(600) % BLOCKS
    deviation = TeacherDeviation(blocks=2, images=BLOCKS)
    for _ in range(3):
        for rows in np.split(generator.permutation(600), 30):
            deviation.update(np.log(images[rows]), places[rows])
    return Deviation(deviation.value, deviation.without_images)


def test_the_error_over_images_is_at_least_that_of_drawing_others() -> None:
    """The spread of T. stddev over 150 draws of the images, beside the mean of what each says."""
    generator = np.random.default_rng(0)
    draws = [measured(generator) for _ in range(150)]
    spread = np.std([draw.value for draw in draws], ddof=1)
    errors = [error for draw in draws if (error := draw.over_images) is not None]
    assert spread < np.mean(errors) < 1.55 * spread
    intervals = [interval for draw in draws if (interval := draw.interval) is not None]
    mean = np.mean([draw.value for draw in draws])
    covered = [low <= mean <= high for low, high in intervals]
    assert np.mean(covered) > 0.93


def test_without_a_group_of_images_by_hand() -> None:
    """Two groups of blocks of two rows; without image 1 one row of the first is left out."""
    first, second = np.array([[0.6, 0.4], [0.8, 0.2]]), np.array([[0.5, 0.5], [0.1, 0.9]])
    deviation = TeacherDeviation(blocks=1, images=2)
    deviation.update(np.log(first), [0, 1])
    deviation.update(np.log(second), [0, 0])
    expected = np.std([0.6, 0.3], ddof=1) * np.sqrt(1 / 2)
    assert_allclose(deviation.without_images[1], expected)


def test_what_is_behind_beyond_chance() -> None:
    generator = np.random.default_rng(1)
    plain, again = measured(generator), measured(generator)
    mixed = measured(generator, mixing=0.5)
    assert not_behind({"plain": plain, "again": again}) == ["plain", "again"]
    assert not_behind({"plain": plain, "mixed": mixed, "again": again}) == ["mixed"]
    # Whatever both share cancels: a small lead in every group of images is a sure one
    shifted = Deviation(plain.value + 1e-4, tuple(np.array(plain.without_images) + 1e-4))
    assert not_behind({"plain": plain, "shifted": shifted}) == ["plain"]
    assert not_behind({}) == []


def test_teachers_that_disagree_widen_the_interval() -> None:
    images = tuple(0.1 + np.linspace(-0.001, 0.001, 20))
    alone, several = Deviation(0.1, images), Deviation(0.1, images, (0.09, 0.1, 0.12))
    assert alone.over_teachers is None
    # By hand: mean 0.10333, squares 0.000467, times 2 / 3
    assert several.over_teachers == pytest.approx((0.00046667 * 2 / 3) ** 0.5, rel=1e-4)
    assert alone.interval is not None and several.interval is not None
    assert several.interval[1] - several.interval[0] > alone.interval[1] - alone.interval[0]
