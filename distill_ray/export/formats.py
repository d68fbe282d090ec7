"""The export formats of a student. All take images (N, H, W, C), uint8 unless the data set has real
numbers, and return float32 probabilities (N, K).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_ray.export.load import GRAPH, PROGRAM, WEIGHTS, check_installed
from distill_ray.tracking.champion import Champion, save_champion, write_student
from distill_ray.tracking.champion_model import load_student, scaled


class Classifier(nn.Module):
    """A student with all that belongs to it: scaling of pixels, normalisation (in the network),
    temperature, softmax.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities, float32 (N, K), of images (N, H, W, C)."""
        logits = self.network(scaled(images))
        return torch.softmax(logits.float() / self.temperature, dim=1)


def write_safetensors(champion: Champion, folder: Path) -> None:
    """The weights, and `champion.json`, which says what network they belong to."""
    write_student(champion, folder)


def write_torch_export(champion: Champion, folder: Path) -> None:
    """The graph as `torch.export` has it, for any number of images; bound to the release of torch
    that wrote it.
    """
    classifier, examples = _classifier(champion, folder)
    with _quietly():
        program = torch.export.export(
            classifier, (examples,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
        )
        torch.export.save(program, folder / PROGRAM)


def write_onnx(champion: Champion, folder: Path) -> None:
    """The graph in ONNX, for any number of images, with input `images` and output `probabilities`.

    Raises `RequestError` where the packages for it are not installed.
    """
    check_installed("onnx", "onnxscript", "onnxruntime")
    classifier, examples = _classifier(champion, folder)
    with _quietly():
        torch.onnx.export(
            classifier,
            (examples,),
            folder / GRAPH,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def write_mlflow(champion: Champion, folder: Path) -> None:
    """The model as the registry has it, with its code."""
    save_champion(champion, folder)


WRITERS: dict[str, Callable[[Champion, Path], None]] = {
    "safetensors": write_safetensors,
    "torch-export": write_torch_export,
    "onnx": write_onnx,
    "mlflow": write_mlflow,
}
"""What writes a champion into an empty folder, by the name of the format."""


def _classifier(champion: Champion, folder: Path) -> tuple[Classifier, Tensor]:
    """The student to trace, and two images to trace it with; `champion.json` stays in the folder."""
    write_student(champion, folder)
    network = load_student(folder, "cpu").network
    (folder / WEIGHTS).unlink()
    examples = torch.from_numpy(champion.examples.copy())
    return Classifier(network, champion.temperature).eval(), examples.expand(2, -1, -1, -1) if len(
        examples
    ) == 1 else examples


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters print of their own work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
