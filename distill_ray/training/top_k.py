"""How predictions over many classes are stored: the largest logits, and the rest lumped together.

The others are restored as one value each, whose probabilities add up to theirs. So at temperature 1
the classes that are kept have exactly the probability that the teacher gave them, and the others
together do. At temperature T the total variation between the teacher's prediction and this one is
at most the mass of the others: for T below 1 the teacher's own, m(1), since the largest gain as T
falls; for T above 1 what the even tail has at T, since by Jensen's inequality that is no less than
the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.device import to_device

TAIL_BOUND = 2.0**-6
"""The largest change of predictions by an even tail: total variation at temperature 1, averaged
over images and teachers.

Beyond it all classes are kept.
"""


@dataclass(frozen=True, eq=False)
class Tail:
    """What belongs to logits (..., k), the largest of `num_classes`.

    `classes` (..., k), int16 or int32, says whose they are; `rest` (...), float32, is the logit
    that stands for each of the others: the logarithm of the mean of their exponentials.
    """

    classes: Tensor
    rest: Tensor
    num_classes: int

    @classmethod
    def joined(cls, pieces: Sequence[Tail]) -> Tail:
        """Several one below the other."""
        classes, rest = (
            torch.cat([getattr(piece, name) for piece in pieces]) for name in ("classes", "rest")
        )
        return cls(classes, rest, pieces[0].num_classes)

    def fits(self, shape: tuple[int, ...], num_classes: int) -> bool:
        """Whether this belongs to logits of that shape, out of so many classes."""
        return (
            self.num_classes == num_classes
            and self.classes.shape == shape
            and self.rest.shape == shape[:-1]
        )

    def flatten(self) -> Tail:
        """The first two axes as one."""
        return Tail(self.classes.flatten(0, 1), self.rest.flatten(0, 1), self.num_classes)

    def to(self, device: torch.device) -> Tail:
        """The same on `device`."""
        return Tail(self.classes.to(device), self.rest.to(device), self.num_classes)

    def sent(self, device: torch.device) -> Tail:
        """The same on `device`, without waiting for it."""
        return Tail(to_device(self.classes, device), to_device(self.rest, device), self.num_classes)

    def at(self, slots: Tensor) -> Tail:
        """The rows at `slots` (n,) of the first axis."""
        return Tail(
            self.classes.index_select(0, slots),
            self.rest.index_select(0, slots),
            self.num_classes,
        )


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tail]:
    """The `k` largest of logits (..., K), k below K, in descending order, and the tail that belongs
    to them.
    """
    num_classes = logits.shape[-1]
    largest, classes = logits.float().topk(k, -1)
    others = logits.float().scatter(-1, classes, -math.inf).logsumexp(-1) - math.log(
        num_classes - k
    )
    return largest, Tail(
        classes.to(torch.int16 if num_classes <= 2**15 else torch.int32), others, num_classes
    )


def with_even_tail(largest: Tensor, tail: Tail) -> Tensor:
    """Logits (..., K) of all classes from the largest (..., k)."""
    others = tail.rest.unsqueeze(-1).expand(*tail.rest.shape, tail.num_classes)
    return others.scatter(-1, tail.classes.long(), largest)


def total_variation(logits: Tensor, others: Tensor, temperature: float = 1.0) -> Tensor:
    """Half the sum over classes of |p - q| for the softened predictions of logits (..., K): (...),
    from 0 to 1.
    """
    p, q = ((values.float() / temperature).softmax(-1) for values in (logits, others))
    return 0.5 * (p - q).abs().sum(-1)
