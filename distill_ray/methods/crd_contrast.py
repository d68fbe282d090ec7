"""Memory and loss of contrastive representation distillation, after Tian, Krishnan & Isola 2020 and
their published code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.augmentation.augmentation import Batch
from distill_ray.device import to_device
from distill_ray.methods.method import Setup
from distill_ray.models.network import with_features


class ContrastiveStudent(nn.Module):
    """A network that also embeds its features, with the last embeddings of every training image by
    student and teachers.

    Images (B, C, H, W) to logits (B, K); a pass in training appends the embedding of its images to
    `embeddings`. The features of several teachers are concatenated. Raises `ValueError` for
    networks outside of the catalogue.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_means: Tensor

    def __init__(self, network: nn.Module, setup: Setup, width: int) -> None:
        super().__init__()
        student, *teachers = (with_features(member) for member in (network, *setup.networks))
        stream = int.from_bytes(hashlib.sha256(f"contrast {student.seed}".encode()).digest()[:7])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream)
            project_student = nn.Linear(student.classifier.in_features, width)
            project_teachers = nn.Linear(
                sum(teacher.classifier.in_features for teacher in teachers), width
            )
            banks = (torch.rand(2, len(setup.rows), width) * 2 - 1) * math.sqrt(3 / width)
        self.network = student
        self.project_student = project_student
        self.project_teachers = project_teachers
        self.register_buffer("student_bank", banks[0].clone())
        self.register_buffer("teacher_bank", banks[1].clone())
        self.register_buffer("log_means", torch.full((2,), torch.nan))
        self.candidates = Candidates(np.asarray(setup.rows), np.asarray(setup.labels))
        self.embeddings: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the network."""
        features = self.network.features(self.network.normalise(images))
        if self.training:
            self.embeddings.append(self.project_student(features))
        logits: Tensor = self.network.classifier(features)
        return logits

    def contrast(
        self,
        embedding: Tensor,
        teacher_features: Tensor,
        batch: Batch,
        *,
        negatives: int,
        temperature: float,
        momentum: float,
        gather: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The loss for the images of `batch`, whose embeddings then enter the memory banks.

        `embedding` (B, D) is the student's, `teacher_features` (B, sum of the teachers') are not
        yet embedded; `gather` concatenates the rows of all workers. Raises `ValueError` for a batch
        that does not say which rows it holds.
        """
        anchors = [
            functional.normalize(augmentation.float(), dim=1)
            for augmentation in (embedding, self.project_teachers(teacher_features))
        ]
        own, others = self.candidates.draw(batch, negatives)
        chosen = torch.cat([own.unsqueeze(1), others], 1)
        losses = []
        for side, (anchor, bank) in enumerate(
            zip(anchors, (self.teacher_bank, self.student_bank), strict=True)
        ):
            similarity = (anchor @ bank.T).gather(1, chosen) / temperature
            losses.append(
                noise_contrastive(similarity, self._log_mean(side, similarity.detach(), gather))
            )
        with torch.no_grad():
            slots = gather(own)
            self.student_bank, self.teacher_bank = (
                remember(bank, slots, gather(anchor.detach()), momentum)
                for anchor, bank in zip(
                    anchors, (self.student_bank, self.teacher_bank), strict=True
                )
            )
        return losses[0] + losses[1]

    def _log_mean(
        self, side: int, similarity: Tensor, gather: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Log of the mean of exp(similarity), of the first batch of the run ever after."""
        everywhere = gather(similarity.logsumexp(1))
        log_mean = everywhere.logsumexp(0) - math.log(len(everywhere) * similarity.shape[1])
        self.log_means[side] = torch.where(
            self.log_means[side].isnan(), log_mean, self.log_means[side]
        )
        return self.log_means[side].clone()


def noise_contrastive(similarity: Tensor, log_mean: Tensor) -> Tensor:
    """Mean over images of -log h(own) - sum over negatives of log(1 - h), h the probability of not
    being noise.

    `similarity` (B, 1 + K) holds that to the image itself and to K negatives, over the temperature.
    With the scores exp(similarity) / Z, Z being n times their mean in the first batch, and K / n
    the chance of noise, n drops out: the log odds of h are similarity - log_mean - log K.
    """
    log_odds = similarity - log_mean - math.log(similarity.shape[1] - 1)
    return (
        functional.softplus(-log_odds[:, 0]).mean()
        + functional.softplus(log_odds[:, 1:]).sum(1).mean()
    )


def remember(bank: Tensor, slots: Tensor, vectors: Tensor, momentum: float) -> Tensor:
    """`bank` (n, D) with `momentum` times the old and the rest of the new vectors (B, D) in `slots`
    (B,), of length 1 again.
    """
    return bank.index_copy(
        0, slots, functional.normalize(momentum * bank[slots] + (1 - momentum) * vectors, dim=1)
    )


def features_of(networks: Sequence[nn.Module], images: Tensor) -> Tensor:
    """The concatenated features of several networks, (B, sum of D)."""
    features = [
        network.features(network.normalise(images)) for network in map(with_features, networks)
    ]
    return torch.cat(features, 1)


class Candidates(nn.Module):
    """Which remembered images are compared: the own one, and others of other classes.

    `rows` (n,) are the training images among those of the data set, `labels` (n,) theirs; a slot is
    a place among `rows`.
    """

    slot_of_row: Tensor
    labels: Tensor
    by_class: Tensor
    first_of_class: Tensor

    def __init__(self, rows: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        slot_of_row = np.zeros(rows.max(initial=-1) + 1, dtype=np.int64)
        slot_of_row[rows] = np.arange(len(rows))
        by_class = np.argsort(labels, kind="stable")
        first_of_class = np.searchsorted(labels[by_class], np.arange(labels.max(initial=-1) + 2))
        values = {
            "slot_of_row": slot_of_row,
            "labels": labels,
            "by_class": by_class,
            "first_of_class": first_of_class,
        }
        for name, array in values.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.int64), persistent=False)

    def draw(self, batch: Batch, negatives: int) -> tuple[Tensor, Tensor]:
        """The slots (B,) of the batch's images, and for each those of `negatives` images of other
        classes, with replacement.

        The second has the shape (B, negatives). Raises `ValueError` for a batch that does not say
        which rows it holds.
        """
        if batch.rows is None:
            raise ValueError("rows of the batch are needed to tell its images apart")
        start = int(batch.positions[0])
        drawn = batch.draws.uniform("negatives", start, start + len(batch.rows), negatives)
        rows, uniform = (
            to_device(values, self.labels.device)
            for values in (batch.rows, torch.from_numpy(drawn))
        )
        own = self.slot_of_row[rows]
        label = self.labels[own].unsqueeze(1)
        first, stop = self.first_of_class[label], self.first_of_class[label + 1]
        places = (uniform * (len(self.labels) - (stop - first))).long()
        places += (places >= first) * (stop - first)
        return own, self.by_class.index_select(0, places.view(-1)).view_as(places)
