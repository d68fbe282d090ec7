"""What studies/photos-small.yaml is about: image files, and networks that plain PyTorch trained.

    python studies/photos_small.py

makes data/photos-small, an image folder cut from the two photographs that scikit-learn ships, and
beside it the weights of teachers and of a student to start from. Nothing is downloaded, and
distill_ray has no part in it.
"""

import argparse
import functools
import importlib.util
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from photos_nets import Mixer
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import get_model
from torchvision.transforms import v2

ROWS, COLUMNS = 2, 3
"""The regions of each photograph, which are the classes."""

BLOCKS, SIDE = 4, 53
"""A region has BLOCKS by BLOCKS squares of SIDE pixels, each of which belongs to one split."""

SPLITS = {"train": (10, 6), "val": (3, 10), "test": (3, 10)}
"""Squares of a region, and images that are cut from each."""

SMALLEST = 28
"""Side of the smallest image; the largest fills its square."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Given:
    """A network to train: the file of its weights, and the side that it wants images resized to."""

    file: str
    network: nn.Module
    size: int

    def __call__(self, images: Tensor) -> Tensor:
        """The logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        resized = interpolate(images, self.size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        logits: Tensor = self.network((resized - mean) / std)
        return logits


def teachers() -> list[Given]:
    """Two of torchvision, one of our own and, where it is installed, one of timm."""
    # Its own momentum of 0.01 is for more steps than there are here: statistics would be those of
    # the beginning
    norm = functools.partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    mobilenet = get_model("mobilenet_v3_small", num_classes=12, norm_layer=norm)
    given = [
        Given("regnet.pt", get_model("regnet_x_400mf", num_classes=12), 32),
        Given("mobilenet.pt", mobilenet, 48),
        Given("mixer.pt", Mixer(num_classes=12), 32),
    ]
    if importlib.util.find_spec("timm"):
        import timm

        given.append(Given("convnext.pt", timm.create_model("test_convnext", num_classes=12), 32))
    return given


def student() -> Given:
    """The student to be, which learns to tell how an image is turned."""
    return Given("student.pt", get_model("shufflenet_v2_x0_5", num_classes=4), 32)


def write_images(folder: Path) -> None:
    """Square images of many sizes, `folder`/SPLIT/CLASS/SQUARE-NUMBER.png.

    The splits share no pixel.
    """
    draw = np.random.default_rng(0)
    sample = load_sample_images()
    for name, photograph in zip(sample.filenames, sample.images, strict=True):
        for region in np.ndindex(ROWS, COLUMNS):
            label = f"{Path(name).stem}-{region[0]}-{region[1]}"
            squares = iter(draw.permutation(BLOCKS**2))
            for split, (count, images) in SPLITS.items():
                (folder / split / label).mkdir(parents=True, exist_ok=True)
                for square in itertools.islice(squares, count):
                    corner = np.array(region) * BLOCKS + divmod(square, BLOCKS)
                    for number in range(images):
                        side = draw.integers(SMALLEST, SIDE + 1)
                        top, left = corner * SIDE + draw.integers(0, SIDE - side + 1, 2)
                        cut = Image.fromarray(photograph[top : top + side, left : left + side])
                        cut.save(folder / split / label / f"{square}-{number}.png")


def images_of(folder: Path, *, training: bool) -> ImageFolder:
    """The images of a split, as such networks usually get them: (3, 32, 32)."""
    views: list[v2.Transform] = (
        [v2.RandomResizedCrop(32, scale=(0.3, 1)), v2.RandomHorizontalFlip()]
        if training
        else [v2.Resize(36), v2.CenterCrop(32)]
    )
    return ImageFolder(
        folder, v2.Compose([*views, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    )


def train(given: Given, images: ImageFolder, epochs: int, *, rotations: bool = False) -> None:
    """AdamW with a cosine schedule. With `rotations` the labels are quarter turns (Gidaris et al.
    2018, "Unsupervised representation learning by predicting image rotations").
    """
    loader = DataLoader(images, batch_size=32, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(given.network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    given.network.train()
    for _ in range(epochs):
        for batch, labels in loader:
            if rotations:
                labels = torch.arange(len(batch)) % 4
                batch = torch.stack(
                    [
                        image.rot90(int(turns), (1, 2))
                        for image, turns in zip(batch, labels, strict=True)
                    ]
                )
            loss = cross_entropy(given(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def probabilities(given: Sequence[Given], images: ImageFolder) -> tuple[Tensor, Tensor]:
    """The predictions of each network, (N, M, K), and the labels (M,)."""
    batches, labels = zip(*DataLoader(images, batch_size=64), strict=True)
    predictions = []
    for each in given:
        each.network.eval()
        with torch.inference_mode():
            predictions.append(torch.cat([each(batch).softmax(1) for batch in batches]))
    return torch.stack(predictions), torch.cat(labels)


def main() -> None:
    """Make everything, and print what the teachers know."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/photos-small"))
    parser.add_argument("--epochs", type=int, default=12, help="default: 12")
    options = parser.parse_args()
    begun = time.monotonic()
    torch.manual_seed(0)
    write_images(options.folder)
    training = images_of(options.folder / "train", training=True)
    given = teachers()
    for each in (*given, student()):
        train(each, training, options.epochs, rotations=each.file == "student.pt")
        torch.save(each.network.state_dict(), options.folder / each.file)
        print(f"{options.folder / each.file}: written after {time.monotonic() - begun:.0f} s")
    predictions, labels = probabilities(given, images_of(options.folder / "val", training=False))
    for name, prediction in [
        *zip([each.file for each in given], predictions, strict=True),
        ("ensemble of the first three", predictions[:3].mean(0)),
        ("ensemble of all", predictions.mean(0)),
    ]:
        right = int((prediction.argmax(1) == labels).sum())
        print(f"{name}: {right} of {len(labels)} validation images are right")


if __name__ == "__main__":
    main()
