"""Networks in a file of the user's own: found, built in the shape of all others, or refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.models import build_model
from distill_ray.models.network import Network, with_features
from distill_ray.models.own_modules import (
    ModuleFile,
    factory_of,
    load_module_files,
    loaded_module_files,
    pinned_model,
    read_module_file,
)
from distill_ray.models.weights import fit_weights
from distill_ray.resolve import data_of
from distill_ray.study import load_study

NETS = """
import torch
from torch import nn

def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, num_classes))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def convolved(num_classes):
    body = nn.Conv2d(1, num_classes, 3)
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())

def scaled(num_classes):
    return nn.Sequential(linear(num_classes), nn.LayerNorm(num_classes))

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fixed()
    def forward(self, images):
        return (self.net(images), None) if self.training else self.net(images)

def features(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 512))

def wide_images():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

def vast():
    return nn.Linear(1, 2**45)

class Greedy(nn.Flatten):
    def forward(self, images):
        return super().forward(images.repeat(1, 2**40, 1, 1))

def vast_maps():
    return Greedy()

def nothing():
    return None

def broken():
    raise KeyError("depth")
"""
FILE = ModuleFile("nets", NETS)


@pytest.fixture(autouse=True)
def _loaded() -> None:
    load_module_files([FILE])


def build(factory: str, seed: int = 0) -> Network:
    name = pinned_model(f"nets/{factory}")
    return build_model(name, num_classes=10, image_shape=(1, 8, 8), seed=seed)


@pytest.mark.parametrize("factory", ["linear", "fixed", "convolved", "scaled"])
def test_it_computes_what_the_module_does(factory: str) -> None:
    network = build(factory)
    make = factory_of(FILE.digest, factory)
    alone: nn.Module = make() if factory == "fixed" else make(num_classes=10)
    fit_weights(network, alone.state_dict(), "own.pt")
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network.eval()(images), alone.eval()(images))


def test_weights_are_a_function_of_the_seed() -> None:
    first, again, other = (build("linear", seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_last_linear_layer_is_the_classifier() -> None:
    assert with_features(build("linear")).classifier.in_features == 20
    for factory in ("convolved", "scaled"):
        with pytest.raises(ValueError, match="needs a network that ends in a linear layer"):
            with_features(build(factory))


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Pair", "Pair returns a tuple in training; return the logits alone"),
        ("features", r"features returns \(2, 512\) for 2 images in training, .* 10 classes"),
        ("wide_images", r"images of shape \(2, 1, 8, 8\) fail in training: RuntimeError"),
        ("vast", r"vast\(\) failed: out of memory, 140737488355328 bytes at once: smaller im"),
        ("vast_maps", r"shape \(2, 1, 8, 8\) fail in training: out of memory, \d+ bytes at once"),
        ("nothing", "nothing returns NoneType, and must return a torch.nn.Module"),
        ("broken", r"broken\(\) failed: KeyError: 'depth'"),
        ("none", r"nets.py makes no 'none' \(it has: linear, fixed, .*\)"),
    ],
)
def test_what_is_no_classifier_is_refused(factory: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build(factory)


def test_a_changed_file_is_another_network() -> None:
    before = pinned_model("nets/fixed")
    load_module_files([ModuleFile("nets", NETS.replace("20", "30"))])
    after = pinned_model("nets/fixed")
    assert before != after and pinned_model(before) == before
    load_module_files([FILE])
    assert pinned_model("nets/fixed") == before
    with pytest.raises(ValueError, match=r"name it: --extension nets.py"):
        pinned_model("nets/fixed@0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import torch\nimport missing_package", r"bad.py:2: .*ModuleNotFoundError.*install what"),
        ("def f(:", r"bad.py:1: .*SyntaxError"),
        ("x = 1\n\n1 / 0", "bad.py:3: .*ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        load_module_files([ModuleFile("bad", text)])
    assert "bad" not in [file.name for file in loaded_module_files()]


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nets.txt").write_text(NETS)
    for name in ("nets.txt", "missing.py", "two-words.py"):
        with pytest.raises(RequestError, match=f"--extension .*{re.escape(name)}"):
            read_module_file(str(tmp_path / name))


def test_a_process_without_the_file_gets_it_with_its_task(tmp_path: Path) -> None:
    import ray.cloudpickle

    resources = WorkerResources(module_files=(FILE,))
    (tmp_path / "task").write_bytes(ray.cloudpickle.dumps(resources))
    code = (
        "import sys, pickle; pickle.load(open('task', 'rb')).prepare();"
        "from distill_ray.models import build_model;"
        "build_model(sys.argv[1], num_classes=10, image_shape=(1, 8, 8), seed=0)"
    )
    name = pinned_model("nets/linear")
    command = [sys.executable, "-c", code, name]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)


STUDY = """\
name: own
teachers: {{members: 1, model: {teacher}}}
student: {{model: {student}, method: {method}}}
"""


@pytest.mark.parametrize(
    ("teacher", "student", "method", "problem"),
    [
        ("nets/Pair", "mlp-4", "kd", r"yaml:2: teachers.model: Pair returns a tuple"),
        ("mlp-4", "nets/features", "kd", r"yaml:3: student.model: features returns"),
        ("mlp-4", "nets/scaled", "hydra", r"yaml:3: student.method: .* ends in a linear layer"),
        ("nets/scaled", "mlp-4", "rkd", r"yaml:3: student.method: .* ends in a linear layer"),
        ("mlp-4", "nets/scaled", "latent-be", r"student.method: .* cannot become a BatchEnsemble"),
        ("nets/scaled", "nets/scaled", "kd", ""),
        ("nets/scaled", "nets/linear", "hydra", ""),
        ("nets/scaled", "nets/fixed", "latent-be", ""),
    ],
)
def test_a_study_says_what_its_methods_need(
    tmp_path: Path, teacher: str, student: str, method: str, problem: str
) -> None:
    (tmp_path / "own.yaml").write_text(
        STUDY.format(teacher=teacher, student=student, method=method)
    )
    study = load_study(tmp_path / "own.yaml")
    if not problem:
        data_of(study)
        return
    with pytest.raises(RequestError, match=problem):
        data_of(study)
