"""Batches made ahead of the step that trains on them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Batch


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches; on a GPU a thread makes the next one, on a stream of its own, while a step
    computes.

    Augmentations are pure functions, so nothing but the time changes. On a CPU such a thread slows
    the step by as much as it saves (BENCHMARKS.md), so batches are made on demand.
    """
    if device.type != "cuda":
        return batches
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # on which the images were brought there
    return ahead(batches, stream)


@functools.lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that makes batches, one for all epochs and jobs of a process: what its memory is
    kept for is a stream.

    Its priority sets it apart from those of torch's pool that CUDA graphs may be captured on, and
    lets a batch be made between the kernels of a step.
    """
    return torch.cuda.Stream(device, priority=-1)


def ahead(batches: Iterator[Batch], stream: torch.cuda.Stream | None = None) -> Iterator[Batch]:
    """Batches made by a thread, one ahead of who asks for them; their tensors are ready for the
    stream of who asks.
    """

    def make() -> tuple[Batch, torch.cuda.Event | None] | None:
        with torch.cuda.stream(stream):  # for None it does nothing
            batch = next(batches, None)
            if batch is None:
                return None
            return batch, stream.record_event() if stream else None

    with ThreadPoolExecutor(1, thread_name_prefix="augmentations") as thread:
        coming = thread.submit(make)
        while made := coming.result():
            coming = thread.submit(make)
            batch, ready = made
            if ready is not None:
                using = torch.cuda.current_stream(ready.device)
                using.wait_event(ready)
                for tensor in _tensors(batch):
                    # Its memory is not given to a later batch before this stream is done with it
                    tensor.record_stream(using)
            yield batch


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for part in batch.parts:
        values = (getattr(part, field.name) for field in fields(part))
        yield from (value for value in values if isinstance(value, Tensor) and value.is_cuda)
