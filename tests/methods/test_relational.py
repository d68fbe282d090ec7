"""Distillation by relations between images against the formulas of the papers, in NumPy."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import AUGMENTATIONS, Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.methods import PKT, RKD, SP
from distill_ray.methods.method import Setup, Student
from distill_ray.methods.relational import Relational
from distill_ray.models import build_model
from oracles.formulas import Floats, exact, kl, softmax
from oracles.logits import numerical_gradient

OWN = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OTHER = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
METHODS = (RKD(), SP(), PKT())


def h(u: Floats, v: Floats) -> Floats:
    difference = abs(u - v)
    return np.where(difference < 1, difference**2 / 2, difference - 0.5)


def rkd(f: Floats, g: Floats) -> dict[str, Floats]:
    """Distances and angles, one pair and one triple after the other."""
    images = range(len(f))
    lengths = [
        np.array([[np.sqrt(((s[i] - s[j]) ** 2).sum()) for j in images] for i in images])
        for s in (f, g)
    ]
    scaled = [length / length[length > 0].mean() for length in lengths]
    angle = []
    for i, j, k in itertools.product(images, repeat=3):
        cosines = []
        for side, length in zip((f, g), lengths, strict=True):
            if i == j or k == j:
                cosines.append(np.longdouble(0))
            else:
                product = (side[i] - side[j]) @ (side[k] - side[j])
                cosines.append(product / (length[i, j] * length[k, j]))
        angle.append(h(*cosines))
    return {"distance": h(*scaled).mean(), "angle": np.mean(angle)}


def sp(f: Floats, g: Floats) -> dict[str, Floats]:
    rows = []
    for side in (f, g):
        products = side @ side.T
        rows.append(products / np.sqrt((products**2).sum(1))[:, None])
    return {"similarity": ((rows[0] - rows[1]) ** 2).sum() / len(f) ** 2}


def pkt(f: Floats, g: Floats) -> dict[str, Floats]:
    """Without the published 1e-7."""
    rows = []
    for side in (f, g):
        unit = side / np.sqrt((side**2).sum(1))[:, None]
        shares = (1 + unit @ unit.T) / 2
        rows.append(shares / shares.sum(1)[:, None])
    return {"neighbours": (rows[1] * np.log(rows[1] / rows[0])).sum() / len(f) ** 2}


ORACLES = {"rkd": rkd, "sp": sp, "pkt": pkt}
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@every_method
def test_relations(method: Relational) -> None:
    found = method.relations(OWN, OTHER)
    expected = ORACLES[method.name](exact(OWN), exact(OTHER))
    assert found.keys() == expected.keys() == method.feature_weights.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(float(value), rel=1e-5, abs=1e-9), name


def test_rkd_by_hand() -> None:
    """Images at 0, 3, 4 and at 0, 4, 4 + 4i of a plane.

    Student: lengths 3, 4, 1, mean 8/3, scaled 9/8, 3/2, 3/8. Teacher: 4, 4 sqrt 2, 4, mean
    4.55228475, scaled 0.87867966, 1.24264069, 0.87867966. Half squares of the differences
    0.24632034, 0.25735931, 0.50367966: 0.03033686, 0.03311691, 0.12684660; twice their sum over 9
    is 0.04228897.

    Angles, each counted twice: student 1, -1, 1 (at 0: 3 and 4 lie in one direction; at 3 between;
    at 4 in one); teacher cos 45 at 0, 0 at 4, cos 45 at 4 + 4i. h: (1 - 0.70710678)² / 2 =
    0.04289322, 0.5, 0.04289322. The 6 cosines of an image with itself are 1 on both sides. Sum:
    2 (0.58578644) / 27 = 0.04339159.
    """
    line = torch.tensor([[0.0, 0], [3, 0], [4, 0]], dtype=torch.float64)
    corner = torch.tensor([[0.0, 0], [4, 0], [4, 4]], dtype=torch.float64)
    terms = RKD().relations(line, corner)
    assert terms["distance"].item() == pytest.approx(0.04228897, abs=5e-9)
    assert terms["angle"].item() == pytest.approx(0.04339159, abs=5e-9)


def test_sp_by_hand() -> None:
    """(1, 0), (0, 1) are alike as the unit matrix; two equal images as 1/sqrt 2 everywhere.

    (1 - 0.70710678)² and 0.5, twice each, over 4: (0.08578644 + 0.5) / 2 = 0.29289322.
    """
    found = SP().relations(torch.eye(2).double(), torch.ones(2, 3).double())
    assert found["similarity"].item() == pytest.approx(0.29289322, abs=5e-9)


def test_pkt_by_hand() -> None:
    """Orthogonal images: (1, 1/2) / (3/2) = 2/3, 1/3. Equal ones: 1/2, 1/2.

    KL((1/2, 1/2) || (2/3, 1/3)) = ln(3/4)/2 + ln(3/2)/2 = 0.05889152; two rows, over 4: 0.02944576.
    """
    found = PKT().relations(torch.eye(2).double(), torch.ones(2, 3).double())
    assert found["neighbours"].item() == pytest.approx(0.02944576, abs=1e-7)


@every_method
def test_gradient(method: Relational) -> None:
    def loss(own: Tensor) -> Tensor:
        terms = method.relations(own, OTHER)
        return sum(weight * terms[name] for name, weight in method.feature_weights.items())

    own = OWN.clone().requires_grad_()
    loss(own).backward()
    torch.testing.assert_close(own.grad, numerical_gradient(loss, OWN), rtol=1e-5, atol=1e-6)


@every_method
def test_what_does_not_change_relations(method: Relational) -> None:
    """Turning all features by 90 degrees and making them three times as long; for `rkd` also moving
    them.
    """
    turned = 3 * OWN[:, [1, 0, 2]] * torch.tensor([1.0, -1, 1]) + (7 if method.name == "rkd" else 0)
    for one, other in zip(
        method.relations(OWN, OTHER).values(), method.relations(turned, OTHER).values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


@every_method
@pytest.mark.parametrize("own", [torch.zeros(4, 3), torch.ones(4, 3), torch.ones(1, 3)])
def test_images_that_do_not_differ_leave_finite_gradients(method: Relational, own: Tensor) -> None:
    own = own.clone().requires_grad_()
    terms = method.relations(own, torch.randn(len(own), 4))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert own.grad.isfinite().all()
    assert own.grad.abs().max() < 10 or method.name == "pkt"


class Live:
    """Two teachers of different width."""

    def __init__(self) -> None:
        self.networks = [
            build_model(name, num_classes=3, image_shape=(3, 8, 8), seed=seed).eval()
            for name, seed in (("wrn-10-1", 10), ("wrn-10-2", 11))
        ]

    def __call__(self, part: Part) -> Tensor:
        raise AssertionError("one pass is enough")


LIVE = Live()
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PART = Part(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2]))


def terms_of(method: Relational) -> tuple[Mapping[str, Tensor], nn.Module]:
    plain = build_model("wrn-10-1", num_classes=3, image_shape=(3, 8, 8), seed=0)
    network = method.student(plain, Setup(teachers=2, networks=LIVE.networks)).train()
    batch = Batch((PART,), torch.arange(6))
    return method.loss(Student(network, network), batch, LIVE), network


def features(network: nn.Module) -> Tensor:
    return network.features(network.normalise(IMAGES)).detach()


@pytest.mark.parametrize("kind", [RKD, SP, PKT])
def test_several_teachers(kind: type[Relational]) -> None:
    of_teachers = [features(network) for network in LIVE.networks]
    _, network = terms_of(kind())
    own = features(network.network.train())
    oracle = ORACLES[kind.name]
    each = [oracle(exact(own), exact(other)) for other in of_teachers]
    joined = oracle(exact(own), exact(torch.cat(of_teachers, 1)))
    for name in joined:
        for settings, expected in (
            ({}, (each[0][name] + each[1][name]) / 2),
            ({"teacher_weights": (1.0, 3.0)}, (each[0][name] + 3 * each[1][name]) / 4),
            ({"features": "concatenated"}, joined[name]),
        ):
            terms, _ = terms_of(kind(**settings))
            found = terms[f"loss/{name}"].item()
            assert found == pytest.approx(float(expected), rel=2e-3, abs=1e-7), settings


def test_the_loss_is_the_weighted_sum() -> None:
    method = RKD(labels=0.5, alpha=2.0, distance=3.0, angle=7.0, temperature=2.0)
    terms, network = terms_of(method)
    total = 0.5 * terms["loss/labels"] + 2 * terms["loss/teachers"]
    total = total + 3 * terms["loss/distance"] + 7 * terms["loss/angle"]
    torch.testing.assert_close(terms["loss"], total)
    with torch.no_grad():
        q = softmax(exact(torch.stack([each(IMAGES) for each in LIVE.networks])), 2).mean(0)
        p = softmax(exact(network.network.train()(IMAGES)), 2)
    assert terms["loss/teachers"].item() == pytest.approx(float(4 * kl(q, p).mean()), rel=1e-4)
    assert "loss/teachers" not in terms_of(RKD())[0]
    assert "loss/angle" not in terms_of(RKD(angle=0.0))[0]


def test_deployment_leaves_the_network_alone() -> None:
    _, network = terms_of(SP())
    plain = SP().deployed_like(
        build_model("wrn-10-1", num_classes=3, image_shape=(3, 8, 8), seed=5)
    )
    plain.load_state_dict(SP().deploy(network).state_dict())
    torch.testing.assert_close(plain.eval()(IMAGES), network.eval()(IMAGES))


@every_method
def test_what_is_refused(method: Relational) -> None:
    method.check_fit(model="wrn-10-1", augmentation=AUGMENTATIONS["mixup"](), teachers=1)
    assert method.live_teachers(Identity())
    with pytest.raises(ValueError, match="learns from teachers, and there are none"):
        method.check_fit(model="wrn-10-1", augmentation=Identity(), teachers=0)
    nothing = dict.fromkeys(["labels", "alpha", *method.feature_weights], 0.0)
    with pytest.raises(ValueError, match="must not all be 0"):
        type(method)(**nothing)
    with pytest.raises(ValueError, match="only networks of the catalogue show their features"):
        method.student(nn.Linear(2, 2), Setup())
    with pytest.raises(ValueError, match="is for classification; for regression there are"):
        method.check_data(task="regression", real_valued=True)
