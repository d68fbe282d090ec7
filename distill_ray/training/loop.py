"""The training loop: one job, read from top to bottom.

Plain PyTorch. It runs the same in a notebook, in a Ray actor, and on every rank of a data-parallel
group.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from distill_ray.augmentation.epoch import epoch_batches, steps_per_epoch
from distill_ray.errors import RunError
from distill_ray.job import Job
from distill_ray.methods.method import Setup, Student
from distill_ray.metrics import diversity, validation_score
from distill_ray.models import build_model
from distill_ray.training import checkpoint
from distill_ray.training.checkpoint import Progress
from distill_ray.training.compiling import Compile, compiled
from distill_ray.training.dataset import Dataset
from distill_ray.training.device import Worker, autocast, precision_of
from distill_ray.training.on_device import resident
from distill_ray.training.optimisation import (
    clip_gradients,
    learning_rate,
    make_optimizer,
    take_step,
)
from distill_ray.training.prediction import predict
from distill_ray.training.prefetch import prefetched
from distill_ray.training.resource_usage import Usage
from distill_ray.training.teachers import NO_TEACHERS, EpochTeachers

REMEDIES = "try a lower lr, more warmup_epochs, a clip_norm or precision: fp32"


class DivergedError(RunError):
    """The loss or the predictions are not finite. The same job would diverge again, so it is not
    retried.
    """


@dataclass(frozen=True)
class Outcome:
    """What a finished job leaves: the deployable weights, one record of metrics per epoch,
    predictions on the validation split.

    Weights and predictions are those of epoch `kept_epoch`, the last one unless the recipe keeps
    the best. The predictions are float32 computations of the deployable network, whatever it was
    trained in.
    """

    weights: dict[str, Tensor]
    epochs: tuple[dict[str, float], ...]
    kept_epoch: int
    log_probabilities: np.ndarray
    labels: np.ndarray
    parameters: int


def train(
    job: Job,
    dataset: Dataset,
    teachers: EpochTeachers | None = None,
    *,
    worker: Worker | None = None,
    usage: Usage | None = None,
    saved: bytes | None = None,
    save: Callable[[Callable[[], bytes]], None] | None = None,
    compile: Compile = "never",
    say: Callable[[str], None] = lambda line: None,
) -> Generator[dict[str, float], None, Outcome]:
    """Train `job` on `dataset`, yielding a record of metrics after each epoch and returning the
    `Outcome`.

    A record holds `epoch` (1-based), `time` (seconds since 1970), `seconds` (of this epoch), `lr`,
    the losses of the training split under `train/` and the scores of the validation split under
    `val/`; with `usage` also what the epoch used of the machine, under `system/`. The last one has
    the diversity of a student's members or heads under `members/`, see `diversity`. With `saved`,
    the content of a checkpoint, the run resumes where that one was, after yielding its records
    again, and ends with the same weights as an undisturbed run; `save` is called after every epoch
    with a function that makes its checkpoint, to be called at once or not at all. All workers of a
    data-parallel run call this together, each with its `worker`; one passes `save`. `compile`
    decides about `torch.compile`, which changes the last digits of results; `say` is told where it
    is not available.

    Raises `DivergedError` when the loss, or a prediction on the validation split, is not finite.
    """
    recipe = job.recipe
    worker = worker or Worker.here()
    precision = precision_of(recipe, worker.device)

    setup = Setup(
        teachers=len(job.teachers),
        networks=teachers.networks
        if teachers and recipe.method.live_teachers(recipe.augmentation)
        else (),
        rows=dataset.train,
        labels=dataset.labels[dataset.train],
    )
    network = (
        recipe.method.student(make_network(job, dataset), setup)
        .to(worker.device)
        .to(memory_format=torch.channels_last)
    )
    optimizer = make_optimizer(recipe, network)
    progress = Progress(job_id=job.id)
    if saved is not None:
        progress = checkpoint.unpack(saved, network, optimizer)
        yield from progress.history
    steps = steps_per_epoch(len(dataset.train), recipe.batch_size, recipe.drop_last)
    forward = compiled(network, worker, compile, recipe.epochs * steps, say) or worker.parallel(
        network
    )
    student = Student(network, forward, functools.partial(autocast, worker.device, precision))
    log_probabilities: np.ndarray | None = None

    for epoch in range(progress.epoch + 1, recipe.epochs + 1):
        started = time.perf_counter()
        network.train()
        losses: dict[str, Tensor] = {}
        answering = (teachers or NO_TEACHERS).of_epoch(epoch)
        batches = epoch_batches(
            recipe.augmentation,
            *resident(dataset, worker.device),
            rows=dataset.train,
            mean=dataset.mean,
            seed=job.seed,
            epoch=epoch,
            batch_size=recipe.batch_size,
            device=worker.device,
            rank=worker.rank,
            world_size=worker.world_size,
            drop_last=recipe.drop_last,
        )
        softened = functools.partial(recipe.method.softened, epoch=epoch)
        _seed_layers(job, epoch, worker)
        for step, batch in enumerate(prefetched(batches, worker.device), start=(epoch - 1) * steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            gather = functools.partial(worker.gather, shares=batch.shares)
            terms = recipe.method.loss(
                replace(student, gather=gather, softened=softened), batch, answering
            )
            (terms["loss"] * batch.weight).backward()
            clip_gradients(recipe, network)
            take_step(optimizer)
            for name, term in terms.items():
                losses[name] = losses.get(name, 0) + term.detach() * batch.weight

        del answering  # a GPU need not hold the teacher logits of two epochs
        worker.average_buffers(network)
        means = {
            f"train/{name}": worker.mean(total / steps).item() for name, total in losses.items()
        }
        if not math.isfinite(means["train/loss"]):
            raise DivergedError(f"the loss was {means['train/loss']} in epoch {epoch}; {REMEDIES}")
        # An epoch whose weights may be kept is judged in float32, which those who deploy the network
        # compute in; the others as fast as they are trained.
        may_be_kept = recipe.keep != "last" or epoch == recipe.epochs
        deployed = recipe.method.deploy(network)
        log_probabilities = predict(
            deployed,
            dataset.images,
            dataset.validation,
            worker=worker,
            precision="fp32" if may_be_kept else precision,
            task=dataset.task,
        )
        if not np.isfinite(log_probabilities).all():
            raise DivergedError(
                f"predictions on the validation split were not finite in epoch {epoch}; {REMEDIES}"
            )
        scores = validation_score(log_probabilities, dataset.labels[dataset.validation])
        progress.epoch = epoch
        _keep_best(progress, recipe.keep, scores, deployed)
        progress.history.append(
            {
                "epoch": epoch,
                "time": time.time(),
                "seconds": time.perf_counter() - started,
                "lr": optimizer.param_groups[0]["lr"],
            }
            | means
            | {f"val/{name}": value for name, value in scores.items()}
            | (_diversity(network, dataset, worker) if epoch == recipe.epochs else {})
            | (usage.since_last() if usage else {})
        )
        if save is not None:
            save(functools.partial(checkpoint.pack, progress, network, optimizer))
        yield progress.history[-1]

    deployed = recipe.method.deploy(network)
    if progress.best_weights:
        deployed.load_state_dict(progress.best_weights)
    if progress.best_weights or log_probabilities is None:
        log_probabilities = predict(
            deployed,
            dataset.images,
            dataset.validation,
            worker=worker,
            task=dataset.task,
        )
    return Outcome(
        weights={
            name: tensor.detach().cpu().contiguous()
            for name, tensor in deployed.state_dict().items()
        },
        epochs=tuple(progress.history),
        kept_epoch=progress.best_epoch or recipe.epochs,
        log_probabilities=log_probabilities,
        labels=dataset.labels[dataset.validation],
        parameters=sum(parameter.numel() for parameter in deployed.parameters()),
    )


def make_network(job: Job, dataset: Dataset) -> nn.Module:
    """The plain network that the recipe names, with its initial weights: a pure function of the job
    and of the data's shape.
    """
    return build_model(
        job.recipe.model,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        seed=job.seed,
        task=dataset.task,
    )


def load_network(job: Job, weights: Mapping[str, Tensor], dataset: Dataset) -> nn.Module:
    """The deployable network of a finished job, in eval mode: images (B, C, H, W) in [0, 1] to
    logits (B, K).
    """
    network = job.recipe.method.deployed_like(make_network(job, dataset))
    network.load_state_dict(dict(weights))
    return network.eval()


def _seed_layers(job: Job, epoch: int, worker: Worker) -> None:
    """Address what layers draw in training, such as torchvision's dropout: they take torch's own
    generators.
    """
    stream = hashlib.sha256(f"layers {job.seed} {epoch} {worker.rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(stream[:7]))


def _diversity(network: nn.Module, dataset: Dataset, worker: Worker) -> dict[str, float]:
    """How much the members or heads of a student disagree on the validation split; nothing for a
    student without.
    """
    network.eval()
    with torch.inference_mode():
        probe = torch.zeros(1, *dataset.image_shape, device=worker.device)
        several = dataset.task == "classification" and network(probe).dim() == 3
    if not several:
        return {}
    members = predict(network, dataset.images, dataset.validation, worker=worker)
    return {f"members/{name}": value for name, value in diversity(members.swapaxes(0, 1)).items()}


def _keep_best(
    progress: Progress, keep: str, scores: Mapping[str, float], network: nn.Module
) -> None:
    if keep == "last":
        return
    value = scores["accuracy"] if keep == "best-accuracy" else -scores["nll"]
    if progress.best_score is None or value > progress.best_score:
        progress.best_epoch, progress.best_score = progress.epoch, value
        progress.best_weights = {
            name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()
        }
