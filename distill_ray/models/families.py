"""The families of this package, with the rules that their names and images obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill_ray.models import timm_names
from distill_ray.models.family import FAMILIES, ModelFamily, Size, at_least, never
from distill_ray.models.torchvision_names import (
    NAMES,
    architecture,
    check_images,
    dense,
    plain_layers,
)

MAX_DEPTH = 1000
MAX_WIDENING = 100
MAX_WIDTH = 10_000
MAX_WIDTHS = 100
"""The deepest and widest networks that a name can stand for: layers, widening factor, units or
planes of a layer, and layers that are named one by one.
"""


def _stages_of(
    divisor: int, rest: int, form: str, letter: str, depths: str
) -> Callable[[str], int]:
    """How to read a depth that must be `rest` more than a positive multiple of `divisor`."""

    def read(text: str) -> int:
        depth = _number(text, MAX_DEPTH)
        if depth <= rest or (depth - rest) % divisor:
            raise ValueError(
                f"depth {depth} does not fit {form}: {letter} - {rest} must be a multiple of "
                f"{divisor} ({depths})"
            )
        return depth

    return read


_wide_depth = _stages_of(6, 4, "wrn-d-k", "d", "10, 16, 22, 28, 40")
_cifar_depth = _stages_of(
    6, 2, "resnetN", "N", "8, 14, 20, 32, 44, 56, 110; torchvision's are named torchvision/resnet18"
)


def _wide_resnet(depth: str, width: str) -> dict[str, Any]:
    return {"depth": _wide_depth(depth), "width": _number(width, MAX_WIDENING)}


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
    numbers = text.split("-")
    if len(numbers) > MAX_WIDTHS:
        raise ValueError(f"a network of {len(numbers)} layers; {MAX_WIDTHS} is the most")
    return tuple(_number(number, MAX_WIDTH) for number in numbers)


def _number(text: str, most: int) -> int:
    """A number in a name. Raises `ValueError` for more than any computer could hold."""
    if len(text) > 9 or int(text) > most:
        raise ValueError(f"{text[:20]} is too large for a network; {most:,} is the most")
    return int(text)


def _vgg_images(image_shape: tuple[int, int, int], depth: int) -> None:
    _, height, _ = image_shape
    at_least(16 if height >= 64 else 8, image_shape)  # maps of high images are halved once more


def _lenet_images(
    image_shape: tuple[int, int, int], planes: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    at_least(2 ** len(planes), image_shape)


NUMBER = r"[1-9]\d*"
NUMBERS = rf"{NUMBER}(?:-{NUMBER})*"

_REPDISTILLER = "as coded in [RepDistiller](https://github.com/HobbitLong/RepDistiller)"
_RESNET = (
    'He et al. 2016, "Deep residual learning for image recognition", '
    "https://arxiv.org/abs/1512.03385"
)
_WIDE_RESNET = (
    'Zagoruyko & Komodakis 2016, "Wide residual networks", https://arxiv.org/abs/1605.07146'
)
_HYDRA_PLUS = (
    'the code of Ferianc & Rodrigues 2022, "Simple regularisation for uncertainty-aware '
    'knowledge distillation", '
    "https://arxiv.org/abs/2205.09526"
)

FAMILIES.register("wrn-d-k")(
    ModelFamily(
        pattern="wrn-d-k",
        expression=rf"wrn-({NUMBER})-({NUMBER})",
        examples=("wrn-10-1", "wrn-16-2", "wrn-28-4", "wrn-28-10", "wrn-40-2"),
        builder="distill_ray.models.wide_resnet:wide_resnet",
        arguments=_wide_resnet,
        units=lambda depth, width: 1 + (depth - 4) // 2,
        help="Wide residual network of depth d with the widening factor k.\n\n"
        "The depth is 4 more than a multiple of 6: 10, 16, 22, 28, 40. Three stages of (d - "
        "4) / 6 blocks with activation before "
        "the convolutions, 16k, 32k and 64k channels wide; no dropout.",
        source=f"{_WIDE_RESNET}, {_REPDISTILLER}.",
        sizes={
            "wrn-10-1": Size(83_700, 12_507_392),
            "wrn-16-2": Size(703_284, 101_118_464),
            "wrn-28-4": Size(5_872_180, 845_620_224),
            "wrn-28-10": Size(36_536_884, 5_243_386_368),
            "wrn-40-2": Size(2_255_156, 327_610_880),
        },
    )
)
FAMILIES.register("pre-wrn-d-k")(
    ModelFamily(
        pattern="pre-wrn-d-k",
        expression=rf"pre-wrn-({NUMBER})-({NUMBER})",
        examples=("pre-wrn-10-1", "pre-wrn-28-1", "pre-wrn-28-4"),
        builder="distill_ray.models.pre_wide_resnet:pre_wide_resnet",
        arguments=_wide_resnet,
        units=lambda depth, width: 1 + (depth - 4) // 2,
        help="Wide residual network in the form of the LatentBE system.\n\n"
        "As `wrn-d-k` apart from three things: shortcuts project the raw input of a block, "
        "weights are drawn from a truncated "
        "normal distribution, and batch normalisation tracks the biased variance.",
        source='the code of Nam, Lee, Heo & Lee 2022, "Improving ensemble distillation with '
        "weight averaging and diversifying "
        f'perturbation", https://arxiv.org/abs/2206.15047, after {_WIDE_RESNET}.',
        sizes={
            "pre-wrn-10-1": Size(83_700, 12_507_392),
            "pre-wrn-28-1": Size(375_348, 54_974_720),
            "pre-wrn-28-4": Size(5_872_180, 845_620_224),
        },
    )
)
FAMILIES.register("resnet50")(
    ModelFamily(
        pattern="resnet50",
        expression="resnet50",
        examples=("resnet50",),
        builder="distill_ray.models.resnet:resnet50",
        units=lambda: 17,
        help="ResNet50 for small images: its stem neither strides nor pools.\n\n"
        "Bottleneck blocks, 3, 4, 6 and 3 of them. The one for images of 224 pixels is "
        "`torchvision/resnet50`.",
        source=f"{_RESNET}, {_REPDISTILLER}.",
        sizes={"resnet50": Size(23_705_252, 1_298_014_208)},
    )
)
FAMILIES.register("resnetN, resnetNx4")(
    ModelFamily(
        pattern="resnetN, resnetNx4",
        expression=rf"resnet({NUMBER})(?:x(4))?",
        examples=("resnet8", "resnet8x4", "resnet20", "resnet32x4", "resnet56", "resnet110"),
        builder="distill_ray.models.resnet:cifar_resnet",
        arguments=_cifar_resnet,
        units=lambda depth, widen: 1 + (depth - 2) // 2,
        help="Residual network of depth N for small images; x4 is four times as wide.\n\n"
        "The depth is 2 more than a multiple of 6: 8, 14, 20, 32, 44, 56, 110. Three stages "
        "of (N - 2) / 6 basic blocks, 16, 32 "
        "and 64 channels wide.",
        source=f"{_RESNET}, section 4.2, {_REPDISTILLER}.",
        sizes={
            "resnet8": Size(83_892, 12_507_392),
            "resnet8x4": Size(1_233_540, 177_071_104),
            "resnet20": Size(278_324, 40_818_944),
            "resnet32x4": Size(7_433_860, 1_083_040_768),
            "resnet56": Size(861_620, 125_753_600),
            "resnet110": Size(1_736_564, 253_155_584),
        },
    )
)
FAMILIES.register("basic-resnet-p1-p2-...")(
    ModelFamily(
        pattern="basic-resnet-p1-p2-...",
        expression=rf"basic-resnet-({NUMBERS})",
        examples=("basic-resnet-32-64-128-256", "basic-resnet-96-192-256-128"),
        builder="distill_ray.models.resnet:basic_resnet",
        arguments=_basic_resnet,
        units=lambda planes: 1 + 2 * len(planes),
        help="Residual network with two basic blocks of each width p1, p2, ...\n\n"
        "Each width after the first halves the map. Hydra+ has the first example as teacher "
        "for CIFAR-10, the second as student.",
        source=f"{_HYDRA_PLUS}.",
        sizes={
            "basic-resnet-32-64-128-256": Size(2_820_740, 139_322_368),
            "basic-resnet-96-192-256-128": Size(4_564_676, 801_419_776),
        },
    )
)
FAMILIES.register("vgg8, vgg13")(
    ModelFamily(
        pattern="vgg8, vgg13",
        expression="vgg(8|13)",
        examples=("vgg8", "vgg13"),
        builder="distill_ray.models.vgg:vgg",
        arguments=_vgg,
        check_images=_vgg_images,
        units=lambda depth: {8: 5, 13: 10}[depth],
        dense=lambda side, depth: side >= 16,
        help="VGG with batch normalisation and a single linear layer.\n\n"
        "Five blocks, 64, 128, 256, 512 and 512 channels wide, of one convolution each "
        "(`vgg8`) or two (`vgg13`). The map is "
        "halved after the first three, and after the fourth where images are 64 pixels high "
        "or more: such images have to be 16 "
        "pixels wide.",
        source='Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale '
        'image recognition", '
        f"https://arxiv.org/abs/1409.1556, {_REPDISTILLER}.",
        sizes={"vgg8": Size(3_965_028, 96_192_512), "vgg13": Size(9_462_180, 284_936_192)},
    )
)
FAMILIES.register("mobilenet-v2")(
    ModelFamily(
        pattern="mobilenet-v2",
        expression="mobilenet-v2",
        examples=("mobilenet-v2",),
        builder="distill_ray.models.mobilenet_v2:mobilenet_v2",
        units=lambda: 19,
        dense=never,
        help="MobileNetV2 of half width: inverted residual blocks.\n\n"
        "The map is halved four times, so that of 32 pixels two are left. ReLU instead of "
        "ReLU6, no dropout.",
        source='Sandler et al. 2018, "MobileNetV2: Inverted residuals and linear bottlenecks", '
        f"https://arxiv.org/abs/1801.04381, {_REPDISTILLER}.",
        sizes={"mobilenet-v2": Size(812_836, 6_523_648)},
    )
)
FAMILIES.register("shuffle-v1")(
    ModelFamily(
        pattern="shuffle-v1",
        expression="shuffle-v1",
        examples=("shuffle-v1",),
        builder="distill_ray.models.shufflenet_v1:shufflenet_v1",
        units=lambda: 17,
        help="ShuffleNet V1 with three groups: grouped 1x1 convolutions, whose channels are "
        "shuffled.\n\n"
        "The stem keeps the size of the map; three stages, 240, 480 and 960 channels wide, "
        "halve it.",
        source='Zhang et al. 2018, "ShuffleNet: An extremely efficient convolutional neural '
        'network for mobile devices", '
        f"https://arxiv.org/abs/1707.01083, {_REPDISTILLER}.",
        sizes={"shuffle-v1": Size(949_258, 38_691_456)},
    )
)
FAMILIES.register("shuffle-v2")(
    ModelFamily(
        pattern="shuffle-v2",
        expression="shuffle-v2",
        examples=("shuffle-v2",),
        builder="distill_ray.models.shufflenet_v2:shufflenet_v2",
        units=lambda: 18,
        dense=never,
        help="ShuffleNet V2 of width 1: each unit convolves half of the channels and passes the "
        "other half on.\n\n"
        "The stem keeps the size of the map; three stages, 116, 232 and 464 channels wide, "
        "halve it.",
        source='Ma et al. 2018, "ShuffleNet V2: Practical guidelines for efficient CNN '
        'architecture design", '
        f"https://arxiv.org/abs/1807.11164, {_REPDISTILLER}.",
        sizes={"shuffle-v2": Size(1_355_528, 44_504_448)},
    )
)
FAMILIES.register("mlp-w1-w2-...")(
    ModelFamily(
        pattern="mlp-w1-w2-...",
        expression=rf"mlp-({NUMBERS})",
        examples=("mlp-100-100-100-100", "mlp-50-50-50"),
        builder="distill_ray.models.mlp:mlp",
        arguments=_mlp,
        units=lambda widths: len(widths),
        dense=lambda side, widths: max(widths) >= 512,
        help="Fully connected network: a linear layer and ReLU for each width w1, w2, ...\n\n"
        "Inputs are flattened, so that it also takes points. Hydra+ has the first example for "
        "`toy-spiral`, the second for "
        "`toy-regression`.",
        source=f"{_HYDRA_PLUS}.",
        sizes={
            "mlp-100-100-100-100": Size(347_700, 347_200),
            "mlp-50-50-50": Size(163_850, 163_600),
        },
    )
)
FAMILIES.register("lenet-p1-...-mlp-w1-...")(
    ModelFamily(
        pattern="lenet-p1-...-mlp-w1-...",
        expression=rf"lenet-({NUMBERS})-mlp-({NUMBERS})",
        examples=("lenet-32-64-mlp-128", "lenet-128-32-mlp-128-128"),
        builder="distill_ray.models.lenet:lenet",
        arguments=_lenet,
        check_images=_lenet_images,
        units=lambda planes, widths: len(planes) + len(widths),
        help="LeNet-like network: a 3x3 convolution for each width p1, ..., then a linear layer "
        "for each width w1, ...\n\n"
        "ReLU and 2x2 max-pooling follow each convolution, so that n of them need images of "
        "2^n pixels; the maps are averaged to "
        "4x4 before the linear layers. Hydra+ has the first example as teacher for SVHN, the "
        "second as student.",
        source=f"{_HYDRA_PLUS}.",
        sizes={
            "lenet-32-64-mlp-128": Size(163_492, 5_747_200),
            "lenet-128-32-mlp-128-128": Size(135_556, 13_070_848),
        },
    )
)
FAMILIES.register("timm/name")(
    ModelFamily(
        pattern="timm/name",
        expression=r"timm/([\w.-]+)",
        examples=("timm/resnet26d", "timm/efficientnet_lite0"),
        builder="distill_ray.models.timm_classifier:timm_classifier",
        arguments=timm_names.architecture,
        plain_layers=never,
        dense=timm_names.dense,
        help="Any classification network of timm, which comes with `distill-ray[timm]`.\n\n"
        "Names are timm's, `timm.list_models()`, perhaps with a tag; weights come from a file or "
        "are drawn. Networks that are made for one size of images, such as vision transformers, "
        "are made for that of the data where they can be. Which images a network takes, and "
        "whether it shows the features that some methods need, is found out by building it.",
        source="the papers that [timm](https://huggingface.co/docs/timm) names.",
    )
)
FAMILIES.register("torchvision/name")(
    ModelFamily(
        pattern="torchvision/name",
        expression=rf"torchvision/({'|'.join(NAMES)})",
        examples=tuple(f"torchvision/{name}" for name in NAMES),
        builder="distill_ray.models.torchvision_classifier:torchvision_classifier",
        arguments=architecture,
        check_images=check_images,
        plain_layers=plain_layers,
        dense=dense,
        help="Any classification network of torchvision, with weights that are drawn, not "
        "downloaded.\n\n"
        "The last linear layer is made for the classes at hand, the first convolution for the "
        "channels; auxiliary classifiers "
        "are left out. Most of these networks are meant for 224 pixels and leave little of an "
        "image of 32: for small images "
        "take one of those above.",
        source="the papers that [torchvision](https://docs.pytorch.org/vision/stable/models.html) "
        "names.",
    )
)
