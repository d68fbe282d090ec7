"""A training step in bfloat16 against one in float32: images per second of CPU time.

    uv run python benchmarks/precisions.py wrn-16-2@32 torchvision/resnet18@224 --batch 8

One thread, random images of the size after the @, SGD. The two take turns; medians over the rounds,
of which the first is left out, and what `precision: auto` takes here. The ratio is the median of
those of each round, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from distill_ray.job import Recipe
from distill_ray.methods import Supervised
from distill_ray.models import build_model
from distill_ray.training.device import Precision, autocast, precision_of

CPU = torch.device("cpu")
CLASSES = 100


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Compare precisions of training.")
    parser.add_argument("models", nargs="+", metavar="MODEL@SIZE")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| | fp32 | bf16 | ratio | auto |\n|---|---|---|---|---|")
    for text in arguments.models:
        model, _, size = text.partition("@")
        side = int(size)
        rates, ratio = images_per_second(model, side, arguments.batch, arguments.rounds)
        recipe = Recipe(model=model, method=Supervised(), epochs=1)
        auto = precision_of(recipe, (3, side, side), CPU)
        shown = " | ".join(f"{rate:.1f}" for rate in rates.values())
        print(f"| {text} | {shown} | {ratio:.2f} | {auto} |", flush=True)


def images_per_second(
    model: str, size: int, batch: int, rounds: int
) -> tuple[dict[Precision, float], float]:
    """The speed of training steps in each precision, and how many times as fast bf16 is."""
    network = build_model(model, num_classes=CLASSES, image_shape=(3, size, size), seed=0)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,))
    times: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(rounds + 1):
        for precision, spent in times.items():
            begun = time.process_time()
            _step(network, optimizer, images, labels, precision)
            spent.append(time.process_time() - begun)
    pairs = zip(times["fp32"][1:], times["bf16"][1:], strict=True)
    ratio = statistics.median(fp32 / bf16 for fp32, bf16 in pairs)
    return {name: batch / statistics.median(spent[1:]) for name, spent in times.items()}, ratio


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: Precision,
) -> None:
    with autocast(CPU, precision):
        logits = network(images).float()
    optimizer.zero_grad()
    functional.cross_entropy(logits, labels).backward()
    optimizer.step()


if __name__ == "__main__":
    main()
