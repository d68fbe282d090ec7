"""Contrastive representation distillation against the published formulas, spelled out."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import AUGMENTATIONS, Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.methods.crd import CRD
from distill_ray.methods.crd_contrast import (
    Candidates,
    ContrastiveStudent,
    features_of,
    noise_contrastive,
    remember,
)
from distill_ray.methods.method import Setup, Student
from distill_ray.models import build_model
from support.teachers import NetworkTeachers

ROWS = np.array([3, 0, 7, 12, 5, 9, 1, 8])
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0])


def published_loss(similarity: Tensor, mean: float, images: int) -> Tensor:
    """Scores over Z, then the logarithms of both probabilities, with the published 1e-7."""
    scores = similarity.exp() / (mean * images)
    negatives = similarity.shape[1] - 1
    noise = negatives / images
    own = (scores[:, 0] / (scores[:, 0] + noise + 1e-7)).log()
    others = (noise / (scores[:, 1:] + noise + 1e-7)).log()
    return -(own.sum() + others.sum()) / len(similarity)


@pytest.mark.parametrize("images", [10, 1000, 50_000])
def test_the_number_of_images_drops_out(images: int) -> None:
    similarity = 3 * torch.randn(
        4, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    mean = 1.7
    loss = noise_contrastive(similarity, torch.tensor(math.log(mean), dtype=torch.float64))
    assert loss.item() == pytest.approx(published_loss(similarity, mean, images).item(), rel=1e-3)


def test_saturated_similarities_stay_finite() -> None:
    similarity = torch.tensor([[300.0, -300.0, 300.0]], requires_grad=True)
    loss = noise_contrastive(similarity, torch.tensor(0.0))
    loss.backward()
    assert loss.isfinite()
    assert similarity.grad.isfinite().all()


def test_what_is_remembered() -> None:
    bank = torch.eye(4)[:3].clone()
    vectors = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    updated = remember(bank, torch.tensor([0, 2]), vectors, momentum=0.5)
    root = math.sqrt(0.5)
    expected = torch.tensor([[root, root, 0, 0], [0, 1, 0, 0], [0, 0, root, root]])
    torch.testing.assert_close(updated, expected)
    torch.testing.assert_close(bank, torch.eye(4)[:3])


def batch_of(rows: list[int], start: int = 0, epoch: int = 1) -> Batch:
    labels = torch.tensor([LABELS[list(ROWS).index(row)] for row in rows])
    images = torch.stack(
        [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(row)) for row in rows]
    )
    positions = torch.arange(start, start + len(rows))
    return Batch(
        (Part(images, labels),), positions, torch.tensor(rows), draws=Draws(seed=1, epoch=epoch)
    )


def test_negatives_are_of_other_classes_and_all_of_them_occur() -> None:
    candidates = Candidates(ROWS, LABELS)
    own, others = candidates.draw(batch_of([7, 0, 12]), 500)
    assert own.tolist() == [2, 1, 3]
    assert others.shape == (3, 500)
    for slot, drawn in zip(own.tolist(), others, strict=True):
        expected = {other for other in range(8) if LABELS[other] != LABELS[slot]}
        assert set(drawn.tolist()) == expected
        assert np.bincount(drawn, minlength=8)[list(expected)].min() > 500 / len(expected) / 2


def test_draws_belong_to_positions() -> None:
    candidates = Candidates(ROWS, LABELS)
    _, whole = candidates.draw(batch_of([7, 0, 12, 5]), 50)
    _, second_half = candidates.draw(batch_of([12, 5], start=2), 50)
    assert torch.equal(whole[2:], second_half)
    _, later = candidates.draw(batch_of([12, 5], start=2, epoch=2), 50)
    assert not torch.equal(second_half, later)


LIVE = NetworkTeachers(
    [
        build_model("wrn-10-1", num_classes=3, image_shape=(3, 8, 8), seed=10),
        build_model("wrn-10-2", num_classes=3, image_shape=(3, 8, 8), seed=11),
    ]
)
METHOD = CRD(negatives=6, embedding=5, temperature=2.0)


def make_student(method: CRD = METHOD, *, batch_statistics: bool = True) -> nn.Module:
    plain = build_model("wrn-10-1", num_classes=3, image_shape=(3, 8, 8), seed=0)
    if not batch_statistics:
        for layer in plain.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.forward = lambda maps: maps
    return method.student(
        plain, Setup(teachers=2, networks=LIVE.networks, rows=ROWS, labels=LABELS)
    )


class Desk:
    """Where two workers, in threads, exchange their rows."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.rows: dict[int, Tensor] = {}

    def gather(self, rank: int, rows: Tensor) -> Tensor:
        self.rows[rank] = rows
        self.barrier.wait(10)
        everything = torch.cat([self.rows[0], self.rows[1]])
        self.barrier.wait(10)
        return everything


