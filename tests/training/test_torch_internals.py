"""What is used of torch that is not public does what it is used for in this release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill_ray.training import _torch_internals

KINDS = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "fused": True}),
    (torch.optim.Adam, {"lr": 0.1, "fused": True}),
    (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.01, "fused": True}),
]


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=["sgd", "adam", "adamw"])
def test_a_step_is_that_of_torch(kind: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": list(ours.parameters())}]
    one = _torch_internals.optimizer_without_compiler(kind, groups, **settings)
    other = kind(theirs.parameters(), **settings)
    for images in torch.randn(3, 5, 3):
        for network in (ours, theirs):
            network(images).square().sum().backward()
        for optimizer in (one, other):
            optimizer.step()
            optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in ours.parameters())
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_steps_leave_the_compiler_alone() -> None:
    """torch would load it for nothing, seconds of computing in every process that trains."""
    code = """
import sys, torch
from distill_ray.job import Recipe
from distill_ray.training.optimisation import clip_gradients, make_optimizer
network = torch.nn.Linear(3, 2)
recipe = Recipe(model="wrn-16-2", clip_norm=1.0)
optimizer = make_optimizer(recipe, network)
network(torch.ones(1, 3)).sum().backward()
clip_gradients(recipe, network)
optimizer.step()
optimizer.zero_grad(set_to_none=True)
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_large_tensors_are_in_huge_pages() -> None:
    """Linux lists of each stretch of memory whether such pages were asked for (`hg`)."""
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no huge pages")
    code = """
import distill_ray.training, torch, torchvision.datasets
address = (tensor := torch.empty(2**24)).data_ptr()
inside = False
for line in open("/proc/self/smaps"):
    first, _, rest = line.partition(" ")
    if "-" in first:
        begin, end = (int(number, 16) for number in first.split("-"))
        inside = begin <= address < end
    elif inside and first == "VmFlags:":
        print("hg" in rest.split())
"""
    environment = {name: value for name, value in os.environ.items() if "THP" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert ended.stdout == "True\n"


def test_processors_say_what_they_have_for_bfloat16() -> None:
    """As Linux lists it among their flags."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read()
    except OSError:
        pytest.skip("only Linux lists the flags of processors")
    assert _torch_internals.cpu_has_amx() in (False, "amx_tile" in flags)
    assert _torch_internals.cpu_has_avx512_bf16() in (False, "avx512_bf16" in flags)


def test_the_number_of_compiled_programs_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.config

    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    _torch_internals.keep_compiled_programs(70)
    assert torch._dynamo.config.recompile_limit == 70
