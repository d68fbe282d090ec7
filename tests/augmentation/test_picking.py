"""CutMixPick: scores and order against the published numbers, and the choice of several workers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill_ray.augmentation import Criterion, Part, Pick
from distill_ray.augmentation.picking import highest, pick, pool, scores

TEACHER = torch.tensor(
    [[4, 0, 0], [1, 0.9, 0.8], [2, 1, 0], [0, 3, 2.5], [0.5, 0.4, 0], [3, 2.9, -1]],
    dtype=torch.float64,
)
STUDENT = torch.tensor(
    [[1.5, 0, 0.2], [2, 0.1, 0], [0.3, 0.2, 0.1], [0, 4, 1], [1, 1.2, 0.9], [0.4, 2, -0.5]],
    dtype=torch.float64,
)


def over(temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits / temperature


@pytest.mark.parametrize("temperature", [1.0, 2.0, 20.0])
def test_kl_compares_at_the_temperature_that_it_is_given(temperature: float) -> None:
    """And entropies are those of the predictions themselves."""
    found = scores("kl", STUDENT, TEACHER.unsqueeze(0), over(temperature))
    p, q = ((logits / temperature).softmax(1) for logits in (STUDENT, TEACHER))
    torch.testing.assert_close(found, (q * (q / p).log()).sum(1))
    for criterion in ("teacher-entropy", "student-entropy"):
        assert torch.equal(
            scores(criterion, STUDENT, TEACHER.unsqueeze(0), over(temperature)),
            scores(criterion, STUDENT, TEACHER.unsqueeze(0)),
        )


@pytest.mark.parametrize(
    ("criterion", "expected", "order"),
    [
        (
            "teacher-entropy",
            [0.17732368, 1.09528727, 0.83239558, 0.77786967, 1.07761434, 0.73911076],
            [2, 4, 1],
        ),
        (
            "student-entropy",
            [0.86322550, 0.68250684, 1.09528727, 0.27431307, 1.09063561, 0.66137900],
            [0, 4, 2],
        ),
        ("kl", [0.05258192, 0.02370505, 0.01659712, 0.03778637, 0.00090297, 0.04090512], [3, 5, 0]),
    ],
)
def test_scores_and_picks(criterion: Criterion, expected: list[float], order: list[int]) -> None:
    found = scores(criterion, STUDENT, TEACHER.unsqueeze(0), over(4))
    assert found.tolist() == pytest.approx(expected, abs=5e-9)
    assert highest(found, 3).tolist() == order


def test_certain_predictions_have_no_entropy_and_are_not_picked() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.1, 0.0, 0.2]], dtype=torch.float32)
    found = scores("teacher-entropy", None, logits.unsqueeze(0))
    assert found[0] == 0
    assert highest(found, 1).tolist() == [1]


def test_several_teachers_and_several_heads_count_by_their_mean_prediction() -> None:
    both = torch.stack([TEACHER, STUDENT])
    mean = (TEACHER.softmax(1) + STUDENT.softmax(1)) / 2
    entropy = -(mean * mean.log()).sum(1)
    assert torch.allclose(scores("teacher-entropy", None, both), entropy)
    assert torch.allclose(scores("student-entropy", both.transpose(0, 1), None), entropy)


@pytest.mark.parametrize(
    ("criterion", "missing"),
    [("kl", "student"), ("kl", "teachers"), ("student-entropy", "student")],
)
def test_missing_logits_are_named(criterion: Criterion, missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}: {criterion} needs"):
        scores(
            criterion,
            None if missing == "student" else STUDENT,
            None if missing == "teachers" else TEACHER.unsqueeze(0),
        )


def part_of(numbers: list[int], choice: Pick | None) -> Part:
    """A part whose image number i is filled with i, and whose networks answer with row i."""
    images = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    labels = torch.tensor(numbers)
    return Part(images, labels, labels + 10, labels / 10, pick=choice)


def student(images: Tensor) -> Tensor:
    return STUDENT[images[:, 0, 0, 0].long()]


def teachers(part: Part) -> Tensor:
    return TEACHER[part.images[:, 0, 0, 0].long()].unsqueeze(0)


@pytest.mark.parametrize(
    ("criterion", "order"),
    [("teacher-entropy", [2, 4, 1]), ("student-entropy", [0, 4, 2]), ("kl", [3, 5, 0])],
)
def test_the_picked_part_has_all_that_belongs_to_its_images(
    criterion: Criterion, order: list[int]
) -> None:
    offered = part_of([0, 1, 2, 3, 4, 5], Pick(criterion, 3, 0, 3))
    picked, answers = pick(offered, student, teachers, softened=over(4))
    expected = part_of(order, None)
    assert torch.equal(picked.images, expected.images)
    assert torch.equal(picked.labels, expected.labels)
    assert picked.partner_labels is not None
    assert picked.label_weight is not None
    assert torch.equal(picked.partner_labels, torch.tensor(order) + 10)
    assert torch.equal(picked.label_weight, torch.tensor(order) / 10)
    assert torch.equal(answers, TEACHER[order].unsqueeze(0))
    assert picked.pick is None


@pytest.mark.parametrize("criterion", ["teacher-entropy", "student-entropy", "kl"])
def test_two_workers_pick_what_one_would(criterion: Criterion) -> None:
    pools = [
        part_of([0, 4, 1], Pick(criterion, 3, 0, 1)),
        part_of([3, 5, 2], Pick(criterion, 3, 1, 3)),
    ]

    def gather_of(
        all_rows: Callable[[Part], list[Tensor]], worker: int
    ) -> Callable[[Tensor], Tensor]:
        def gather(rows: Tensor) -> Tensor:
            own = next(
                i
                for i, candidate in enumerate(all_rows(pools[worker]))
                if torch.equal(candidate, rows)
            )
            return torch.cat([all_rows(part)[own] for part in pools])

        return gather

    def everything(part: Part) -> list[Tensor]:
        assert part.partner_labels is not None
        assert part.label_weight is not None
        answers = teachers(part)
        logits = None if criterion == "teacher-entropy" else student(part.images)
        asked = None if criterion == "student-entropy" else answers
        score = scores(criterion, logits, asked, over(4))
        return [
            part.images,
            part.labels,
            part.partner_labels,
            part.label_weight,
            score,
            answers.transpose(0, 1),
        ]

    found = [
        pick(pools[worker], student, teachers, gather_of(everything, worker), over(4))
        for worker in (0, 1)
    ]
    offered = part_of([0, 1, 2, 3, 4, 5], Pick(criterion, 3, 0, 3))
    whole, answers = pick(offered, student, teachers, softened=over(4))
    assert torch.equal(torch.cat([picked.labels for picked, _ in found]), whole.labels)
    assert torch.equal(torch.cat([picked.images for picked, _ in found]), whole.images)
    assert torch.equal(torch.cat([rows for _, rows in found], dim=1), answers)


def test_a_part_without_a_pick_stays_as_it_is() -> None:
    part = part_of([1, 2], None)
    same, answers = pick(part, student, teachers)
    assert same is part
    assert torch.equal(answers, TEACHER[[1, 2]].unsqueeze(0))


def test_a_pool_holds_all_images_in_order() -> None:
    joined = pool([part_of([0, 1], None), part_of([4, 5], None)], Pick("kl", 2, 0, 2))
    assert joined.labels.tolist() == [0, 1, 4, 5]
    assert joined.partner_labels is not None
    assert joined.partner_labels.tolist() == [10, 11, 14, 15]
    assert joined.pick == Pick("kl", 2, 0, 2)


def test_picking_takes_no_gradient() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    _, answers = pick(
        part_of([0, 1, 2], Pick("kl", 2, 0, 2)),
        lambda images: student(images) * weight,
        lambda part: teachers(part) * weight,
    )
    assert not answers.requires_grad
