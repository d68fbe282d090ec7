"""Shifted test images against the published description."""

import numpy as np
import pytest

from distill_ray.augmentation.kernels.shifts import LEVELS, shifted


def pixel(row: int, column: int, side: int = 32) -> np.ndarray:
    image = np.zeros((1, side, side, 1), np.uint8)
    image[0, row, column] = 255
    return image


def places(image: np.ndarray) -> list[list[int]]:
    return np.argwhere(image[0, :, :, 0]).tolist()


def test_the_published_levels() -> None:
    """Oracle J of the multi-head system, and 3, 6, 10, 13, 16 pixels of 32."""
    assert places(shifted(pixel(5, 7), "horizontal-shift", LEVELS["horizontal-shift"][0])) == [
        [5, 10]
    ]
    assert places(shifted(pixel(5, 7), "vertical-shift", LEVELS["vertical-shift"][0])) == [[8, 7]]
    columns = [
        places(shifted(pixel(0, 0), "horizontal-shift", share))[0][1]
        for share in LEVELS["horizontal-shift"]
    ]
    rows = [
        places(shifted(pixel(0, 0), "vertical-shift", share))[0][0]
        for share in LEVELS["vertical-shift"]
    ]
    assert columns == rows == [3, 6, 10, 13, 16]
    assert LEVELS["rotation"] == (15, 30, 45, 60, 75)
    assert LEVELS["brightness"] == (1.1, 1.2, 1.3, 1.4, 1.5)


def test_a_quarter_turn_sends_up_to_the_right() -> None:
    assert places(shifted(pixel(2, 15), "rotation", 90)) == [[15, 29]]
    assert places(shifted(pixel(15, 29), "rotation", 90)) == [[29, 16]]


def test_what_leaves_is_gone_and_what_comes_is_black() -> None:
    white = np.full((2, 10, 20, 3), 255, np.uint8)
    right, down = shifted(white, "horizontal-shift", 0.5), shifted(white, "vertical-shift", 0.2)
    assert not right[:, :, :10].any() and (right[:, :, 10:] == 255).all()
    assert not down[:, :2].any() and (down[:, 2:] == 255).all()
    turned = shifted(white[:, :, :10], "rotation", 45)
    assert not turned[:, 0, 0].any() and turned[:, 5, 5].all()
    assert shifted(white, "rotation", 45).shape == right.shape == down.shape == white.shape


def test_brightness_is_cut_off_at_white_and_not_rounded() -> None:
    image = np.array([0, 100, 200, 255], np.uint8).reshape(1, 2, 2, 1)
    found = shifted(image, "brightness", 1.5)
    assert found.dtype == np.float32
    assert found.ravel().tolist() == pytest.approx([0, 150 / 255, 1, 1])
