"""CutMixPick: of a pool of augmented images, those that the networks find hardest to classify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Criterion, Part, Pick
from distill_ray.augmentation.kernels.geometry import take
from distill_ray.device import to_device
from distill_ray.probabilities import at_least_float32, log_mean_softmax


def as_they_are(logits: Tensor) -> Tensor:
    """Logits at temperature 1."""
    return logits


def pool(parts: Sequence[Part], choice: Pick) -> Part:
    """The images of several parts as one pool, for `choice` to be made among them."""

    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if present else None

    return Part(
        torch.cat([part.images for part in parts]).contiguous(memory_format=torch.channels_last),
        torch.cat([part.labels for part in parts]),
        joined([part.partner_labels for part in parts]),
        joined([part.label_weight for part in parts]),
        pick=choice,
    )


@torch.no_grad()
def pick(
    part: Part,
    student: Callable[[Tensor], Tensor],
    teachers: Callable[[Part], Tensor],
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    softened: Callable[[Tensor], Tensor] = as_they_are,
) -> tuple[Part, Tensor]:
    """The images that `part.pick` asks for, as a part, and the teachers' logits (N, B, K) for them.

    `student` maps images to logits (B, K), or (B, M, K) for M members. A part without a pick is
    returned as it is. `gather` concatenates the rows of all workers; with several of them the pools
    are joined, and the picked images are those that one worker would pick. `softened` divides
    logits by the temperature at which the criterion `kl` compares. Only the networks that
    the criterion asks for see the whole pool, and `student` sees it in whatever mode it is given:
    pass it in evaluation mode unless its running statistics are to be updated by the pool too, as
    in the published code.

    Source: Wang et al. 2022, "What makes a good data augmentation in knowledge distillation".
    """
    choice = part.pick
    if choice is None:
        return part, teachers(part)
    answers = None if choice.criterion == "student-entropy" else teachers(part)
    logits = None if choice.criterion == "teacher-entropy" else student(part.images)
    difficulty = gather(scores(choice.criterion, logits, answers, softened))
    chosen = highest(difficulty, choice.total)[choice.start : choice.stop]

    def taken(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else gather(rows).index_select(0, chosen)

    picked = replace(
        part,
        images=take(gather(part.images), chosen),
        labels=gather(part.labels).index_select(0, chosen),
        partner_labels=taken(part.partner_labels),
        label_weight=taken(part.label_weight),
        pick=None,
        slots=None if part.slots is None else taken(to_device(part.slots, chosen.device)),
    )
    if answers is None:
        return picked, teachers(picked)
    return picked, gather(answers.transpose(0, 1)).index_select(0, chosen).transpose(0, 1)


def scores(
    criterion: Criterion,
    student: Tensor | None,
    teachers: Tensor | None,
    softened: Callable[[Tensor], Tensor] = as_they_are,
) -> Tensor:
    """The score of each image by `criterion`: (B,), in nats.

    The entropies are those of the mean prediction of `student` (B, K) or (B, M, K), or of
    `teachers` (N, B, K), at temperature 1. `kl` is KL(teachers || student) between the mean
    predictions of `softened` logits, as the method compares them, without the factor T².

    Raises `ValueError` when the logits that the criterion needs are missing.
    """
    if criterion != "kl":
        softened = as_they_are
    log_p = log_q = None
    if criterion != "teacher-entropy":
        if student is None:
            raise ValueError(f"student: {criterion} needs the student's logits")
        members = student if student.ndim == 3 else student.unsqueeze(1)
        log_p = log_mean_softmax(softened(at_least_float32(members)), dim=1)
    if criterion != "student-entropy":
        if teachers is None:
            raise ValueError(f"teachers: {criterion} needs the teachers' logits")
        log_q = log_mean_softmax(softened(at_least_float32(teachers)), dim=0)
    if log_p is not None and log_q is not None:
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    alone = log_p if log_q is None else log_q
    assert alone is not None
    return -(alone.exp() * alone).sum(-1)


def highest(score: Tensor, count: int) -> Tensor:
    """The indices (count,) of the highest of `score` (B,), in ascending order of score; of equal
    ones the last.
    """
    return score.sort(stable=True).indices[-count:]
