"""What an error says, in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distill_ray.errors import Failure, first_line, out_of_memory


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n\n  second  \nthird"), "second"),
        (KeyError(), "KeyError"),
        (ValueError(""), "ValueError"),
        (ValueError("x" * 400), "x" * 300 + "..."),
    ],
)
def test_the_first_line_that_says_something(error: Exception, line: str) -> None:
    assert first_line(error) == line


class OutOfMemoryError(RuntimeError):
    """As torch raises it for a GPU."""


def no_room_on_the_gpu() -> None:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 1")


@pytest.mark.parametrize(
    ("allocate", "amount"),
    [
        (lambda: torch.empty(2**45), "140737488355328 bytes"),
        (lambda: np.empty(2**46), "512. TiB"),
        (lambda: bytearray(2**50), ""),
        (no_room_on_the_gpu, "2.00 GiB"),
    ],
)
def test_what_needs_too_much_memory_says_what_takes_less(
    allocate: Callable[[], object], amount: str
) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    line = out_of_memory(caught.value)
    assert line is not None
    begun = f"out of memory, {amount} at once: " if amount else "out of memory: "
    assert line.startswith(f"{begun}smaller images (data.size, ")
    assert Failure.of(caught.value) == Failure("job", line)
    assert out_of_memory(RuntimeError("shapes differ")) is None
