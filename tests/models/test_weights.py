"""Weights trained elsewhere: which files are read, and how they are fitted to a network."""

import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from distill_ray.errors import RequestError
from distill_ray.models import build_model
from distill_ray.models.network import Network
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.models.weights import fit_weights, outputs_of, read_weights

CLASSES = 5
SHAPE = (3, 32, 32)


def trained(architecture: str = "resnet18") -> nn.Module:
    """A torchvision network as plain PyTorch code has it, with statistics unlike the first."""
    torch.manual_seed(3)
    network = torchvision.models.get_model(architecture, weights=None, num_classes=CLASSES)
    network.train()(torch.rand(8, *SHAPE))
    return network.eval()


def ours(model: str = "torchvision/resnet18", **settings: Any) -> Network:
    return build_model(model, num_classes=CLASSES, image_shape=SHAPE, seed=0, **settings)


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


STATE = trained().state_dict()
IMAGES = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
EXPECTED = trained()(IMAGES).detach()

FILES: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: safetensors.torch.save(STATE),
    "a state dict": lambda: torch_file(STATE),
    "a checkpoint": lambda: torch_file({"epoch": 3, "state_dict": STATE, "lr": 0.1}),
    "a checkpoint with an average": lambda: torch_file(
        {"model": {name: t * 0 for name, t in STATE.items()}, "model_ema": STATE}
    ),
    "nested twice": lambda: torch_file({"teacher": {"net": STATE}}),
    "of DataParallel": lambda: torch_file(prefixed(STATE, "module.")),
    "compiled, in a module": lambda: torch_file({"model": prefixed(STATE, "model._orig_mod.")}),
    "a backbone beside its classifier": lambda: torch_file(
        {(name if name.startswith("fc.") else f"backbone.{name}"): t for name, t in STATE.items()}
    ),
    "a classifier of another name": lambda: torch_file(
        {name.replace("fc.", "head."): t for name, t in STATE.items()}
    ),
    "without counters": lambda: torch_file(
        {name: t for name, t in STATE.items() if "num_batches" not in name}
    ),
}


@pytest.mark.parametrize("file", FILES)
def test_files_give_the_same_logits_as_where_they_were_trained(file: str) -> None:
    network = ours().eval()
    fit_weights(network, read_weights(FILES[file](), "mine.pt"), "mine.pt")
    assert torch.equal(network(IMAGES), EXPECTED)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(kind: torch.dtype) -> None:
    half = {name: t.to(kind) if t.is_floating_point() else t for name, t in STATE.items()}
    network = ours().eval()
    fit_weights(network, read_weights(safetensors.torch.save(half), "mine"), "mine")
    weight = network.state_dict()["classifier.weight"]
    assert weight.dtype == torch.float32 and torch.equal(
        weight, STATE["fc.weight"].to(kind).float()
    )


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "densenet121", "convnext_tiny"])
def test_other_networks_of_torchvision(architecture: str) -> None:
    plain = trained(architecture)
    network = ours(f"torchvision/{architecture}").eval()
    fit_weights(network, read_weights(torch_file(plain.state_dict()), "mine"), "mine")
    torch.testing.assert_close(network(IMAGES), plain(IMAGES))


def test_networks_of_this_package_keep_their_preprocessing() -> None:
    first = ours("wrn-10-1", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]).eval()
    other = ours("wrn-10-1").eval()
    fit_weights(other, read_weights(safetensors.torch.save(first.state_dict()), "mine"), "mine")
    assert torch.equal(other(IMAGES), first(IMAGES))


def test_outputs_are_put_in_the_order_of_the_data() -> None:
    network = build_model("torchvision/resnet18", num_classes=2, image_shape=SHAPE, seed=0).eval()
    fit_weights(network, STATE, "mine", outputs=[3, 1])
    torch.testing.assert_close(network(IMAGES), EXPECTED[:, [3, 1]])


def test_a_new_classifier_for_other_classes() -> None:
    network = build_model("torchvision/resnet18", num_classes=7, image_shape=SHAPE, seed=0).eval()
    drawn = network.state_dict()["classifier.weight"].clone()
    fit_weights(network, STATE, "mine", new_classifier=True)
    after = network.state_dict()
    assert torch.equal(after["classifier.weight"], drawn)
    assert torch.equal(after["features.0.conv1.weight"], STATE["conv1.weight"])


