"""What every data set that is registered by name must keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from distill_ray.data import load_images, open_source
from distill_ray.data.source import Generated, SplitName
from distill_ray.testing.cases import Conformance

SPLITS: tuple[SplitName, ...] = ("train", "test")


class DataConformance(Conformance):
    """A data set says what it holds, and holds it. `sources` are names of the registry."""

    sources: ClassVar[Sequence[str]]
    argument = "source"

    def cases(self) -> Sequence[str]:
        return self.sources

    def test_its_label_is_one_of_its_columns(self, source: str) -> None:
        data = open_source(source)
        assert data.label in data.label_columns
        assert open_source(source, label=data.label).label == data.label

    def test_it_has_rows_to_train_on_and_to_test(self, source: str) -> None:
        assert min(open_source(source).rows(split) for split in SPLITS) > 0

    def test_the_digest_is_the_same_each_time(self, source: str) -> None:
        digest = open_source(source).digest
        assert digest == open_source(source).digest
        assert len(digest) == 32
        assert set(digest) <= set("0123456789abcdef")

    def test_each_row_is_an_image_with_a_label(self, source: str, tmp_path: Path) -> None:
        data = open_source(source)
        shapes = set()
        for split in SPLITS:
            images = load_images(data, split, tmp_path)
            shapes.add(images.images.shape[1:])
            assert len(images.images) == len(images.labels) == data.rows(split)
            assert np.array_equal(data.labels(split), images.labels)
            if data.task == "classification":
                assert images.labels.dtype == np.int64
                assert 0 <= images.labels.min() <= images.labels.max() < data.num_classes
        assert len(shapes) == 1
        assert len(data.class_names) == len(set(data.class_names))

    def test_rows_come_in_the_same_order_each_time(self, source: str) -> None:
        for split in SPLITS:
            assert contents(source, split) == contents(source, split)

    def test_every_row_can_be_named(self, source: str) -> None:
        data = open_source(source)
        for split in SPLITS:
            names: list[str] = []
            for batch in data.batches(split):
                assert len(batch.encoded) == len(batch.labels)
                where: Callable[[int], str] = batch.where
                names.extend(where(row) for row in range(len(batch.labels)))
            assert len(names) == len(set(names))
            assert isinstance(data, Generated) or len(names) == data.rows(split)


def contents(source: str, split: SplitName) -> list[tuple[bytes | None, int]]:
    """The encoded images and labels of a split."""
    return [
        (encoded, int(label))
        for batch in open_source(source).batches(split)
        for encoded, label in zip(batch.encoded, batch.labels, strict=True)
    ]
