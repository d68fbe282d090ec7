"""The training loop: one job, read from top to bottom. Start reading this package here.

Plain PyTorch. It runs the same in a notebook, in a Ray actor, and on every rank of a data-parallel
group; it knows nothing of Ray, of the store, or of where teachers come from. In short:

    for each epoch:
        for each batch:                    # the augmentation makes it, as a function of the seed
            loss = method.loss(student, batch, teachers)
            loss.backward(), clip, step
        deploy the student, and predict the validation split with it
        yield a record of metrics

A teacher is trained by the same loop: its method is `supervised`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from distill_ray.augmentation.augmentation import Batch
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.errors import RunError
from distill_ray.job import Job, Recipe
from distill_ray.methods.method import Setup, Student
from distill_ray.metrics import diversity, validation_score
from distill_ray.models import build_model
from distill_ray.models.network import Network
from distill_ray.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, has_library_mean
from distill_ray.models.weights import fit_weights, outputs_of
from distill_ray.training import checkpoint
from distill_ray.training.averaging import AveragedWeights
from distill_ray.training.checkpoint import TrainingState
from distill_ray.training.compiling import Compile, CompiledForward, compiles
from distill_ray.training.dataset import Dataset
from distill_ray.training.device import Worker, autocast, gradients_kept, precision_of
from distill_ray.training.fine_tuning import Frozen
from distill_ray.training.on_device import on_device
from distill_ray.training.optimisation import Steps, clip_gradients, learning_rate, make_optimizer
from distill_ray.training.prediction import predict
from distill_ray.training.prefetch import prefetched
from distill_ray.training.resource_usage import Usage
from distill_ray.training.shared_statistics import with_shared_statistics
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
    initial: Mapping[str, Tensor] | None = None,
    compile: Compile = "never",
) -> Generator[dict[str, float], None, Outcome]:
    """Train `job` on `dataset`: a generator of one record of metrics per epoch that returns the
    `Outcome`.

    All workers of a data-parallel run call this together.

    Args:
        job: what is trained; recipe and seed decide everything that is drawn.
        dataset: images and labels, with the rows of the training and the validation split.
        teachers: what the method learns from; None for methods without teachers.
        worker: this process's device, and its rank among the workers; by default the GPU, if there
            is one, and what torch's process group says.
        usage: measures what each epoch uses of the machine; None leaves that out of the records.
        saved: a checkpoint, with which the run goes on after yielding the records before it. It
            ends with the same weights as an undisturbed run.
        save: called after every epoch with a function that makes its checkpoint, to be called at
            once or not at all. One of several workers passes it.
        initial: the trained weights that the recipe names, as `read_weights` reads them. The
            network starts from them; without epochs it is validated as it is, in a record of
            epoch 0.
        compile: whether the student is compiled, which changes the last digits of results.

    Yields:
        `epoch` (1-based), `time` (seconds since 1970), `seconds` (of this epoch), `lr`, the losses
        on the training split under `train/`, the scores on the validation split under `val/`, and
        with `usage` what the epoch used under `system/`. The last record of a student with members
        or heads has their diversity under `members/`.

    Raises:
        DivergedError: the loss, or a prediction on the validation split, is not finite.
    """
    begun = time.perf_counter()
    recipe = job.recipe
    method = recipe.method
    worker = worker or Worker.here()
    precision = precision_of(recipe, dataset.image_shape, worker.device)

    # ---- The student: the recipe's network, shaped by the method (given heads, say) --------------
    setup = Setup(
        teachers=len(job.teachers),
        networks=_live_networks(recipe, teachers),
        rows=dataset.train,
        labels=dataset.labels[dataset.train],
        image_shape=dataset.image_shape,
    )
    network = method.student(make_network(job, dataset, initial), setup)
    if recipe.sync_batch_norm and worker.world_size > 1:
        network = with_shared_statistics(network)
    network = network.to(worker.device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(recipe, network)
    frozen, rate = Frozen(recipe, network), 0.0
    average = None if recipe.ema is None else AveragedWeights(network, recipe.ema)
    averaged = None if average is None else average.network
    result = averaged or network  # what is validated, kept and exported

    # ---- Where an interrupted run was ------------------------------------------------------------
    state = TrainingState(job_id=job.id)
    if saved is not None:
        state = checkpoint.unpack(saved, network, optimizer, averaged)
        yield from state.history

    steps_of = Steps.of(recipe, len(dataset.train))
    steps = steps_of.per_epoch
    forward: Callable[[Tensor], Tensor]
    if compiles(compile, worker, recipe.epochs * steps_of.batches):
        forward = CompiledForward(network, worker.device)
    else:
        forward = worker.parallel(network)
    student = Student(network, forward, functools.partial(autocast, worker.device, precision))

    class_weights = None
    if job.data.class_weights is not None:
        class_weights = torch.tensor(dataset.balanced_weights, device=worker.device)
    with_labels = functools.partial(
        _with_label_settings,
        label_smoothing=recipe.label_smoothing,
        class_weights=class_weights,
    )

    log_probabilities: np.ndarray | None = None
    validate = functools.partial(
        predict,
        images=dataset.images,
        rows=dataset.validation,
        worker=worker,
        task=dataset.task,
    )

    for epoch in range(state.epoch + 1, recipe.epochs + 1):
        started = time.perf_counter()

        # ---- Train -------------------------------------------------------------------------------
        # Nothing below depends on what was drawn before: batches and the noise of layers are
        # functions of seed and epoch. That is why a checkpoint needs no state of any generator.
        network.train()
        frozen.hold_statistics(epoch)
        losses: dict[str, Tensor] = {}
        answers = (teachers or NO_TEACHERS).of_epoch(epoch)
        softened = functools.partial(method.softened, epoch=epoch)
        batches = epoch_batches(
            recipe.augmentation,
            *on_device(dataset, worker.device),
            rows=dataset.train,
            mean=dataset.mean,
            shape=dataset.image_shape[1:],
            strips=dataset.strips,
            seed=job.seed,
            epoch=epoch,
            batch_size=recipe.batch_size,
            device=worker.device,
            rank=worker.rank,
            world_size=worker.world_size,
            drop_last=recipe.drop_last,
            versions=recipe.image_versions,
        )
        _seed_layers(job, epoch, worker)
        used = itertools.islice(batches, steps_of.batches)
        for number, batch in enumerate(prefetched(used, worker.device)):
            ends_step = steps_of.is_last(number)
            gather = functools.partial(worker.gather, shares=batch.shares)
            at_work = replace(student, gather=gather, softened=softened)
            # Workers average their gradients, whatever their shares of the batch: `weight` makes
            # that the gradient of the whole batch's mean, and `share` of the mean over a step.
            weight = batch.weight * steps_of.share(number, sum(batch.shares))
            with gradients_kept(forward) if not ends_step else nullcontext():
                terms = method.loss(at_work, with_labels(batch), answers)
                (terms["loss"] * weight).backward()
            # Summed where they are computed: reading one would make the host wait for a GPU.
            for name, term in terms.items():
                losses[name] = losses.get(name, 0) + term.detach() * weight
            if not ends_step:
                continue
            step = (epoch - 1) * steps + number // recipe.accumulate
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            frozen.drop_gradients(epoch)
            clip_gradients(recipe, network)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(network, step + 1)

        del answers  # a GPU need not hold the teacher logits of two epochs
        worker.average_buffers(network)
        if averaged is not None:
            worker.average_buffers(averaged)
        means = {
            f"train/{name}": worker.mean(total / steps).item() for name, total in losses.items()
        }
        if not math.isfinite(means["train/loss"]):
            raise DivergedError(f"the loss was {means['train/loss']} in epoch {epoch}; {REMEDIES}")

        # ---- Validate what would be deployed -----------------------------------------------------
        # An epoch whose weights may be kept is judged in float32, which the deployed network will
        # compute in; the others in the precision that is fast here.
        may_be_kept = recipe.keep != "last" or epoch == recipe.epochs
        deployed = method.deploy(result)
        log_probabilities = validate(deployed, precision="fp32" if may_be_kept else precision)
        if not np.isfinite(log_probabilities).all():
            raise DivergedError(
                f"predictions on the validation split were not finite in epoch {epoch}; {REMEDIES}"
            )
        scores = validation_score(log_probabilities, dataset.labels[dataset.validation])
        state.epoch = epoch
        _keep_best(state, recipe.keep, scores, deployed)

        # ---- Record the epoch, save, and hand the record over ------------------------------------
        record: dict[str, float] = {
            "epoch": epoch,
            "time": time.time(),
            "seconds": time.perf_counter() - started,
            "lr": rate,
        }
        record |= means | {f"val/{name}": value for name, value in scores.items()}
        if epoch == recipe.epochs:
            record |= _diversity(result, dataset, worker)
        if usage is not None:
            record |= usage.since_last()
        state.history.append(record)
        if save is not None:
            save(functools.partial(checkpoint.pack, state, network, optimizer, averaged))
        yield record

    # ---- Weights and predictions of the epoch that is kept ---------------------------------------
    deployed = method.deploy(result)
    if state.best_weights:
        deployed.load_state_dict(state.best_weights)
    if state.best_weights or log_probabilities is None:
        log_probabilities = validate(deployed)
    if recipe.epochs == 0:
        scores = validation_score(log_probabilities, dataset.labels[dataset.validation])
        record = {"epoch": 0, "time": time.time(), "seconds": time.perf_counter() - begun}
        record |= {f"val/{name}": value for name, value in scores.items()}
        state.history.append(record)
        yield record
    return Outcome(
        weights={
            name: tensor.detach().cpu().contiguous()
            for name, tensor in deployed.state_dict().items()
        },
        epochs=tuple(state.history),
        kept_epoch=state.best_epoch or recipe.epochs,
        log_probabilities=log_probabilities,
        labels=dataset.labels[dataset.validation],
        parameters=sum(parameter.numel() for parameter in deployed.parameters()),
    )


def make_network(
    job: Job, dataset: Dataset, initial: Mapping[str, Tensor] | None = None
) -> Network:
    """The plain network that the recipe names, with weights drawn by the seed: a pure function of
    the job and of the data's shape.

    With the weights that the recipe names, `initial`, it starts from these. Raises `RequestError`
    when they do not fit.
    """
    recipe = job.recipe
    preprocessing = recipe.prepared(dataset.image_shape[0])
    mean, std = dataset.mean, dataset.std
    if preprocessing is not None and preprocessing.mean and preprocessing.std:
        mean, std = preprocessing.mean, preprocessing.std
    elif recipe.weights is not None and has_library_mean(recipe.model, dataset.image_shape):
        # As the library's own weights want it, and most of what was fine-tuned from them.
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    network = build_model(
        recipe.model,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        mean=mean,
        std=std,
        preprocessing=preprocessing,
        seed=job.seed,
        task=dataset.task,
    )
    if initial is not None and recipe.weights is not None:
        outputs = outputs_of(recipe.classes, dataset.class_names, recipe.weights)
        fine_tuned = recipe.epochs > 0
        fit_weights(network, initial, recipe.weights, outputs=outputs, new_classifier=fine_tuned)
    return network


def load_network(job: Job, weights: Mapping[str, Tensor], dataset: Dataset) -> nn.Module:
    """The deployable network of a finished job, in eval mode: images (B, C, H, W) in [0, 1] to
    logits (B, K).

    Raises `RunError` for weights of another network, or of one for another number of classes.
    """
    network = job.recipe.method.deployed_like(make_network(job, dataset))
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    misfits = sorted(name for name, _ in expected.items() ^ shapes.items())
    if misfits:
        name = misfits[0]
        raise RunError(
            f"the weights of job {job.id} are not those of {job.recipe.model} for "
            f"{dataset.num_classes} classes: {name} is {shapes.get(name, 'missing')}, "
            f"expected {expected.get(name, 'nothing of that name')}"
        )
    network.load_state_dict(dict(weights))
    return network.eval()


def _live_networks(recipe: Recipe, teachers: EpochTeachers | None) -> Sequence[nn.Module]:
    """The teachers themselves, where the method wants them live."""
    if teachers is None or not recipe.method.live_teachers(recipe.augmentation):
        return ()
    return teachers.networks


def _with_label_settings(
    batch: Batch, label_smoothing: float, class_weights: Tensor | None
) -> Batch:
    """`batch` whose parts say how their labels count."""
    if not label_smoothing and class_weights is None:
        return batch
    parts = [
        replace(part, label_smoothing=label_smoothing, class_weights=class_weights)
        for part in batch.parts
    ]
    return replace(batch, parts=tuple(parts))


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
    state: TrainingState, keep: str, scores: Mapping[str, float], network: nn.Module
) -> None:
    """Note the weights of this epoch if they are the best so far, and the recipe keeps the best."""
    if keep == "last":
        return
    value = scores["accuracy"] if keep == "best-accuracy" else -scores["nll"]
    if state.best_score is None or value > state.best_score:
        state.best_epoch, state.best_score = state.epoch, value
        state.best_weights = {
            name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()
        }
