from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from distill_ray.data import load_images, open_source, split_indices


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits")
    train, test = load_images(source, "train"), load_images(source, "test")
    values, labels = load_digits(return_X_y=True)
    rows = split_indices(labels, validation=500, seed=0)
    for images, index in zip((train, test), rows, strict=True):
        expected = np.floor(values[index] * 255 / 16 + 0.5).reshape(-1, 8, 8, 1)
        assert (images.images == expected).all()
        assert (images.labels == labels[index]).all()


def test_rows_and_classes() -> None:
    source = open_source("digits")
    for split in ("train", "test"):
        images = load_images(source, split)
        assert images.images.shape == (source.rows(split), 8, 8, 1)
        assert (images.images.min(), images.images.max()) == (0, 255)
        shares = np.bincount(images.labels) / len(images.labels)
        assert np.abs(shares - 0.1).max() < 0.005
    assert source.num_classes == images.num_classes == 10


def test_the_digest_never_changes() -> None:
    source = open_source("digits")
    assert source.digest == "1b7a9e50206c70124bfd62ef5dc7e622"
    assert source._compute_digest() == source.digest


def test_the_package_imports_nothing_heavy() -> None:
    heavy = {"numpy", "pyarrow", "PIL", "sklearn", "torch", "filelock"}
    code = f"import sys, distill_ray.data; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_checking_digits_never_imports_scikit_learn() -> None:
    code = (
        "import sys; from distill_ray.data import load_images, open_source; "
        "s = open_source('digits'); s.rows('train'), s.digest;"
        "load_images(s, 'test'); print('sklearn' in sys.modules, 'pyarrow' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False False\n"
    )
