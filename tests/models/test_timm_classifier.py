"""timm's networks under our interface."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import timm
import torch

from distill_ray.models import build_model, check_model_name, timm_names
from distill_ray.models.network import with_features
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.models.timm_preprocessing import completed
from distill_ray.models.weights import fit_weights


def test_every_network_is_known_by_name() -> None:
    assert set(timm_names._names()) == set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_resnet", 32),
        ("test_vit", 160),
        ("test_convnext", 64),
        ("test_efficientnet", 32),
        ("test_maxvit", 160),
        ("mobilenetv3_small_050", 32),  # a hidden layer before its classifier
        ("resnet18.a1_in1k", 32),
    ],
)
def test_weights_of_timm_give_what_timm_gives(name: str, side: int) -> None:
    torch.manual_seed(3)
    theirs = timm.create_model(name.partition(".")[0], num_classes=7).train()
    theirs(torch.rand(8, 3, side, side))  # statistics that are not the first ones
    ours = build_model(f"timm/{name}", num_classes=7, image_shape=(3, side, side), seed=0)
    fit_weights(ours, theirs.state_dict(), "theirs")
    images = torch.rand(2, 3, side, side)
    theirs, ours = theirs.eval(), with_features(ours).eval()
    with torch.no_grad():
        features = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        torch.testing.assert_close(ours.features(images), features)
        torch.testing.assert_close(ours(images), theirs(images))


def test_a_transformer_is_made_for_the_images() -> None:
    network = build_model("timm/test_vit", num_classes=5, image_shape=(1, 32, 32), seed=0)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_a_network_with_two_classifiers_has_logits_alone() -> None:
    name = "timm/deit_tiny_distilled_patch16_224"
    with torch.device("meta"):
        network = build_model(name, num_classes=5, image_shape=(3, 32, 32), seed=0)
        assert network.eval()(torch.empty(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="does not show its features"):
        with_features(network)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build_model("timm/test_vit", num_classes=2, image_shape=(3, 9, 9), seed=0),
            r"images of 9x9 .*; it was made for 160x160: preprocessing: \{size: 160\}",
        ),
        (
            lambda: build_model("timm/resnet18.a9", num_classes=2, image_shape=(3, 32, 32), seed=0),
            "unknown model 'timm/resnet18.a9': Invalid pretrained tag",
        ),
    ],
)
def test_what_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    timm_names._names.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'distill-ray\[timm\]'"):
        check_model_name("timm/resnet18")
    timm_names._names.cache_clear()


def test_images_are_prepared_as_timm_does_unless_the_study_says() -> None:
    usual = completed(None, "timm/test_vit", 3)
    half = (0.5, 0.5, 0.5)
    assert usual == Preprocessing(mean=half, std=half, size=160, interpolation="bicubic")
    assert completed(Preprocessing(size=64), "timm/test_vit", 1) == Preprocessing(size=64)
    own = Preprocessing(mean=(0.1,) * 3, std=(0.2,) * 3, size=64)
    assert completed(own, "timm/test_vit", 3) == own
    assert completed(None, "torchvision/vit_b_16", 3) is None
