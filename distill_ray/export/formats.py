"""The export formats of a student: how each is written, opened again, and used without distill_ray.

All take images (N, H, W, C), uint8 unless the data set has real numbers, and return float32
probabilities (N, K).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_ray.export.load import GRAPH, PROGRAM, check_installed, quietly
from distill_ray.tracking.champion import (
    WEIGHTS,
    StudentModel,
    save_champion,
    write_description,
    write_student,
)
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
        """Probabilities, float32 (N, K), of images (N, H, W, C).

        By way of their logarithms: onnxruntime's static quantisation gives the output of a softmax
        steps of 1/255, and with it probabilities of exactly 0.
        """
        logits = self.network(scaled(images))
        return torch.log_softmax(logits.float() / self.temperature, dim=1).exp()


def write_safetensors(champion: StudentModel, folder: Path) -> None:
    """The weights, and `champion.json`, which says what network they belong to."""
    write_student(champion, folder)


def write_torch_export(champion: StudentModel, folder: Path) -> None:
    """The graph as `torch.export` has it, for any number of images; bound to the release of torch
    that wrote it.
    """
    classifier, examples = _classifier(champion, folder)
    with quietly():
        program = torch.export.export(
            classifier, (examples,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
        )
        torch.export.save(program, folder / PROGRAM)
    write_description(champion, folder, PROGRAM)


def write_onnx(champion: StudentModel, folder: Path) -> None:
    """The graph in ONNX, for any number of images, with input `images` and output `probabilities`.

    Raises `RequestError` where the packages for it are not installed.
    """
    check_installed("onnx", "onnxscript", "onnxruntime")
    classifier, examples = _classifier(champion, folder)
    write_graph(classifier, examples, folder / GRAPH)
    _finish_graph(champion, folder / GRAPH)
    write_description(champion, folder, GRAPH)


def write_onnx_int8(champion: StudentModel, folder: Path) -> None:
    """The same with weights and activations in int8, by onnxruntime's static quantisation."""
    from distill_ray.export.int8 import quantise

    write_onnx(champion, folder)
    quantise(champion, folder)
    _finish_graph(champion, folder / GRAPH)
    write_description(champion, folder, GRAPH)


def write_graph(classifier: Classifier, examples: Tensor, file: Path) -> None:
    """Write the graph of a classifier of any number of images like `examples`, in ONNX."""
    if len(examples) == 1:  # torch.export takes a batch of one for a constant
        examples = torch.cat([examples, examples])
    with quietly():
        torch.onnx.export(
            classifier,
            (examples,),
            file,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _finish_graph(champion: StudentModel, file: Path) -> None:
    """Take out the shapes that the exporter noted before it optimised, which tools that change the
    graph stumble over, and write what its users must know into the metadata.
    """
    import onnx

    graph = onnx.load(file)
    del graph.graph.value_info[:]
    metadata = {
        "class_names": json.dumps(list(champion.class_names)),
        "preprocessing": json.dumps(champion.preprocessing.to_dict()),
        "temperature": str(champion.temperature),
        "job_id": champion.job.id,
    }
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, file)


def write_mlflow(champion: StudentModel, folder: Path) -> None:
    """The model as the registry has it, with its code."""
    with quietly():
        save_champion(champion, folder)


WRITERS: dict[str, Callable[[StudentModel, Path], None]] = {
    "safetensors": write_safetensors,
    "torch-export": write_torch_export,
    "onnx": write_onnx,
    "onnx-int8": write_onnx_int8,
    "mlflow": write_mlflow,
}
"""What writes a champion into an empty folder, by the name of the format."""


def _classifier(champion: StudentModel, folder: Path) -> tuple[Classifier, Tensor]:
    """The student to trace, and two images to trace it with."""
    write_student(champion, folder)
    network = load_student(folder, "cpu").network
    (folder / WEIGHTS).unlink()
    examples = torch.from_numpy(champion.examples.copy())
    if len(examples) == 1:  # which torch.export would take for the only number there is
        examples = examples.expand(2, -1, -1, -1)
    return Classifier(network, champion.temperature).eval(), examples
