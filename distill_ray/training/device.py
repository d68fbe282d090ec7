"""Where training runs: the device, the precision used there, and this process's place among the
workers.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill_ray.errors import RequestError
from distill_ray.job import Computation, Recipe
from distill_ray.models.catalogue import is_dense
from distill_ray.training import _torch_internals

Precision = Literal["fp32", "bf16"]

AUTO_PRECISION = "DISTILL_RAY_PRECISION"
"""The environment variable that says what `precision: auto` is, on every kind of machine alike."""


def precision_of(
    recipe: Recipe, image_shape: tuple[int, int, int], device: torch.device
) -> Precision:
    """The precision of the recipe's forward passes in training on images (C, H, W).

    `auto` is what the environment variable `DISTILL_RAY_PRECISION` says, fp32 or bf16. Where it is
    unset, it is bf16 if `device` multiplies matrices faster in it, as CUDA devices since Ampere and
    CPUs with AMX or AVX512-BF16 do; on a CPU only for networks that mainly do that on images of
    such a size, since most grouped and depthwise convolutions are slower in it, and the conversion
    of weights takes longer than what few pixels gain (BENCHMARKS.md). Raises `RequestError` if the
    variable has another value.
    """
    if recipe.precision != "auto":
        return recipe.precision
    match os.environ.get(AUTO_PRECISION, ""):
        case "fp32":
            return "fp32"
        case "bf16":
            return "bf16"
        case "":
            pass
        case other:
            raise RequestError(f"{AUTO_PRECISION} must be fp32 or bf16, not {other!r}")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    faster = _torch_internals.cpu_has_amx() or _torch_internals.cpu_has_avx512_bf16()
    resized = recipe.preprocessing.size if recipe.preprocessing else None
    side = resized or min(image_shape[1:])
    return "bf16" if faster and is_dense(recipe.model, side) else "fp32"


def precision_of_teachers(
    recipes: Iterable[Recipe], image_shape: tuple[int, int, int], device: torch.device
) -> Precision:
    """The precision of the teachers' forward passes for images (C, H, W): bf16 if all of them are
    trained in it on such images.
    """
    precisions = {precision_of(recipe, image_shape, device) for recipe in recipes}
    return "bf16" if precisions == {"bf16"} else "fp32"


def computation_of(
    recipe: Recipe, image_shape: tuple[int, int, int], worker: Worker
) -> Computation:
    """What computes a job on images (C, H, W) in this process."""
    return Computation(
        precision=precision_of(recipe, image_shape, worker.device),
        device=device_name(worker.device),
        threads=torch.get_num_threads(),
        workers=worker.world_size,
        torch=torch.__version__,
    )


def device_name(device: torch.device) -> str:
    """The GPU's name, or that of the processor as the operating system calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of a forward pass in that precision.

    What is computed in float32 is so in all of its digits, on a GPU too, from here on in this
    process and in backward passes: torch's default leaves convolutions there ten bits (TF32).
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def gradients_kept(forward: object) -> AbstractContextManager[object]:
    """The context of a pass whose gradients this worker adds up and does not yet exchange with the
    others, if `forward` does that at all.
    """
    if isinstance(forward, nn.parallel.DistributedDataParallel):
        return forward.no_sync()
    return nullcontext()


@dataclass(frozen=True)
class Worker:
    """This process's place: a device, and a rank among the workers that share each batch."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def here(cls, *, gpu: bool = True) -> Worker:
        """The place as torch and its process group, if there is one, see it: on a GPU if there is
        one and `gpu` allows it.
        """
        on_gpu = gpu and torch.cuda.is_available()
        device = (
            torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        )
        if dist.is_available() and dist.is_initialized():
            return cls(device, dist.get_rank(), dist.get_world_size())
        return cls(device)

    def parallel(self, student: nn.Module) -> nn.Module:
        """`student` with gradients averaged over the workers."""
        if self.world_size == 1:
            return student
        return nn.parallel.DistributedDataParallel(student, broadcast_buffers=False)

    def average_buffers(self, module: nn.Module) -> None:
        """Make the running statistics of all workers their mean, as they are after each epoch."""
        if self.world_size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.world_size

    def agreed(self, content: bytes | None) -> bytes | None:
        """The first worker's `content`, on all of them; what the others give counts for nothing."""
        if self.world_size == 1:
            return content
        own = content if self.rank == 0 else None
        size = torch.tensor([-1 if own is None else len(own)], device=self.device)
        dist.broadcast(size, 0)
        if size.item() < 0:
            return None
        received = torch.empty(int(size.item()), dtype=torch.uint8, device=self.device)
        if own:
            received.copy_(torch.frombuffer(bytearray(own), dtype=torch.uint8))
        dist.broadcast(received, 0)
        return received.cpu().numpy().tobytes()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value`, of any shape, over the workers; it is changed in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def gather(self, rows: Tensor, shares: Sequence[int] = ()) -> Tensor:
        """The concatenated rows (n, ...) of all workers, (sum of n, ...), however many each has.

        Where every worker has the same number of rows for each image of its share of a batch,
        `shares` says how many images those shares have, above 0. Without it the workers exchange
        their numbers of rows, and the host waits for them.
        """
        if self.world_size == 1:
            return rows
        if shares:
            counts = [len(rows) // shares[self.rank] * share for share in shares]
        else:
            lengths = [
                torch.zeros(1, dtype=torch.int64, device=rows.device)
                for _ in range(self.world_size)
            ]
            dist.all_gather(lengths, torch.tensor([len(rows)], device=rows.device))
            counts = [int(length) for length in lengths]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
