"""The moving average of the weights against its formula, and as what a job leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill_ray.job import Data
from distill_ray.training import Dataset, Worker, load_network, predict
from distill_ray.training.averaging import AveragedWeights
from support.small import finish, tiny_job

HERE = Worker(torch.device("cpu"))


def test_the_average_is_that_of_the_formula_and_of_torch() -> None:
    """Beyond the warm-up torch's own average over the same weights; buffers are averaged too."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = AveragedWeights(network, 0.9)
    expected = network[0].weight.detach().clone()
    theirs: Any = None
    for step in range(1, 201):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 2))
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
        if step == 81:  # the first with the full decay
            theirs = torch.optim.swa_utils.AveragedModel(
                average.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
            )
            theirs.update_parameters(average.network)
        elif step > 81:
            theirs.update_parameters(network)
    torch.testing.assert_close(average.network[0].weight, expected)
    torch.testing.assert_close(average.network[0].weight, theirs.module[0].weight)
    assert average.network[1].num_batches_tracked == 200
    assert not torch.equal(average.network[1].running_mean, network[1].running_mean)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


@pytest.mark.parametrize("method", ["kd", "latent-be", "hydra", "crd"])
def test_the_averaged_network_is_what_a_job_leaves_also_after_an_interruption(
    method: str, small_dataset: Dataset, small_data: Data
) -> None:
    job = tiny_job(small_data, method, ema=0.9, keep="best-nll")
    saved: list[bytes] = []
    whole, expected = finish(job, small_dataset, save=lambda pack: saved.append(pack()))
    plain, without = finish(tiny_job(small_data, method, keep="best-nll"), small_dataset)
    assert [record["train/loss"] for record in plain] == [record["train/loss"] for record in whole]
    assert any(not torch.equal(without.weights[name], w) for name, w in expected.weights.items())
    network = load_network(job, expected.weights, small_dataset)
    again = predict(network, small_dataset.images, small_dataset.validation, worker=HERE)
    np.testing.assert_allclose(again, expected.log_probabilities, atol=1e-5)
    for content in saved:
        records, outcome = finish(job, small_dataset, saved=content)
        assert [record["val/nll"] for record in records] == [r["val/nll"] for r in whole]
        for name, weight in expected.weights.items():
            assert torch.equal(outcome.weights[name], weight)
