"""Names of networks, checked without torch."""

import subprocess
import sys

import pytest
import torch

from distill_ray.models import (
    FAMILIES,
    ModelFamily,
    build_model,
    check_model_name,
    model_names,
    trains_on_one_image,
)


def test_names_are_checked_without_torch() -> None:
    code = (
        "import sys; from distill_ray.models import check_model_name, model_names\n"
        "[check_model_name(name, (3, 32, 32)) for name in model_names() if not "
        "name.startswith('torchvision/')]\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", model_names())
def test_every_example_is_a_name(name: str) -> None:
    check_model_name(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wrn-17-2", "depth 17 does not fit wrn-d-k: d - 4 must be a multiple of 6"),
        ("wrn-4-2", "depth 4 does not fit wrn-d-k"),
        ("wnr-16-2", "unknown model 'wnr-16-2'; did you mean 'wrn-16-2'?"),
        ("wrn-16-0", "unknown model 'wrn-16-0'"),
        ("wrn-16-2-3", "unknown model"),
        ("resnet18", "depth 18 does not fit resnetN: N - 2 must be a multiple of 6"),
        ("resnet18", "torchvision/resnet18"),
        ("vgg16", "did you mean 'vgg13'?"),
        ("mobilenetv2", "did you mean 'mobilenet-v2'?"),
        ("timm/resnet27d", "did you mean 'timm/resnet26d'?"),
        ("torchvision/resnet19", "did you mean 'torchvision/resnet18'?"),
    ],
)
def test_wrong_name_is_explained(name: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        check_model_name(name)
    assert sentence in str(error.value)


def test_statistics_need_one_value_per_channel() -> None:
    with pytest.raises(ValueError, match="one value for each of 3 channels, found 1 and 3"):
        build_model(
            "wrn-10-1", num_classes=10, image_shape=(3, 8, 8), seed=0, mean=[0.5], std=[1, 1, 1]
        )


def test_another_package_adds_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    family = ModelFamily(
        pattern="flat-w",
        expression="flat-([1-9][0-9]*)",
        examples=("flat-3",),
        builder="distill_ray.models.mlp:mlp",
        arguments=lambda width: {"widths": (int(width),)},
    )
    monkeypatch.setattr(FAMILIES, "_members", {"flat": family})
    assert "flat-3" in model_names()
    network = build_model("flat-6", num_classes=2, image_shape=(1, 2, 2), seed=0)
    assert network.classifier.in_features == 6
    assert network.name == "flat-6"


@pytest.mark.parametrize(
    ("name", "image_shape", "possible"),
    [
        ("mobilenet-v2", (3, 16, 16), False),  # its last map has one pixel
        ("mobilenet-v2", (3, 32, 32), True),
        ("wrn-10-1", (3, 4, 4), False),
        ("wrn-10-1", (3, 8, 8), True),
        ("vgg8", (3, 8, 8), False),
        ("mlp-8", (3, 1, 1), True),
        ("lenet-4-mlp-6", (3, 2, 2), True),
    ],
)
def test_which_networks_train_on_one_image(
    name: str, image_shape: tuple[int, int, int], possible: bool
) -> None:
    """Batch normalisation of a map of one pixel needs two of them."""
    state = torch.random.get_rng_state()
    assert trains_on_one_image(name, image_shape) == possible
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "name",
    ["mlp-" + "9" * 30, "wrn-100000006-100", "wrn-16-9999", "mlp" + "-8" * 20_000, "resnet20000"],
)
def test_networks_that_no_computer_holds_are_refused(name: str) -> None:
    with pytest.raises(ValueError) as raised:
        check_model_name(name)
    assert len(str(raised.value)) < 300
