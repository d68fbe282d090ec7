"""The families of this package, with the rules that their names and images obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill_ray.models.family import ModelFamily, at_least
from distill_ray.models.torchvision_names import NAMES, architecture, check_images, plain_layers


def _stages_of(divisor: int, rest: int, form: str, letter: str, depths: str) -> Callable[[str], int]:
    """How to read a depth that must be `rest` more than a positive multiple of `divisor`."""

    def read(depth: str) -> int:
        if int(depth) <= rest or (int(depth) - rest) % divisor:
            raise ValueError(f"depth {depth} does not fit {form}: {letter} - {rest} must be a multiple of {divisor} ({depths})")
        return int(depth)

    return read


_wide_depth = _stages_of(6, 4, "wrn-d-k", "d", "10, 16, 22, 28, 40")
_cifar_depth = _stages_of(6, 2, "resnetN", "N", "8, 14, 20, 32, 44, 56, 110; torchvision's are named torchvision/resnet18")


def _wide_resnet(depth: str, width: str) -> dict[str, Any]:
    return {"depth": _wide_depth(depth), "width": int(width)}


def _cifar_resnet(depth: str, widen: str | None) -> dict[str, Any]:
    return {"depth": _cifar_depth(depth), "widen": int(widen or 1)}


def _vgg(depth: str) -> dict[str, Any]:
    return {"depth": int(depth)}


def _mlp(widths: str) -> dict[str, Any]:
    return {"widths": _numbers(widths)}


def _lenet(planes: str, widths: str) -> dict[str, Any]:
    return {"planes": _numbers(planes), "widths": _numbers(widths)}


def _basic_resnet(planes: str) -> dict[str, Any]:
    return {"planes": _numbers(planes)}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("-")))


def _vgg_images(image_shape: tuple[int, int, int], depth: int) -> None:
    _, height, _ = image_shape
    at_least(16 if height >= 64 else 8, image_shape)  # maps of high images are halved once more


def _lenet_images(image_shape: tuple[int, int, int], planes: tuple[int, ...], widths: tuple[int, ...]) -> None:
    at_least(2 ** len(planes), image_shape)


NUMBER = r"[1-9]\d*"
NUMBERS = rf"{NUMBER}(?:-{NUMBER})*"

OWN_FAMILIES = (
    ModelFamily(
        pattern="wrn-d-k",
        expression=rf"wrn-({NUMBER})-({NUMBER})",
        examples=("wrn-10-1", "wrn-16-2", "wrn-28-4", "wrn-28-10", "wrn-40-2"),
        builder="distill_ray.models.wide_resnet:wide_resnet",
        arguments=_wide_resnet,
        units=lambda depth, width: 1 + (depth - 4) // 2,
    ),
    ModelFamily(
        pattern="pre-wrn-d-k",
        expression=rf"pre-wrn-({NUMBER})-({NUMBER})",
        examples=("pre-wrn-10-1", "pre-wrn-28-1", "pre-wrn-28-4"),
        builder="distill_ray.models.pre_wide_resnet:pre_wide_resnet",
        arguments=_wide_resnet,
        units=lambda depth, width: 1 + (depth - 4) // 2,
    ),
    ModelFamily(
        pattern="resnet50",
        expression="resnet50",
        examples=("resnet50",),
        builder="distill_ray.models.resnet:resnet50",
        units=lambda: 17,
    ),
    ModelFamily(
        pattern="resnetN, resnetNx4",
        expression=rf"resnet({NUMBER})(?:x(4))?",
        examples=("resnet8", "resnet8x4", "resnet20", "resnet32x4", "resnet56", "resnet110"),
        builder="distill_ray.models.resnet:cifar_resnet",
        arguments=_cifar_resnet,
        units=lambda depth, widen: 1 + (depth - 2) // 2,
    ),
    ModelFamily(
        pattern="basic-resnet-p1-p2-...",
        expression=rf"basic-resnet-({NUMBERS})",
        examples=("basic-resnet-32-64-128-256", "basic-resnet-96-192-256-128"),
        builder="distill_ray.models.resnet:basic_resnet",
        arguments=_basic_resnet,
        units=lambda planes: 1 + 2 * len(planes),
    ),
    ModelFamily(
        pattern="vgg8, vgg13",
        expression="vgg(8|13)",
        examples=("vgg8", "vgg13"),
        builder="distill_ray.models.vgg:vgg",
        arguments=_vgg,
        check_images=_vgg_images,
        units=lambda depth: {8: 5, 13: 10}[depth],
    ),
    ModelFamily(
        pattern="mobilenet-v2",
        expression="mobilenet-v2",
        examples=("mobilenet-v2",),
        builder="distill_ray.models.mobilenet_v2:mobilenet_v2",
        units=lambda: 19,
    ),
    ModelFamily(
        pattern="shuffle-v1",
        expression="shuffle-v1",
        examples=("shuffle-v1",),
        builder="distill_ray.models.shufflenet_v1:shufflenet_v1",
        units=lambda: 17,
    ),
    ModelFamily(
        pattern="shuffle-v2",
        expression="shuffle-v2",
        examples=("shuffle-v2",),
        builder="distill_ray.models.shufflenet_v2:shufflenet_v2",
        units=lambda: 18,
    ),
    ModelFamily(
        pattern="mlp-w1-w2-...",
        expression=rf"mlp-({NUMBERS})",
        examples=("mlp-100-100-100-100", "mlp-50-50-50"),
        builder="distill_ray.models.mlp:mlp",
        arguments=_mlp,
        units=lambda widths: len(widths),
    ),
    ModelFamily(
        pattern="lenet-p1-...-mlp-w1-...",
        expression=rf"lenet-({NUMBERS})-mlp-({NUMBERS})",
        examples=("lenet-32-64-mlp-128", "lenet-128-32-mlp-128-128"),
        builder="distill_ray.models.lenet:lenet",
        arguments=_lenet,
        check_images=_lenet_images,
        units=lambda planes, widths: len(planes) + len(widths),
    ),
    ModelFamily(
        pattern="torchvision/name",
        expression=rf"torchvision/({'|'.join(NAMES)})",
        examples=tuple(f"torchvision/{name}" for name in NAMES),
        builder="distill_ray.models.torchvision_classifier:torchvision_classifier",
        arguments=architecture,
        check_images=check_images,
        plain_layers=plain_layers,
    ),
)
