"""A loss of the whole batch, in two parts by two workers, has the value and gradient of one."""

import pytest
import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Batch
from distill_ray.methods.method import Student
from distill_ray.methods.whole_batch import of_all_workers

ROWS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss_of(rows: Tensor) -> Tensor:
    """A loss that is no mean over rows."""
    return (rows @ rows.T).square().mean() + rows.std(0).prod()


def test_one_worker_has_its_own_rows() -> None:
    rows = ROWS.clone().requires_grad_()
    student = Student(torch.nn.Identity(), torch.nn.Identity())
    assert of_all_workers(student, Batch((), torch.arange(9)), rows) is rows


@pytest.mark.parametrize("split", [1, 4, 8])
def test_two_workers(split: int) -> None:
    """The loop weights each worker's loss by its images, times 2 / 9, and averages gradients."""
    whole = ROWS.clone().requires_grad_()
    loss_of(whole).backward()
    positions = torch.arange(18, 27)
    halves = []
    for own in (slice(0, split), slice(split, 9)):

        def gather(given: Tensor) -> Tensor:
            return positions if given.dtype == torch.int64 else ROWS

        student = Student(torch.nn.Identity(), torch.nn.Identity(), gather=gather)
        rows = ROWS[own].clone().requires_grad_()
        loss = loss_of(of_all_workers(student, Batch((), positions[own]), rows))
        torch.testing.assert_close(loss, loss_of(ROWS))
        (loss * len(rows) * 2 / 9).backward()
        halves.append(rows.grad / 2)
    torch.testing.assert_close(torch.cat(halves), whole.grad)
