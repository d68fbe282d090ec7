"""Checkpoints: damage is noticed, other jobs' ones are refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load
from torch import nn

from distill_ray.job import Recipe
from distill_ray.training.checkpoint import TrainingState, is_intact, pack, unpack
from distill_ray.training.optimisation import make_optimizer


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    return module, make_optimizer(Recipe(model="wrn-10-1"), module)


def checkpoint() -> bytes:
    module, optimizer = network()
    module(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return pack(
        TrainingState("job", 2, [{"epoch": 1.0}, {"epoch": 2.0}], 1, 0.5, weights),
        module,
        optimizer,
    )


def test_everything_comes_back() -> None:
    content = checkpoint()
    module, optimizer = network()
    state = unpack(content, module, optimizer)
    assert (state.job_id, state.epoch, state.best_epoch, state.best_score) == (
        "job",
        2,
        1,
        0.5,
    )
    assert state.history == [{"epoch": 1.0}, {"epoch": 2.0}]
    assert all(
        torch.equal(state.best_weights[name], tensor)
        for name, tensor in module.state_dict().items()
    )
    assert all("momentum_buffer" in optimizer.state[parameter] for parameter in module.parameters())
    expected = load(content[32:])
    restored = load(pack(state, module, optimizer)[32:])
    assert expected.keys() == restored.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("place", [0, 40, 400, -1])
def test_one_changed_bit_is_noticed(place: int) -> None:
    content = bytearray(checkpoint())
    content[place] ^= 1
    assert not is_intact(bytes(content), "job")


@pytest.mark.parametrize("length", [0, 10, 32, 100])
def test_a_truncated_file_is_noticed(length: int) -> None:
    assert not is_intact(checkpoint()[:length], "job")


def test_a_checkpoint_belongs_to_its_job() -> None:
    assert is_intact(checkpoint(), "job")
    assert not is_intact(checkpoint(), "another")
