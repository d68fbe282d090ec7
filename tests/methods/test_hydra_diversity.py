"""The diversity penalty against the oracles of the multi-head system."""

import pytest
import torch
from torch import Tensor

from distill_ray.methods.hydra_diversity import Bias, Compare, diversity, similarity
from support.tensors import f64

A, B = f64([[1, 2, 3], [0, -1, 1]]), f64([[2, 0, 1], [1, 1, -1]])
WEIGHTS = torch.stack([A, B])
BIASES = f64([[0.1, -0.2], [0.3, 0.1]])


def test_linear_heads() -> None:
    layers = [(WEIGHTS, BIASES)]
    assert diversity(layers).item() == pytest.approx(3.1753796056, abs=5.1e-11)
    assert diversity(layers, bias="separate").item() == pytest.approx(6.1753795569, abs=5.1e-11)
    assert diversity(layers, compare="layers").item() == pytest.approx(1.7886371630, abs=5.1e-11)


def test_cosines_one_by_one() -> None:
    """A head and the mean give the same cosine as two heads whose mean lies between: each row, bias
    and layer by itself.
    """
    mean, bias_mean = WEIGHTS.mean(0), BIASES.mean(0)

    def cosine(vector: Tensor, to: Tensor) -> float:
        return torch.nn.functional.cosine_similarity(vector, to, dim=-1, eps=1e-30).item()

    rows = [[cosine(head[row], mean[row]) for row in range(2)] for head in (A, B)]
    assert rows[0] == pytest.approx([0.9429541653, 0.0], abs=5e-9)
    assert rows[1] == pytest.approx([0.8304547958, 0.5773502500], abs=2e-8)
    by_row = similarity(WEIGHTS).item()
    assert by_row == pytest.approx(
        sum((1 + value) / 2 for head in rows for value in head), abs=2e-8
    )
    assert by_row / 4 == pytest.approx(0.7938449014, abs=5.1e-11)
    biases = [
        (1 + (own * to) / ((own**2 + 1e-8).sqrt() * (to**2 + 1e-8).sqrt() + 1e-8)) / 2
        for own, to in zip(BIASES.flatten(), bias_mean.repeat(2), strict=True)
    ]
    assert [bias.item() for bias in biases[:3]] == pytest.approx(
        [0.9999994375, 0.9999984375, 0.9999998264], abs=5.1e-11
    )
    assert biases[3].item() == pytest.approx(2.24999e-6, abs=5.1e-12)
    assert similarity(BIASES.unsqueeze(-1)).item() == pytest.approx(
        sum(bias.item() for bias in biases), abs=1e-12
    )
    whole = [cosine(head.flatten(), mean.flatten()) for head in (A, B)]
    assert whole == pytest.approx([0.8672273811, 0.7100469450], abs=5e-9)


def test_gradient() -> None:
    weights = WEIGHTS.clone().requires_grad_()
    diversity([(weights, None)]).backward()
    expected = [
        [[0.0568988289, -0.0292475686, -0.0081100463], [0.3535533925, -0.0648782526, 0.0648782526]],
        [[-0.0253907258, 0.0715226132, 0.0767079036], [0.1924500997, -0.1611032929, 0.1611032929]],
    ]
    torch.testing.assert_close(weights.grad, f64(expected), rtol=0, atol=5.1e-11)
    detached = [[0.0407668155, -0.0177247022, -0.0017724701], [0.3535533776, 0, 0]]
    assert (weights.grad[0] - f64(detached)).abs().max() > 0.01, (
        "a mean that is detached gives other gradients"
    )


def test_convolutional_heads() -> None:
    first = f64(range(1, 9)).view(2, 2, 2, 1) / 4
    second = f64([1, -1, 2, 0, 0, 3, -2, 1]).view(2, 2, 2, 1)
    assert diversity([(torch.stack([first, second]), None)]).item() == pytest.approx(
        3.6011545827, abs=5.1e-11
    )


@pytest.mark.parametrize(
    ("heads", "expected", "precision"),
    [
        ([A.tolist(), A.tolist()], 3.9999999886, 5.1e-11),
        ([A.tolist(), (-A).tolist()], 2.0, 5.1e-11),
        ([[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]], 2.3660253715, 5.1e-11),
        ([[[10, 0]], [[-1, 0]], [[-1, 0]]], 1.0000000089, 5.1e-11),
    ],
)
def test_special_heads(heads: list[list[list[float]]], expected: float, precision: float) -> None:
    assert diversity([(f64(heads), None)]).item() == pytest.approx(expected, abs=precision)


def test_a_single_head_has_nothing_to_differ_from() -> None:
    weights = A.unsqueeze(0).clone().requires_grad_()
    penalty = diversity([(weights, None)])
    penalty.backward()
    assert penalty.item() == pytest.approx(2.0, abs=1e-7)
    torch.testing.assert_close(weights.grad, torch.zeros_like(weights), rtol=0, atol=1e-7)


def test_biases_joined_to_their_rows() -> None:
    joined = diversity([(WEIGHTS, BIASES)], bias="joined")
    torch.testing.assert_close(
        joined, diversity([(torch.cat([WEIGHTS, BIASES.unsqueeze(-1)], -1), None)])
    )
    assert diversity([(WEIGHTS, None)], bias="joined").item() == diversity([(WEIGHTS, None)]).item()


def test_a_bias_near_zero_dwarfs_every_other_gradient_when_it_is_compared_by_itself() -> None:
    """Why biases are left out by default."""
    biases = f64([[1e-5, -0.2], [0.3, 0.1]]).requires_grad_()
    diversity([(WEIGHTS, biases)], bias="separate").backward()
    assert biases.grad.abs().max() > 1000
    weights = WEIGHTS.clone().requires_grad_()
    diversity([(weights, None)]).backward()
    assert weights.grad.abs().max() < 1


def test_zero_weights_are_harmless() -> None:
    weights = torch.zeros(3, 2, 4, dtype=torch.float64, requires_grad=True)
    diversity([(weights, None)]).backward()
    assert weights.grad.isfinite().all()


@pytest.mark.parametrize(
    ("compare", "bias", "terms"),
    [("rows", "none", 103), ("rows", "separate", 206), ("layers", "none", 2)],
)
def test_number_of_terms(compare: Compare, bias: Bias, terms: int) -> None:
    """Identical heads score 1 per term; those of the spiral have 206 terms each, with biases by
    themselves.
    """
    layers = [(torch.full((2, out, 100), 0.3), torch.full((2, out), 0.3)) for out in (100, 3)]
    assert diversity(layers, compare=compare, bias=bias).item() == pytest.approx(
        2 * terms, rel=1e-3
    )
