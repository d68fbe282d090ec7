"""Steps on a GPU that is not there. Its tensors have devices and shapes and no values: who reads
one, or mixes devices, fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from distill_ray.augmentation import AUGMENTATIONS, Additional, Augmentation, AugMix
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.methods import CRD, METHODS, AugmentedKD, EnsembleKD, LatentBE, Method
from distill_ray.methods.method import Setup, Student
from distill_ray.models import build_model
from distill_ray.models.network import Network
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    StoredTeachers,
    TeacherLogits,
    Worker,
    predict,
    teacher_logits,
)
from distill_ray.training.top_k import Tail

GPU = torch.device("cuda", 0)

CASES: dict[str, tuple[Method, Augmentation]] = {
    name: (METHODS[name](), AUGMENTATIONS["crop-flip"]()) for name in METHODS
} | {
    "augmented-kd": (METHODS["augmented-kd"](), Additional()),
    "augmented-kd that picks": (
        AugmentedKD(combine="add-loss"),
        Additional(pick="student-entropy"),
    ),
    "crd": (CRD(negatives=50), AUGMENTATIONS["crop-flip"]()),
    "mlkd": (METHODS["mlkd"](), Additional()),
    "drop that picks": (METHODS["drop"](), Additional(pick="kl")),
    "kd of some more than others": (
        EnsembleKD(combine="mean-loss", teacher_weights=(1.0, 2.0)),
        AUGMENTATIONS["mixup"](),
    ),
    "latent-be with tdiv-sdiv": (LatentBE(perturb="tdiv-sdiv"), AUGMENTATIONS["crop-flip"]()),
    "supervised by versions": (METHODS["supervised"](), AugMix(consistency=True)),
}


class Hurried(TorchDispatchMode):
    """Refuses to wait for a copy between the host and the GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("to", "_to_copy"):  # the first in inference mode
            to = kwargs.get("device") or args[0].device
            assert to.type == args[0].device.type or kwargs.get("non_blocking"), (
                f"waits for {tuple(args[0].shape)} to {to}"
            )
        if name == "copy_":
            assert args[0].device == args[1].device or args[2:3] == (True,), (
                f"waits for {tuple(args[1].shape)}"
            )
        if name in ("index", "index_put", "index_put_"):
            assert all(index is None or index.device == args[0].device for index in args[1]), (
                "an index on the host"
            )
        return func(*args, **kwargs)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In whose context tensors are fake, on the host too. Gradients would need a real one."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs: (torch.empty_like(inputs),))
    monkeypatch.setattr(nn.Module, "to", moved)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def moved(
    module: nn.Module,
    device: object = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> nn.Module:
    """`module` with all tensors on the GPU; those of a real one cannot become fake in place."""
    if device == "meta":
        return module
    for layer in module.modules():
        for name, own in (
            *layer.named_parameters(recurse=False),
            *layer.named_buffers(recurse=False),
        ):
            fake = (
                like(own).contiguous(memory_format=memory_format) if own.dim() == 4 else like(own)
            )
            if isinstance(own, nn.Parameter):
                layer._parameters[name] = nn.Parameter(fake, requires_grad=own.requires_grad)
            else:
                layer._buffers[name] = fake
    return module


def like(values: Tensor) -> Tensor:
    """A tensor on the GPU of the same shape, strides and type."""
    return torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device=GPU)


def network(dataset: Dataset, seed: int = 0) -> Network:
    return build_model(
        "wrn-10-1", num_classes=3, image_shape=dataset.image_shape, mean=[0.3], std=[0.2], seed=seed
    )


@pytest.fixture(scope="module")
def made(small_dataset: Dataset) -> dict[Augmentation, Batch]:
    """A batch of each augmentation, made on the CPU."""
    where: dict[str, Any] = {
        "rows": small_dataset.train,
        "mean": small_dataset.mean,
        "seed": 1,
        "epoch": 1,
        "device": "cpu",
    }
    return {
        augmentation: next(
            epoch_batches(
                augmentation, small_dataset.images, small_dataset.labels, batch_size=6, **where
            )
        )
        for _, augmentation in CASES.values()
    }


def there(batch: Batch) -> Batch:
    """`batch` with its images and labels on the GPU. Its positions are NumPy's, since the host
    reads them.
    """

    def brought(part: Part) -> Part:
        values = {
            field.name: getattr(part, field.name) for field in fields(part) if field.name != "slots"
        }
        changed: dict[str, Any] = {
            name: like(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(part, **changed)

    return replace(
        batch, parts=tuple(map(brought, batch.parts)), positions=np.arange(len(batch.positions))
    )  # type: ignore[arg-type]


def step(
    method: Method,
    batch: Batch,
    live: LiveTeachers,
    asked: Any,
    augmentation: Augmentation,
    dataset: Dataset,
) -> None:
    setup = Setup(
        2,
        live.networks if method.live_teachers(augmentation) else (),
        dataset.train,
        dataset.labels[dataset.train],
        dataset.image_shape,
    )
    with unset_fake_temporarily():
        plain = method.student(network(dataset), setup)
    student = plain.to(GPU).to(memory_format=torch.channels_last).train()
    with Hurried():
        terms = method.loss(Student(student, student), batch, asked)
    assert all(term.device == GPU and term.dtype == torch.float32 for term in terms.values())
    assert terms["loss"].requires_grad
    if method.name != "latent-be":  # whose networks lie on the meta device before they are merged
        with Hurried():
            deployed = method.deploy(student)
        assert {tensor.device for tensor in deployed.state_dict().values()} == {GPU}


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_step_waits_for_nothing(
    case: str, made: dict[Augmentation, Batch], small_dataset: Dataset, fake_gpu: None
) -> None:
    method, augmentation = CASES[case]
    live = LiveTeachers([network(small_dataset, seed) for seed in (1, 2)], GPU, "fp32")
    step(method, there(made[augmentation]), live, live, augmentation, small_dataset)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("room", [True, False])
def test_stored_answers_are_waited_for_neither_there_nor_on_the_host(
    room: bool,
    top_k: int | None,
    made: dict[Augmentation, Batch],
    small_dataset: Dataset,
    fake_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_logits, "fits", lambda size, device: room)
    method, augmentation = CASES["kd"]
    shape = (len(small_dataset.train), 1, 2, top_k or 3)
    with unset_fake_temporarily():
        tail = Tail(torch.zeros(shape, dtype=torch.int16), torch.zeros(shape[:-1]), 3)
        found = TeacherLogits((np.zeros(shape, np.float16),), 0.0, (tail,) if top_k else ())
    answering = StoredTeachers(found, GPU)
    step(
        method,
        there(made[augmentation]),
        LiveTeachers((), GPU, "fp32"),
        answering,
        augmentation,
        small_dataset,
    )


def test_an_evaluation_waits_for_its_end_alone(small_dataset: Dataset, fake_gpu: None) -> None:
    """Where predictions are handed out, for which there are no values here."""
    plain = network(small_dataset).to(GPU)
    with pytest.raises(AssertionError, match=r"waits for \(16, 3\) to cpu"), Hurried():
        predict(plain, small_dataset.images, small_dataset.validation, worker=Worker(GPU))
