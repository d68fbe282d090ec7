"""Engines for the pass in which teachers answer: images per second of CPU time over eager torch.

    uv pip install openvino
    uv run --extra onnx python benchmarks/teacher_engines.py wrn-40-2

One thread, random weights, which cost the same, random images with crop and flip. A pass is all of
`compute_teacher_logits`. The engines take turns for some rounds; what is printed is the median,
what it takes to get an engine ready, how far its logits are from those of eager torch in float32,
and the mean total variation between its predictions and those. `program, bf16` is what teachers do
where `precision: auto` is bf16, `program` what they do elsewhere.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill_ray.augmentation import CropFlip
from distill_ray.augmentation.augmentation import Part
from distill_ray.job import Data, Split
from distill_ray.models import build_model
from distill_ray.training import Dataset, TeacherLogits, TeacherLogitsKey, compute_teacher_logits
from distill_ray.training.device import autocast
from distill_ray.training.fused import FusedForward
from distill_ray.training.teacher_logits import BATCH
from distill_ray.training.top_k import total_variation

CPU = torch.device("cpu")
CLASSES = 100

Engine = Callable[[Tensor], Tensor]


def eager(network: nn.Module, images: Tensor) -> Engine:
    """Torch, layer by layer, channels last."""
    return network


def bf16(network: Engine, images: Tensor) -> Engine:
    """The same in bfloat16."""

    def answer(batch: Tensor) -> Tensor:
        with autocast(CPU, "bf16"):
            logits: Tensor = network(batch)
        return logits.float()

    return answer


def folded(network: nn.Module, images: Tensor) -> Engine:
    """Batch normalisation folded into the convolutions before it, where there is one."""
    from torch.fx.experimental.optimization import fuse

    return fuse(network).to(memory_format=torch.channels_last)


def folded_bf16(network: nn.Module, images: Tensor) -> Engine:
    """The same in bfloat16."""
    return bf16(folded(network, images), images)


def compiled(network: nn.Module, images: Tensor) -> Engine:
    """Inductor with frozen weights."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(network, dynamic=False)


def onnx_runtime(network: nn.Module, images: Tensor) -> Engine:
    """ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(_exported(network, images), options)
    (name,) = (each.name for each in session.get_inputs())
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def program(network: nn.Module, images: Tensor) -> Engine:
    """One program of oneDNN's graph compiler: what teachers are on a CPU in passes over many
    images.
    """
    return FusedForward(network, "fp32")


def program_bf16(network: nn.Module, images: Tensor) -> Engine:
    """The same in bfloat16."""
    return FusedForward(network, "bf16")


def openvino(network: nn.Module, images: Tensor) -> Engine:
    """OpenVINO, told to compute in float32."""
    return _openvino(network, images, "f32")


def openvino_bf16(network: nn.Module, images: Tensor) -> Engine:
    """OpenVINO, told to compute in bfloat16."""
    return _openvino(network, images, "bf16")


ENGINES = {
    "eager": eager,
    "folded": folded,
    "compiled": compiled,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
    "program": program,
    "eager, bf16": bf16,
    "folded, bf16": folded_bf16,
    "program, bf16": program_bf16,
    "openvino, bf16": openvino_bf16,
}


def _openvino(network: nn.Module, images: Tensor, precision: str) -> Engine:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    core = openvino.Core()
    program = core.compile_model(core.read_model(_exported(network, images)), "CPU", settings)
    request = program.create_infer_request()
    return lambda batch: torch.from_numpy(np.array(request.infer([batch.numpy()])[0]))


def _exported(network: nn.Module, images: Tensor) -> str:
    path = Path(tempfile.mkdtemp()) / "teacher.onnx"
    torch.onnx.export(network, (images.contiguous(),), str(path), dynamo=True, verbose=False)
    return str(path)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def random_images(size: int, count: int) -> Dataset:
    """Noise, square images of `size` pixels."""
    generator = np.random.default_rng(0)
    return Dataset(
        images=generator.integers(0, 256, (count + 1, size, size, 3), dtype=np.uint8),
        labels=np.zeros(count + 1, np.int64),
        train=np.arange(count),
        validation=np.arange(count, count + 1),
        class_names=tuple(map(str, range(CLASSES))),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def with_statistics(network: nn.Module, images: Tensor) -> nn.Module:
    """The network in evaluation mode, its normalisation with the statistics of those images."""
    network.train()
    for _ in range(20):
        network(images)
    return network.eval().requires_grad_(False)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Compare engines for teachers.")
    parser.add_argument("model", nargs="?", default="wrn-40-2")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=2 * BATCH)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)

    dataset = random_images(arguments.size, arguments.images)
    shape = 3, arguments.size, arguments.size
    network = build_model(arguments.model, num_classes=CLASSES, image_shape=shape, seed=0)
    network = network.to(memory_format=torch.channels_last)
    images = torch.rand(min(BATCH, arguments.images), *shape)
    images = images.contiguous(memory_format=torch.channels_last)
    network = with_statistics(network, images)
    data = Data(name="x", digest="0" * 32, location="x", label="y", split=Split(validation=1))
    key = TeacherLogitsKey(
        teachers=("a",), data=data, augmentation=CropFlip(), seed=0, batch_size=None,
        precision="fp32", exact=True,
    )  # fmt: skip

    def answers(engine: Engine) -> TeacherLogits:
        def teachers(part: Part) -> Tensor:
            return engine(part.images)[None]

        return compute_teacher_logits(key, 1, teachers, dataset, CPU)  # type: ignore[arg-type]

    expected = torch.from_numpy(answers(network).logits[0])
    print(f"logits with a standard deviation of {float(expected.std()):.2g}", flush=True)
    ready: dict[str, Engine] = {}
    for name in arguments.engines:
        begun = time.perf_counter()
        try:
            ready[name] = ENGINES[name](network, images)
            ready[name](images)
        except Exception as error:  # an engine that is not installed, or cannot take the network
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            ready.pop(name, None)
            continue
        seconds = time.perf_counter() - begun
        logits = torch.from_numpy(answers(ready[name]).logits[0])
        off = float((logits - expected).abs().max())
        moved = float(total_variation(logits, expected).mean())
        print(f"{name}: ready in {seconds:.1f} s, off by {off:.1e}, {moved:.1e}", flush=True)

    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(arguments.rounds):
        for name, engine in ready.items():
            begun = _cpu_seconds()
            answers(engine)
            times[name].append(_cpu_seconds() - begun)
    print("| engine | images/s of CPU time | over eager |\n|---|---|---|")
    base = statistics.median(times["eager"])
    for name, spent in times.items():
        median = statistics.median(spent)
        print(f"| {name} | {arguments.images / median:.1f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
