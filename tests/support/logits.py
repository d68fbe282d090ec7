"""Teacher logits as tests look at them."""

from __future__ import annotations

import numpy as np

from distill_ray.device import as_tensor
from distill_ray.training import TeacherLogits
from distill_ray.training.top_k import with_even_tail


def logits_of_part(teacher_logits: TeacherLogits, number: int) -> np.ndarray:
    """The logits of every teacher for all images of a part, float32 (N, positions * versions, K),
    in the epoch's order.
    """
    rows = teacher_logits.logits[number]
    if teacher_logits.tails:
        rows = with_even_tail(as_tensor(rows).float(), teacher_logits.tails[number]).numpy()
    return np.ascontiguousarray(rows.reshape(-1, *rows.shape[2:]).swapaxes(0, 1), dtype=np.float32)
