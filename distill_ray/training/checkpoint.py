"""Checkpoints: everything that an interrupted run needs to go on exactly, as safetensors with a
checksum in front.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

_DIGEST_BYTES = 32


@dataclass
class TrainingState:
    """How far a run has come: finished epochs, one record of metrics each, and the best weights so
    far where they are kept.
    """

    job_id: str
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def pack(
    state: TrainingState,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> bytes:
    """The state of a run at the end of an epoch, with the moving `average` of its weights if it has
    one. No pickle: tensors as safetensors, the rest as JSON in its header.
    """
    tensors = {f"student/{name}": tensor for name, tensor in student.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best_weights.items()}
    for name, parameter in student.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
    header = {
        "job_id": state.job_id,
        "epoch": str(state.epoch),
        "history": json.dumps(state.history),
        "best_epoch": str(state.best_epoch),
        "best_score": json.dumps(state.best_score),
    }
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata=header,
    )
    return hashlib.sha256(content).digest() + content


def is_intact(content: bytes, job_id: str) -> bool:
    """Whether `content` is an undamaged checkpoint of that job."""
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return False
    try:
        return bool(_header(body)["job_id"] == job_id)
    except (ValueError, KeyError, TypeError):
        return False


def unpack(
    content: bytes,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> TrainingState:
    """Put the state of an intact checkpoint back into `student`, `optimizer` and `average`, and
    return how far the run had come.
    """
    body = content[_DIGEST_BYTES:]
    header, tensors = _header(body), load(body)
    student.load_state_dict(_under("student/", tensors))
    if average is not None:
        average.load_state_dict(_under("average/", tensors))
    parameters = dict(student.named_parameters())
    for path, value in _under("optimizer/", tensors).items():
        key, name = path.split("/", 1)
        parameter = parameters[name]
        # The fused optimiser walks through memory, so its state must lie there in the order of the
        # parameter's.
        alike = value.shape == parameter.shape
        optimizer.state[parameter][key] = (
            torch.empty_like(parameter).copy_(value) if alike else value.to(parameter.device)
        )
    return TrainingState(
        job_id=header["job_id"],
        epoch=int(header["epoch"]),
        history=json.loads(header["history"]),
        best_epoch=int(header["best_epoch"]),
        best_score=json.loads(header["best_score"]),
        best_weights=_under("best/", tensors),
    )


def _header(body: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])[
        "__metadata__"
    ]
    return header


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
