"""The arithmetic that pays on a device is taken, and training runs in it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill_ray.augmentation import CropFlip
from distill_ray.errors import RequestError
from distill_ray.job import Data, Job, Recipe
from distill_ray.methods import METHODS
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    Worker,
    precision_of,
    precision_of_teachers,
    train,
)
from distill_ray.training.device import AUTO_PRECISION
from distill_ray.training.loop import make_network

CPU = torch.device("cpu")
SHAPE = 3, 32, 32
RECIPE = Recipe(
    model="wrn-10-1",
    method=METHODS["kd"](),
    augmentation=CropFlip(),
    epochs=2,
    batch_size=16,
    lr=0.05,
)


@pytest.fixture(params=["AMX", "AVX512-BF16", "neither"])
def fast_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a CPU says it has instructions for bfloat16, of either kind; bfloat16 gives the same
    everywhere, only slower without them.
    """
    monkeypatch.delenv(AUTO_PRECISION)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: request.param == "AMX")
    vectors = request.param == "AVX512-BF16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    return bool(request.param != "neither")


def test_auto_takes_bf16_where_the_cpu_is_faster_in_it(fast_bf16: bool) -> None:
    assert precision_of(RECIPE, SHAPE, CPU) == ("bf16" if fast_bf16 else "fp32")
    for precision in ("fp32", "bf16"):
        assert precision_of(replace(RECIPE, precision=precision), SHAPE, CPU) == precision


@pytest.mark.parametrize(
    ("model", "side", "precision"),
    [
        ("torchvision/resnet18", 224, "bf16"),
        ("torchvision/vit_b_16", 224, "bf16"),
        ("torchvision/convnext_tiny", 224, "bf16"),
        ("timm/resnet26d", 224, "bf16"),
        ("mlp-1024-1024", 32, "bf16"),
        ("mlp-100-100-100-100", 32, "fp32"),
        ("shuffle-v1", 32, "bf16"),
        ("shuffle-v2", 32, "fp32"),
        ("mobilenet-v2", 32, "fp32"),
        ("vgg13", 8, "fp32"),
        ("vgg13", 16, "bf16"),
        ("torchvision/shufflenet_v2_x0_5", 224, "fp32"),
        ("torchvision/mobilenet_v3_small", 224, "fp32"),
        ("torchvision/efficientnet_b0", 224, "fp32"),
        ("timm/efficientnet_lite0", 224, "fp32"),
        ("torchvision/mobilenet_v2", 224, "bf16"),
        ("torchvision/mobilenet_v2", 96, "fp32"),
        ("torchvision/regnet_x_400mf", 224, "bf16"),
        ("torchvision/regnet_x_400mf", 32, "fp32"),
    ],
)
def test_on_a_cpu_auto_goes_by_the_architecture_and_the_size_of_images(
    fast_bf16: bool, model: str, side: int, precision: str
) -> None:
    if model.startswith("timm/"):
        pytest.importorskip("timm")
    recipe = replace(RECIPE, model=model)
    assert precision_of(recipe, (3, side, side), CPU) == (precision if fast_bf16 else "fp32")
    resized = replace(recipe, preprocessing=Preprocessing(size=side))
    assert precision_of(resized, SHAPE, CPU) == (precision if fast_bf16 else "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_environment_says_what_auto_is(
    fast_bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTO_PRECISION, precision)
    assert precision_of(RECIPE, SHAPE, CPU) == precision
    assert precision_of(replace(RECIPE, precision="fp32"), SHAPE, CPU) == "fp32"
    monkeypatch.setenv(AUTO_PRECISION, "half")
    with pytest.raises(
        RequestError, match=r"DISTILL_RAY_PRECISION must be fp32 or bf16, not 'half'"
    ):
        precision_of(RECIPE, SHAPE, CPU)


def test_teachers_answer_in_bf16_if_all_are_trained_so(fast_bf16: bool) -> None:
    exact, half = (replace(RECIPE, precision=precision) for precision in ("fp32", "bf16"))
    assert precision_of_teachers([RECIPE, RECIPE], SHAPE, CPU) == ("bf16" if fast_bf16 else "fp32")
    assert precision_of_teachers([half, half], SHAPE, CPU) == "bf16"
    assert precision_of_teachers([half, exact], SHAPE, CPU) == "fp32"
    assert precision_of_teachers([], SHAPE, CPU) == "fp32"


def test_training_runs_in_what_auto_takes(
    fast_bf16: bool, small_dataset: Dataset, small_data: Data
) -> None:
    """To the last bit as if the recipe had named it, live teachers included, and near to what
    float32 gives.
    """

    def losses(precision: str) -> list[float]:
        recipe = replace(RECIPE, precision=precision)
        job = Job(recipe=recipe, data=small_data, seed=3, teachers=("a", "b"))
        networks = [make_network(replace(job, seed=seed), small_dataset) for seed in range(2)]
        teachers = LiveTeachers(networks, CPU, precision_of_teachers([recipe] * 2, SHAPE, CPU))
        return [
            record["train/loss"]
            for record in train(job, small_dataset, teachers, worker=Worker(CPU))
        ]

    named, exact = losses("bf16" if fast_bf16 else "fp32"), losses("fp32")
    assert losses("auto") == named
    assert named == pytest.approx(exact, rel=0.05)
    assert (named != exact) == fast_bf16


def test_float32_keeps_all_of_its_digits_on_a_gpu_too(
    small_dataset: Dataset, small_data: Data
) -> None:
    """Whatever the process did before: convolutions without TF32, which is torch's default, and
    products of matrices.
    """
    for precision in ("fp32", "bf16"):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        job = Job(
            recipe=replace(RECIPE, method=METHODS["supervised"](), precision=precision),
            data=small_data,
            seed=3,
        )
        next(train(job, small_dataset, worker=Worker(CPU)))
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


TALK = """
import sys
import torch
from distill_ray.training import Worker
rank = int(sys.argv[1])
address = "file://" + sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
worker = Worker(torch.device("cpu"), rank, 2)
contents = (b"the first", b"", None)
print([worker.agreed(content if rank == 0 else b"another one") for content in contents])
"""


def test_workers_agree_on_what_the_first_one_has(tmp_path: Path) -> None:
    """On its checkpoint, though another driver may have written a later one when the second worker
    looks.
    """
    said = [b"the first", b"", None]
    assert [Worker(CPU).agreed(content) for content in said] == said
    command = [sys.executable, "-c", TALK]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "rendezvous")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == [str(said)] * 2
