from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from distill_ray.data import import_dataset, load_images, open_source
from distill_ray.data.importing import ROWS_PER_SHARD
from distill_ray.data.survey import survey
from distill_ray.errors import RequestError, RunError


def md5(path: Any) -> Any:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def rng() -> Any:
    return np.random.default_rng(0)


@pytest.fixture
def cifar(tmp_path: Path, rng: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the official pickled files of a tiny CIFAR, and makes torchvision take their checksums
    for the official ones.
    """

    def write(
        name: Any, train_files: Any, test_files: Any, label_key: Any, names_key: Any, names: Any
    ) -> Any:
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, name)
        root, parts = tmp_path / "root", {}
        base = root / dataset.base_folder
        base.mkdir(parents=True)
        for file in [*train_files, *test_files]:
            pixels, labels = (
                rng.integers(0, 256, (6, 3072), np.uint8),
                rng.integers(0, len(names), 6).tolist(),
            )
            (base / file).write_bytes(pickle.dumps({"data": pixels, label_key: labels}))
            parts[file] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
        (base / dataset.meta["filename"]).write_bytes(pickle.dumps({names_key: names}))
        monkeypatch.setattr(
            dataset, "train_list", [[file, md5(base / file)] for file in train_files]
        )
        monkeypatch.setattr(dataset, "test_list", [[file, md5(base / file)] for file in test_files])
        monkeypatch.setattr(
            dataset, "meta", dataset.meta | {"md5": md5(base / dataset.meta["filename"])}
        )
        return root, parts

    return write


def test_cifar10(tmp_path: Path, cifar: Any) -> None:
    root, parts = cifar(
        "CIFAR10",
        ["data_batch_1", "data_batch_2"],
        ["test_batch"],
        "labels",
        "label_names",
        ["cat", "dog"],
    )
    source = import_dataset("cifar10", tmp_path / "out", root=root, download=False)
    train, test = load_images(source, "train"), load_images(source, "test")
    assert (
        train.images == np.concatenate([parts["data_batch_1"][0], parts["data_batch_2"][0]])
    ).all()
    assert train.labels.tolist() == parts["data_batch_1"][1] + parts["data_batch_2"][1]
    assert (test.images == parts["test_batch"][0]).all()
    assert (source.label, source.class_names) == ("label", ("cat", "dog"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]


def test_cifar100(tmp_path: Path, cifar: Any) -> None:
    root, parts = cifar(
        "CIFAR100", ["train"], ["test"], "fine_labels", "fine_label_names", ["apple", "bear", "bee"]
    )
    source = import_dataset("cifar100", tmp_path / "out", root=root, download=False)
    assert (source.label, source.class_names) == ("fine_label", ("apple", "bear", "bee"))
    assert (load_images(source, "train").images == parts["train"][0]).all()
    assert load_images(source, "test").labels.tolist() == parts["test"][1]


def test_svhn(tmp_path: Path, rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.io
    import torchvision.datasets

    root, parts = tmp_path / "root", {}
    root.mkdir()
    official = dict(torchvision.datasets.SVHN.split_list)
    for split in ("train", "test"):
        pixels, labels = (
            rng.integers(0, 256, (32, 32, 3, 7), np.uint8),
            rng.integers(1, 11, (7, 1), np.uint8),
        )
        path = root / official[split][1]
        scipy.io.savemat(path, {"X": pixels, "y": labels})
        official[split] = [*official[split][:2], md5(path)]
        parts[split] = pixels.transpose(3, 0, 1, 2), (labels[:, 0] % 10).tolist()
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", official)
    source = import_dataset("svhn", tmp_path / "out", root=root, download=False)
    for split, (pixels, labels) in parts.items():
        images = load_images(source, split)
        assert (images.images == pixels).all()
        assert images.labels.tolist() == labels
    assert source.class_names == tuple("0123456789")


def test_fashion_mnist(tmp_path: Path, rng: Any) -> None:
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    parts = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels, labels = (
            rng.integers(0, 256, (5, 28, 28), np.uint8),
            rng.integers(0, 10, 5, np.uint8),
        )
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, 5, 28, 28) + pixels.tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, 5) + labels.tobytes()
        )
        parts[split] = pixels[..., None], labels.tolist()
    source = import_dataset(
        "fashion-mnist", tmp_path / "out", root=tmp_path / "root", download=False
    )
    for split, (pixels, labels) in parts.items():
        images = load_images(source, split)
        assert (images.images == pixels).all()
        assert images.labels.tolist() == labels
    assert source.class_names[:2] == ("T-shirt/top", "Trouser")


def test_a_tree_keeps_its_bytes(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    files = {"train/dog/1.png": 0, "train/cat/1.png": 1, "test/cat/1.png": 2}
    for name, number in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(pictures(3)[number]))
    source = import_dataset(str(tmp_path / "tree"), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet")
    assert table["img"].to_pylist() == [
        {"bytes": encode(pictures(3)[i]), "path": None} for i in (1, 0)
    ]
    assert table["label"].to_pylist() == [0, 1]
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "img": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    }
    assert source.rows("test") == 1


@pytest.fixture
def shards(tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]) -> Path:
    """Five training, two validation and two test images in tar files, with two labels each."""
    images = iter(pictures(9))
    for name, rows in (("train-0", 3), ("train-1", 2), ("val-0", 2), ("test-0", 2)):
        (tmp_path / "shards").mkdir(exist_ok=True)
        with webdataset.TarWriter(str(tmp_path / "shards" / f"{name}.tar")) as writer:
            for row in range(rows):
                values = {"species": ("wren", "owl")[row % 2], "year": 1990 + row}
                image = encode(next(images))
                writer.write({"__key__": f"{row}", "png": image, "json": values})
    return tmp_path / "shards"


def test_tar_files_keep_rows_bytes_and_splits(shards: Path, tmp_path: Path) -> None:
    source = import_dataset(str(shards), tmp_path / "out", label="species")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        f"{part}-00000-of-00001.parquet" for part in ("test", "train", "validation")
    ]
    assert (source.label, source.class_names) == ("species", ("owl", "wren"))
    assert (source.rows("train"), source.validation_rows, source.rows("test")) == (7, 2, 2)
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet")
    written = [
        sample["png"]
        for sample in webdataset.WebDataset(
            [str(shards / f"train-{number}.tar") for number in (0, 1)], shardshuffle=False
        )
    ]
    assert [image["bytes"] for image in table["img"].to_pylist()] == written
    assert table["species"].to_pylist() == [1, 0, 1, 1, 0]


def test_a_label_column_is_named_where_there_are_several(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"several label columns, name one: 'species', 'year'"):
        import_dataset(str(shards), tmp_path / "out")
    with pytest.raises(RequestError, match="unknown label column 'specie'; did you mean 'species'"):
        import_dataset(str(shards), tmp_path / "out", label="specie")
    assert not (tmp_path / "out").exists()


def test_a_broken_image_in_a_tar_file_is_named(shards: Path, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(shards / "train-1.tar")) as writer:
        writer.write({"__key__": "bad", "png": b"nonsense", "json": {"species": "owl"}})
    with pytest.raises(RequestError, match=r"train-1\.tar, bad: the image cannot be decoded"):
        import_dataset(str(shards), tmp_path / "out", label="species")
    assert not (tmp_path / "out").exists()


def test_listed_images_are_imported(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    folder = tmp_path / "listed" / "train"
    folder.mkdir(parents=True)
    for number, image in enumerate(pictures(3)):
        (folder / f"{number}.png").write_bytes(encode(image))
    (folder / "metadata.csv").write_text("file_name,label\n2.png,b\n0.png,a\n1.png,b\n")
    source = import_dataset(str(tmp_path / "listed"), tmp_path / "out")
    images = load_images(source, "train")
    assert images.labels.tolist() == [1, 0, 1]
    assert (images.images == np.stack(pictures(3))[[2, 0, 1]]).all()


def test_parquet_is_left_as_it_is(small: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is Parquet already; a study reads it as it is"):
        import_dataset(str(small), tmp_path / "out")


GREY_AVIF = io.BytesIO()
Image.linear_gradient("L").resize((8, 8)).save(GREY_AVIF, "AVIF", quality=100)


@pytest.mark.skipif(
    Image.open(io.BytesIO(GREY_AVIF.getvalue())).mode != "L",
    reason="Pillow before 13 writes and reads AVIF in colour",
)
def test_grey_avif_images_are_grey(tmp_path: Path) -> None:
    """One channel, as validate says; beside an image in colour three alike."""
    for name in ("cat", "dog"):
        path = tmp_path / "train" / name / "1.avif"
        path.parent.mkdir(parents=True)
        path.write_bytes(GREY_AVIF.getvalue())
    grey = load_images(open_source(str(tmp_path)), "train").images
    expected = np.asarray(Image.linear_gradient("L").resize((8, 8))).astype(int)
    assert grey.shape == (2, 8, 8, 1)
    assert np.abs(grey[0, ..., 0].astype(int) - expected).max() <= 8
    assert "8x8 pixels, grey (2 images opened)" in survey(open_source(str(tmp_path)), None)
    Image.new("RGB", (8, 8), (200, 40, 40)).save(tmp_path / "train" / "dog" / "2.avif")
    colour = load_images(open_source(str(tmp_path)), "train").images
    assert colour.shape == (3, 8, 8, 3)
    assert (colour[0] == grey[0]).all()
    assert "8x8 pixels, grey and in colour (3 images opened)" in survey(
        open_source(str(tmp_path)), None
    )


def test_avif_images_are_read_and_imported(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    """And turned upright. AVIF has losses even at the highest quality, of a few levels in noise."""
    turned = Image.Exif()
    turned[0x0112] = 6
    settings: dict[str, Any] = {"quality": 100, "subsampling": "4:4:4"}
    images = pictures(2, 8, 8)
    for name, image, exif in (("cat", images[0], None), ("dog", images[1], turned)):
        path = tmp_path / "tree" / "train" / name / "1.AVIF"
        path.parent.mkdir(parents=True)
        options = settings if exif is None else settings | {"exif": exif}
        Image.fromarray(image).save(path, "AVIF", **options)
    expected = np.stack([images[0], np.rot90(images[1], -1)]).astype(int)
    source = import_dataset(str(tmp_path / "tree"), tmp_path / "out")
    for opened in (source, open_source(str(tmp_path / "tree"))):
        read = load_images(opened, "train").images.astype(int)
        assert np.abs(read - expected).max() <= 8
    content = (tmp_path / "tree" / "train" / "cat" / "1.AVIF").read_bytes()
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet")
    assert table["img"][0]["bytes"].as_py() == content
    (tmp_path / "tree" / "train" / "cat" / "1.AVIF").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"1\.AVIF: the image cannot be decoded"):
        load_images(open_source(str(tmp_path / "tree")), "train")


def test_large_splits_are_sharded(
    tmp_path: Path,
    encode: Callable[..., bytes],
    pictures: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distill_ray.data.importing.ROWS_PER_SHARD", 2000)
    monkeypatch.setattr("distill_ray.data.importing.ROWS_PER_GROUP", 300)
    image = encode(pictures(1)[0])
    for name in ("cat", "dog"):
        (tmp_path / "tree" / "train" / name).mkdir(parents=True)
        for number in range(2200):
            (tmp_path / "tree" / "train" / name / f"{number}.png").write_bytes(image)
    source = import_dataset(str(tmp_path / "tree"), tmp_path / "out")
    rows = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").iterdir())]
    assert len(rows) == 3
    assert max(rows) <= 2000
    assert load_images(source, "train").labels.tolist() == [0] * 2200 + [1] * 2200
    assert ROWS_PER_SHARD > 2000


def test_nothing_is_overwritten_by_accident(
    small: Path, tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    path = tmp_path / "tree" / "train" / "cat" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(pictures(1)[0]))
    before = open_source(str(small)).digest
    with pytest.raises(RequestError, match="exists; choose another folder, or ask to overwrite it"):
        import_dataset(str(tmp_path / "tree"), small)
    assert open_source(str(small)).digest == before
    with pytest.raises(
        RequestError, match="holds something other than a data set and is not overwritten"
    ):
        import_dataset(str(tmp_path / "tree"), tmp_path / "tree", overwrite=True)
    assert path.exists()
    assert import_dataset(str(tmp_path / "tree"), small, overwrite=True).rows("train") == 1
    (tmp_path / "empty").mkdir()
    assert import_dataset(str(tmp_path / "tree"), tmp_path / "empty").rows("train") == 1


def test_a_failed_import_leaves_nothing(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    for name, content in (("1.png", encode(pictures(1)[0])), ("2.png", b"nonsense")):
        path = tmp_path / "tree" / "train" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"cat/2\.png: the image cannot be decoded"):
        import_dataset(str(tmp_path / "tree"), tmp_path / "made" / "out")
    assert list((tmp_path / "made").iterdir()) == []


def test_unusable_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="unknown data set 'cifar1O'; did you mean 'cifar10'"):
        import_dataset("cifar1O", tmp_path / "out")
    with pytest.raises(RequestError, match="does not hold the official files of cifar10"):
        import_dataset("cifar10", tmp_path / "out", root=tmp_path / "empty", download=False)
    (tmp_path / "file").write_text("")
    (tmp_path / "tree" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "tree" / "train" / "cat" / "1.pgm").write_bytes(b"P5 2 2 255\nabcd")
    with pytest.raises(RequestError, match="cannot be written"):
        import_dataset(str(tmp_path / "tree"), tmp_path / "file" / "out")

    import torchvision.datasets.cifar

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(
        RunError, match=r"cifar10 could not be downloaded to .*Name or service not known.*try again"
    ):
        import_dataset("cifar10", tmp_path / "out")
    assert not (tmp_path / "out").exists()
