"""Losses between teachers and members against the oracles of the multi-head and the latent
BatchEnsemble systems.

The oracles of the multi-head system add 1e-8 inside every logarithm, which moves them by up to
3e-7.
"""

import pytest
import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import losses, member_losses
from distill_ray.probabilities import log_mean_softmax
from support.tensors import f64


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def labelled(*labels: int) -> Part:
    return Part(images=torch.empty(len(labels), 1, 1, 1), labels=torch.tensor(labels))


TEACHERS = f64(
    [[[2, 0, -1], [1, 0.5, 0], [3, -1, 0.5]], [[0, 1, 2], [-0.5, 0, 1.5], [1, -1, 0.5]]]
).transpose(0, 1)
HEADS = f64([[[1, 0, 0], [0.5, 0.5, -1]], [[0, 0, 1], [-1, 1, 0.5]]])
THREE_HEADS = torch.cat([HEADS, f64([[[0.2, -0.3, 0.1]], [[0.4, 0.6, -0.2]]])], 1)
SMOOTHED = 3e-7


def smoothed_pairs(student: Tensor, teachers: Tensor, temperature: float) -> float:
    """The published formula of the individuality loss, with its 1e-8, spelled out."""
    pairs = max(student.shape[1], len(teachers))
    total = 0.0
    for pair in range(pairs):
        q = (teachers[pair % len(teachers)] / temperature).softmax(-1)
        p = (student[:, pair % student.shape[1]] / temperature).softmax(-1)
        total += (q * ((q + 1e-8).log() - (p + 1e-8).log())).sum(-1).mean().item()
    return temperature**2 * total / pairs


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.2130695146), (3.0, 0.3200179113)])
def test_individuality_oracle(temperature: float, expected: float) -> None:
    assert member_losses.paired_kd(HEADS, TEACHERS, temperature).item() == pytest.approx(
        expected, abs=SMOOTHED
    )
    assert round(smoothed_pairs(HEADS, TEACHERS, temperature), 10) == expected


def test_pairs_one_by_one() -> None:
    """Three teachers, two heads: head 0 learns from teachers 0 and 2, head 1 from teacher 1."""
    for teacher, head, expected in (
        (0, 0, 0.1185957748),
        (1, 1, 0.2142482738),
        (2, 0, 0.3063644951),
    ):
        pair = member_losses.paired_kd(HEADS[:, [head]], TEACHERS[[teacher]], 1.0)
        assert pair.item() == pytest.approx(expected, abs=SMOOTHED)
    for teacher, head, expected in (
        (0, 0, 0.0231418727),
        (1, 1, 0.0255892829),
        (2, 0, 0.0579414815),
    ):
        pair = member_losses.paired_kd(HEADS[:, [head]], TEACHERS[[teacher]], 3.0)
        assert pair.item() / 9 == pytest.approx(expected, abs=SMOOTHED)
    logits = HEADS.clone().requires_grad_()
    member_losses.paired_kd(logits, TEACHERS, 3.0).backward()
    expected = f64(
        [
            [
                [-0.1491997248, 0.0804337256, 0.0687659992],
                [-0.0032570291, 0.0266917595, -0.0234347304],
            ],
            [
                [-0.0324944087, 0.0250572499, 0.0074371588],
                [-0.0123124479, 0.0688202774, -0.0565078295],
            ],
        ]
    )
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-8)


def test_gradient_in_closed_form() -> None:
    heads, teachers = random_logits(5, 3, 4).requires_grad_(), random_logits(7, 5, 4, seed=1)
    member_losses.paired_kd(heads, teachers, 2.5).backward()
    expected = torch.zeros_like(heads)
    for pair in range(7):
        head = pair % 3
        expected[:, head] += (heads[:, head] / 2.5).softmax(-1) - (teachers[pair] / 2.5).softmax(-1)
    torch.testing.assert_close(heads.grad, expected.detach() * 2.5 / (7 * 5))


@pytest.mark.parametrize(
    ("teachers", "heads"), [(20, 10), (20, 20), (3, 2), (2, 3), (1, 4), (4, 1)]
)
def test_any_numbers_of_teachers_and_heads(teachers: int, heads: int) -> None:
    student, answers = random_logits(3, heads, 4), random_logits(teachers, 3, 4, seed=1)
    loss = member_losses.paired_kd(student, answers, 2.0).item()
    assert loss == pytest.approx(smoothed_pairs(student, answers, 2.0), abs=1e-5)


def test_assignment_of_twenty_teachers_to_three_heads() -> None:
    """Head 0 learns from teachers 0, 3, ..., 18; head 2 from 2, 5, ..., 17."""
    heads, teachers = random_logits(1, 3, 4), random_logits(20, 1, 4, seed=1)
    learnt = {head: set() for head in range(3)}
    for teacher in range(20):
        logits, changed = heads.clone().requires_grad_(), teachers.clone()
        member_losses.paired_kd(logits, teachers, 1.0).backward()
        before = logits.grad.clone()
        changed[teacher] += f64([1, -1, 2, 0])
        logits.grad = None
        member_losses.paired_kd(logits, changed, 1.0).backward()
        (head,) = (logits.grad - before).abs().sum((0, 2)).nonzero().flatten().tolist()
        learnt[head].add(teacher)
    assert learnt == {0: set(range(0, 20, 3)), 1: set(range(1, 20, 3)), 2: set(range(2, 20, 3))}
    assert [len(assigned) for assigned in learnt.values()] == [7, 7, 6]


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.1306569070), (2.0, 0.1787403873)])
def test_aggregation_oracle(temperature: float, expected: float) -> None:
    assert member_losses.aggregated_kd(HEADS, TEACHERS, temperature).item() == pytest.approx(
        expected, abs=SMOOTHED
    )