def test_two_steps_against_the_published_procedure() -> None:
    network = make_student(batch_statistics=False)
    assert isinstance(network, ContrastiveStudent)
    banks = {"student": network.student_bank.clone(), "teacher": network.teacher_bank.clone()}
    means: dict[str, float] = {}
    for epoch in (1, 2):
        batch = batch_of([7, 0, 12, 5], epoch=epoch)
        with torch.no_grad():
            features = network.network.features(network.network.normalise(batch.parts[0].images))
            of_teachers = features_of(LIVE.networks, batch.parts[0].images)
            augmentations = {
                "student": nn.functional.normalize(network.project_student(features), dim=1),
                "teacher": nn.functional.normalize(network.project_teachers(of_teachers), dim=1),
            }
        own, others = Candidates(ROWS, LABELS).draw(batch, 6)
        chosen = torch.cat([own[:, None], others], 1)
        expected = 0.0
        for anchor, bank in (("student", "teacher"), ("teacher", "student")):
            similarity = (
                torch.einsum("bd,bkd->bk", augmentations[anchor], banks[bank][chosen]) / 0.07
            )
            means.setdefault(anchor, similarity.exp().mean().item())
            expected += published_loss(similarity, means[anchor], len(ROWS)).item()
        for side, bank in banks.items():
            for slot, augmentation in zip(own.tolist(), augmentations[side], strict=True):
                updated = 0.5 * bank[slot] + 0.5 * augmentation
                bank[slot] = updated / updated.norm()
        terms = METHOD.loss(Student(network, network), batch, LIVE)
        assert terms["loss/contrast"].item() == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(network.student_bank, banks["student"])
        torch.testing.assert_close(network.teacher_bank, banks["teacher"])


def test_the_loss_adds_to_distillation_and_every_weight_learns() -> None:
    network = make_student()
    batch = batch_of([7, 0, 12, 5])
    terms = METHOD.loss(Student(network, network), batch, LIVE)
    terms["loss"].backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in network.parameters()
    )
    network.eval()
    logits = network(batch.parts[0].images)
    assert len(network.embeddings) == 1
    assert logits.shape == (4, 3)
    total = terms["loss/labels"] + terms["loss/original"] + 0.8 * terms["loss/contrast"]
    torch.testing.assert_close(terms["loss"], total)


def test_copies_get_no_contrastive_loss() -> None:
    method = CRD(negatives=6, embedding=5)
    batch = batch_of([7, 0, 12, 5])
    copies = Part(1 - batch.parts[0].images, batch.parts[0].labels)
    both = Batch((*batch.parts, copies), batch.positions, batch.rows, draws=batch.draws)
    network, other = make_student(method), make_student(method)
    one, two = (
        method.loss(Student(network, network), batch, LIVE),
        method.loss(Student(other, other), both, LIVE),
    )
    torch.testing.assert_close(one["loss/contrast"], two["loss/contrast"])
    torch.testing.assert_close(two["loss"] - one["loss"], two["loss/augmented"])
    assert two["loss/augmented"] > 0


def test_the_first_weights_are_a_function_of_the_network() -> None:
    torch.manual_seed(1)
    first = make_student().state_dict()
    torch.manual_seed(2)
    second = make_student().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first if name != "log_means")


def test_memory_survives_a_checkpoint() -> None:
    network, batch = make_student(), batch_of([7, 0, 12, 5])
    METHOD.loss(Student(network, network), batch, LIVE)
    resumed = make_student()
    resumed.load_state_dict(network.state_dict())
    again = batch_of([7, 0, 12, 5], epoch=2)
    torch.testing.assert_close(
        METHOD.loss(Student(network, network), again, LIVE)["loss"],
        METHOD.loss(Student(resumed, resumed), again, LIVE)["loss"],
    )


def test_two_workers_remember_what_one_would() -> None:
    """Two halves of a batch, with batch statistics, which are each worker's own, out of play."""
    whole, *halves = (make_student(batch_statistics=False) for _ in range(3))
    rows = [7, 0, 12], [5, 9, 1]
    for epoch in (1, 2):
        desk = Desk()

        def work(rank: int, desk: Desk = desk, epoch: int = epoch) -> Tensor:
            student = Student(
                halves[rank], halves[rank], gather=lambda values: desk.gather(rank, values)
            )
            return METHOD.loss(student, batch_of(rows[rank], start=3 * rank, epoch=epoch), LIVE)[
                "loss/contrast"
            ]

        with ThreadPoolExecutor(2) as workers:
            found = list(workers.map(work, range(2)))
        alone = METHOD.loss(
            Student(whole, whole), batch_of([*rows[0], *rows[1]], epoch=epoch), LIVE
        )["loss/contrast"]
        torch.testing.assert_close((found[0] + found[1]) / 2, alone)
        for half in halves:
            torch.testing.assert_close(half.student_bank, whole.student_bank)
            torch.testing.assert_close(half.teacher_bank, whole.teacher_bank)
            torch.testing.assert_close(half.log_means, whole.log_means)


def test_deployment_leaves_the_network_alone() -> None:
    network = make_student()
    deployed = METHOD.deploy(network)
    plain = METHOD.deployed_like(
        build_model("wrn-10-1", num_classes=3, image_shape=(3, 8, 8), seed=5)
    )
    plain.load_state_dict(deployed.state_dict())
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(plain.eval()(images), deployed.eval()(images))


def test_what_is_refused() -> None:
    METHOD.check_fit(model="wrn-10-1", augmentation=Identity(), teachers=1)
    METHOD.check_fit(
        model="wrn-10-1", augmentation=AUGMENTATIONS["additional"](pick="kl"), teachers=1
    )
    assert METHOD.live_teachers(Identity())
    with pytest.raises(ValueError, match="method 'crd' learns from teachers, and there are none"):
        METHOD.check_fit(model="wrn-10-1", augmentation=Identity(), teachers=0)
    CRD(labels=0.0, alpha=0.0)
    with pytest.raises(ValueError, match="must not all be 0"):
        CRD(labels=0.0, alpha=0.0, contrast=0.0)
    with pytest.raises(
        ValueError, match="only networks of the catalogue show their features, found Linear"
    ):
        METHOD.student(nn.Linear(2, 2), Setup())
