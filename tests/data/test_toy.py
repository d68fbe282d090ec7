"""The toy tasks against the oracles of the multi-head system."""

import numpy as np
import pytest

from distill_ray.data import image_shape, load_images, open_source, split_indices
from distill_ray.data.toy import curve, spiral
from distill_ray.errors import RequestError


def test_the_curve() -> None:
    values = curve(np.array([-12.0, -6, 1, 6, 12]))
    assert values == pytest.approx(
        [-1.1434270820, 2.3194154982, 0.8514709848, 4.8805845018, 29.9434270821], abs=1.1e-10
    )


def test_the_spiral() -> None:
    points = spiral(np.full(3, 0.25), np.tile([0.1, 0.4], (3, 1)), np.arange(3))
    expected = [(-3.0415926536, 0.4), (1.1743861653, -2.8340965060), (1.8672064883, 2.4340965059)]
    np.testing.assert_allclose(points, expected, rtol=0, atol=1.1e-10)


@pytest.mark.parametrize(
    ("name", "width", "counts"), [("toy-spiral", 2, (270, 3000)), ("toy-regression", 1, (270, 300))]
)
def test_both_splits_are_the_same_every_time(
    name: str, width: int, counts: tuple[int, int]
) -> None:
    source = open_source(name)
    assert (source.rows("train"), source.rows("test")) == counts
    assert image_shape(source) == (width, 1, 1)
    for split, rows in zip(("train", "test"), counts, strict=True):
        images, again = load_images(source, split), load_images(open_source(name), split)
        assert images.images.dtype == np.float32 and images.images.shape == (rows, 1, 1, width)
        np.testing.assert_array_equal(images.images, again.images)
        np.testing.assert_array_equal(images.labels, again.labels)
        assert images.mean == (0.0,) * width and images.std == (1.0,) * width
    assert len(source.digest) == 32


def test_points_lie_on_the_arms() -> None:
    images = load_images(open_source("toy-spiral"), "test")
    assert np.bincount(images.labels).tolist() == [1000, 1000, 1000]
    for arm in range(3):
        x, y = images.images[images.labels == arm, 0, 0].T.astype(float)
        angle = -2 * np.pi / 3 * arm
        x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        # Without the noise, (0.25, 0.25) on average, the distance from the centre is the angle.
        t = np.hypot(x - 0.25, y - 0.25)
        off = np.hypot(t * np.cos(t) + 0.25 - x, t * np.sin(t) + 0.25 - y)
        assert np.median(off) < 0.5


def test_targets_have_noise_in_training_only() -> None:
    source = open_source("toy-regression")
    train, test = load_images(source, "train"), load_images(source, "test")
    assert train.labels.dtype == np.float32 and source.task == "regression"
    errors = train.labels - curve(train.images[:, 0, 0, 0].astype(float))
    assert errors[:240].std() == pytest.approx(1, abs=0.15) and abs(errors[:240].mean()) < 0.2
    np.testing.assert_allclose(errors[240:], 0, atol=1e-5)
    np.testing.assert_allclose(test.labels, curve(test.images[:, 0, 0, 0].astype(float)), atol=1e-5)
    rows, held_out = split_indices(train.labels, validation=30, rule="last")
    assert rows[-1] == 239 and held_out.tolist() == list(range(240, 270))


def test_real_numbers_have_no_classes_to_stratify_by() -> None:
    with pytest.raises(RequestError, match="use last"):
        split_indices(np.linspace(0, 1, 20, dtype=np.float32), validation=5)


def test_places_beyond_the_training_data() -> None:
    grid, outside = (
        load_images(open_source(name), "test").images
        for name in ("toy-spiral-grid", "toy-regression-outside")
    )
    assert grid.shape == (10_000, 1, 1, 2)
    assert (
        np.unique(grid[..., 0]).tolist()
        == np.unique(grid[..., 1]).tolist()
        == np.linspace(-20, 20, 100, dtype="f4").tolist()
    )
    assert grid[1, 0, 0, 0] == grid[0, 0, 0, 0] == -20 and grid[1, 0, 0, 1] > -20
    assert np.abs(outside).min() >= 6.5 and outside.max() == 12 and len(outside) == 458
