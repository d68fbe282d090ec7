"""Finished networks that judge images: opened to their members, heads or samples where they have
some, in float32 as they are deployed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from distill_ray.data.foreign import TEST, ForeignSet
from distill_ray.execution.train_job import cached_dataset
from distill_ray.methods import EnDD
from distill_ray.methods.mixture import MeanPrediction
from distill_ray.metrics.judgement import Judgement, judge
from distill_ray.records import JobRecord, save_judgement
from distill_ray.store import Store
from distill_ray.task import Task
from distill_ray.training import Worker, load_network, load_split, predict

BATCH = 250


@dataclass(frozen=True, eq=False)
class JudgingNetwork:
    """The network of a finished job, on a device."""

    module: nn.Module
    dirichlet: bool
    task: Task
    classes: int
    device: torch.device

    @classmethod
    def of(cls, record: JobRecord, device: torch.device) -> JudgingNetwork:
        """The network of that job."""
        dataset = cached_dataset(record.job.data)
        network = load_network(record.job, record.weights(), dataset).to(device)
        module = network.members if isinstance(network, MeanPrediction) else network
        dirichlet = isinstance(record.job.recipe.method, EnDD)
        return cls(module, dirichlet, dataset.task, dataset.num_classes, device)

    def judge(self, images: np.ndarray) -> Judgement:
        """What it says of images (N, H, W, C)."""
        outputs = predict(
            self.module,
            images,
            np.arange(len(images)),
            worker=Worker(self.device),
            task="regression",  # as they are
            batch_size=BATCH,
        )
        members = outputs.transpose(1, 0, 2) if outputs.ndim == 3 else outputs[None]
        return judge(members, self.task, dirichlet=self.dirichlet)


def judge_foreign(
    store: Store, record: JobRecord, foreign: Sequence[ForeignSet], device: torch.device
) -> None:
    """Let the network of a finished job judge the foreign sets, and the test split that they are
    told from; what is in the store already is not done again.
    """
    job = record.job
    missing = [images for images in foreign if not record.has_judged(images.key)]
    if not foreign or (not missing and record.has_judged(TEST)):
        return
    network = JudgingNetwork.of(record, device)
    if not record.has_judged(TEST):
        test = load_split(job.data, "test").images[:]
        save_judgement(store, job.id, TEST, network.judge(test))
    for images in missing:
        save_judgement(store, job.id, images.key, network.judge(images.load()))