def test_more_heads_than_teachers() -> None:
    teachers = TEACHERS[:2]
    part = labelled(0, 2)
    assert losses.cross_entropy(THREE_HEADS, part).item() == pytest.approx(
        0.9160858173, abs=5.1e-11
    )
    assert member_losses.aggregated_kd(THREE_HEADS, teachers, 1.0).item() == pytest.approx(
        0.1524777312, abs=SMOOTHED
    )
    assert member_losses.paired_kd(THREE_HEADS, teachers, 3.0).item() == pytest.approx(
        0.3609893179, abs=SMOOTHED
    )


def test_correctness_oracle() -> None:
    assert losses.cross_entropy(HEADS, labelled(0, 2)).item() == pytest.approx(
        0.7391906331, abs=5.1e-11
    )


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (0.9, 0.5, 0.2767227315),
        (0.95, 0.9, 0.3229872520),
        (1.0, 1.0, 0.3200179113),
        (0.9, 1.0, 0.3619351834),
    ],
)
def test_totals(alpha: float, beta: float, expected: float) -> None:
    total = (
        alpha * (1 - beta) * member_losses.aggregated_kd(HEADS, TEACHERS, 1.0)
        + alpha * beta * member_losses.paired_kd(HEADS, TEACHERS, 3.0)
        + (1 - alpha) * losses.cross_entropy(HEADS, labelled(0, 2))
    )
    assert total.item() == pytest.approx(expected, abs=SMOOTHED)


def test_cross_entropy_forms_differ_by_the_entropy_of_the_teachers() -> None:
    entropy = -sum(
        ((teacher / 3).softmax(-1) * (teacher / 3).log_softmax(-1)).sum(-1).mean()
        for teacher in TEACHERS
    ) / len(TEACHERS)
    assert (member_losses.paired_kd(HEADS, TEACHERS, 3.0) + 9 * entropy).item() == pytest.approx(
        9.6658767708, abs=SMOOTHED
    )
    mean = TEACHERS.softmax(-1).mean(0)
    aggregated = (
        member_losses.aggregated_kd(HEADS, TEACHERS, 1.0) - (mean * mean.log()).sum(-1).mean()
    )
    assert aggregated.item() == pytest.approx(0.9726096733, abs=SMOOTHED)


LATENT_TEACHERS = f64([[[2, 0.5, -1], [0, 1, 3]], [[1, 1.5, -0.5], [-1, 2, 2.5]]])
MEMBER_MAJOR = f64([[1.2, 0.3, -0.8], [0.1, 0.9, 1.7], [0.7, 0.9, -0.4], [-0.6, 1.1, 1.9]])


def test_latent_batch_ensemble_oracle() -> None:
    members = MEMBER_MAJOR.unflatten(0, (2, 2)).transpose(0, 1).clone().requires_grad_()
    loss = member_losses.paired_kd(members, LATENT_TEACHERS, 4.0)
    (gradient,) = torch.autograd.grad(loss, members)
    assert loss.item() == pytest.approx(16.9850663811 - 16.8750100508, abs=1.1e-10)
    expected = f64(
        [
            [-0.0472444308, 0.0137767156, 0.0334677152],
            [0.0420877262, 0.0371769586, -0.0792646847],
            [0.0012102352, -0.0277577323, 0.0265474971],
            [0.046089651, -0.0359960688, -0.0100935822],
        ]
    )
    torch.testing.assert_close(
        gradient.transpose(0, 1).flatten(0, 1), expected, rtol=0, atol=5.1e-11
    )
    labels = losses.cross_entropy(members, labelled(0, 2))
    assert labels.item() == pytest.approx(0.5746239491, abs=5.1e-11)
    assert (0.3 * labels + 0.7 * (loss + 16.8750100508)).item() == pytest.approx(
        12.0619336515, abs=1.1e-10
    )
    wrong = MEMBER_MAJOR.unflatten(0, (2, 2))
    assert member_losses.paired_kd(wrong, LATENT_TEACHERS, 4.0).item() == pytest.approx(
        17.5598866744 - 16.8750100508, abs=1.1e-10
    )


def test_mixed_labels_of_members() -> None:
    logits = random_logits(4, 3, 5)
    part = Part(
        torch.empty(4, 1, 1, 1),
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([4, 4, 0, 1]),
        f64([0.1, 0.5, 0.9, 1.0]),
    )
    one_by_one = [losses.cross_entropy(logits[:, member], part) for member in range(3)]
    torch.testing.assert_close(losses.cross_entropy(logits, part), torch.stack(one_by_one).mean())


def test_mean_of_members() -> None:
    logits = random_logits(4, 3, 5)
    torch.testing.assert_close(log_mean_softmax(logits, 1).exp(), logits.softmax(-1).mean(1))


def test_no_gradient_reaches_the_teachers_and_precision_holds() -> None:
    teachers = TEACHERS.clone().requires_grad_()
    heads = HEADS.bfloat16().requires_grad_()
    for loss in (
        member_losses.paired_kd(heads, teachers, 3.0),
        member_losses.aggregated_kd(heads, teachers, 3.0),
    ):
        assert loss.dtype == torch.float32
        loss.backward()
    assert teachers.grad is None
    assert heads.grad is not None