@pytest.mark.parametrize(
    ("wanted", "prepared"),
    [
        (
            {"channels": "bgr", "value_range": 255.0},
            lambda images: (images.flip(1) * 255 - 100) / 50,
        ),
        (
            {"size": 48, "interpolation": "bicubic"},
            lambda images: (
                (nn.functional.interpolate(images, (48, 48), mode="bicubic", antialias=True) - 100)
                / 50
            ),
        ),
    ],
)
def test_images_are_prepared_as_the_weights_want_them(
    wanted: dict[str, Any], prepared: Callable[[Tensor], Tensor]
) -> None:
    network = ours(mean=[100.0] * 3, std=[50.0] * 3, preprocessing=Preprocessing(**wanted)).eval()
    fit_weights(network, STATE, "mine")
    torch.testing.assert_close(network(IMAGES), trained()(prepared(IMAGES)))


class Runs:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch_file(STATE)[:1000], "truncated"),
        (safetensors.torch.save(STATE)[:5000], "truncated"),
        (b"", "truncated, it has 0 bytes"),
        (safetensors.torch.save(STATE)[:8], "truncated, it has 8 bytes"),
        (b"not weights at all, but long enough to look at", "neither safetensors nor what torch"),
        (pickle.dumps(Runs(), protocol=0), "neither safetensors nor what torch"),
        (pickle.dumps(Runs()), "could run code"),
        (torch_file({"state_dict": STATE, "extra": nn.Linear(1, 1)}), "could run code"),
        (torch_file(nn.Linear(2, 2)), "could run code"),
        (pickle.dumps({"a": 1}, protocol=4), "not readable|could run code|no tensors"),
        (torch_file([1, 2]), "holds list"),
        (torch_file({"epoch": 3}), "no tensors"),
        (torch_file(STATE | {"fc.bias": STATE["fc.bias"] * float("nan")}), "fc.bias .* not finite"),
    ],
)
def test_files_that_are_refused(
    content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        warnings.catch_warnings(),
        pytest.raises(RequestError, match=f"weights mine.pt: .*({message})"),
    ):
        warnings.simplefilter("error")  # torch warns of some of them before it refuses them
        read_weights(content, "mine.pt")
    assert "run\n" not in capsys.readouterr().out


def test_class_names_are_shown_on_one_line() -> None:
    with pytest.raises(RequestError) as caught:
        outputs_of(["cat"], ["dog\nhouse", "cat"], "mine.pt")
    assert str(caught.value) == (
        "weights mine.pt: `classes` names no output for dog\\nhouse; the data has the classes "
        "dog\\nhouse, cat"
    )


def test_weights_of_another_architecture_are_listed() -> None:
    state = {name.replace("layer1.0", "stage1.0"): t for name, t in STATE.items()}
    with pytest.raises(RequestError) as caught:
        fit_weights(ours(), state, "mine.pt")
    lines = str(caught.value).splitlines()
    assert lines[0] == "weights mine.pt do not fit model torchvision/resnet18:"
    wanted = "features.0.layer1.0.conv1.weight (the file has features.0.stage1.0.conv1.weight)"
    assert f"  missing {wanted}" in lines
    assert lines[-1].endswith("tells `distill-ray init DATA --teacher FILE`")
    with pytest.raises(RequestError, match=r"and \d+ more are missing"):
        fit_weights(ours("torchvision/resnet50"), STATE, "mine.pt")


def test_another_number_of_classes_is_refused_with_the_remedy() -> None:
    """Fewer classes than the data has cannot be named: there are no outputs for the others."""
    for classes, remedy in (
        (4, "name the file's classes in `classes`"),
        (7, "with `epochs` it is"),
    ):
        network = build_model(
            "torchvision/resnet18", num_classes=classes, image_shape=SHAPE, seed=0
        )
        with pytest.raises(
            RequestError, match=f"for 5 classes and the data has {classes}: {remedy}"
        ):
            fit_weights(network, STATE, "mine.pt")
