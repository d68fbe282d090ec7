"""What a first study may search within a latency and a budget of time: networks that were measured,
and as many trials as a plan says fit.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from distill_ray.errors import RequestError
from distill_ray.models.catalogue import check_model_name
from distill_ray.planning.plan import plan_study
from distill_ray.report.format import duration, listed
from distill_ray.resolve import SEARCH, data_of
from distill_ray.search.costs import LATENCY, CostMeter
from distill_ray.search.deadline import KEPT_BACK
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

logger = logging.getLogger(__name__)

SMALL_IMAGES = 64
"""Side up to which networks for small images are measured."""

FAMILIES = {
    "small": (
        ("wrn-10-1", "wrn-16-1", "wrn-16-2", "wrn-16-4", "wrn-28-4", "wrn-28-10"),
        ("resnet8", "resnet20", "resnet32", "resnet56", "resnet8x4", "resnet32x4"),
        ("shuffle-v2",),
        ("mobilenet-v2",),
        ("lenet-8-16-mlp-32", "lenet-16-32-mlp-64", "lenet-32-64-mlp-128"),
        ("mlp-32", "mlp-64-64", "mlp-256-256"),
    ),
    "large": (
        (
            "torchvision/mobilenet_v3_small",
            "torchvision/mobilenet_v3_large",
            "torchvision/efficientnet_b0",
            "torchvision/efficientnet_b1",
            "torchvision/efficientnet_b2",
        ),
        (
            "torchvision/shufflenet_v2_x0_5",
            "torchvision/shufflenet_v2_x1_0",
            "torchvision/shufflenet_v2_x1_5",
            "torchvision/shufflenet_v2_x2_0",
        ),
        ("torchvision/resnet18", "torchvision/resnet34", "torchvision/resnet50"),
    ),
}
"""Networks of each family by the time that they take, the fastest first."""

KEPT = 2
"""Networks of a family that are searched: the largest that keep within the latency."""

TRIALS, MOST_TRIALS = 20, 1000
"""Trials that are planned to know what one takes, and the most that are proposed."""


@dataclass(frozen=True)
class Measured:
    """A network and its latency in milliseconds."""

    model: str
    milliseconds: float


def networks_within(
    study: StudyDefinition, shape: tuple[int, int, int], limit: float
) -> list[Measured]:
    """The largest networks of each family that answer within `limit` milliseconds on this machine,
    as `search.latency` of the study has it measured; into its store nothing is written.

    Args:
        study: A study of the data set, whose search limits the latency.
        shape: Its images (C, H, W).
        limit: Milliseconds.

    Raises:
        RequestError: no network that was measured keeps within the limit.
    """
    families = FAMILIES["small" if min(shape[1:]) <= SMALL_IMAGES else "large"]
    kept: list[Measured] = []
    timed: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="distill-ray-latency-") as folder:
        meter = CostMeter(study, data_of(study), Store.open(folder))
        for family in families:
            within: list[Measured] = []
            for model in family:
                if not _takes(model, shape):
                    continue
                measured = Measured(model, meter.of_model(model)[f"cost/{LATENCY}"])
                timed.append(measured)
                if measured.milliseconds > limit:
                    break  # those after it are slower
                within.append(measured)
            kept += within[-KEPT:]
    if not kept:
        best = min(timed, key=lambda network: network.milliseconds)
        raise RequestError(
            f"--latency-ms {limit:g}: none of {len(timed)} networks that were measured keeps "
            f"within it; the fastest, {best.model}, takes {best.milliseconds:.3g} ms"
        )
    return kept


def _takes(model: str, shape: tuple[int, int, int]) -> bool:
    """Whether the network can take images of that shape."""
    try:
        check_model_name(model, shape)
    except ValueError:
        return False
    return True


def trials_within(study: StudyDefinition, budget: float) -> int:
    """As many trials as fit into `budget` seconds on this machine, for a study whose search has
    `TRIALS` of them and whose store is empty.

    Raises `RequestError` when the budget leaves no time for a trial.
    """
    with tempfile.TemporaryDirectory(prefix="distill-ray-plan-") as folder:
        stages = plan_study(StudyState(study, data_of(study), Store.at(f"{folder}/store")))
    (search,) = (stage for stage in stages if stage.stage == SEARCH)
    others = sum(stage.seconds for stage in stages if stage.stage != SEARCH)
    seconds = (search.likely_seconds - search.start_up) / study.search.trials
    left = (1 - KEPT_BACK) * budget - others - search.start_up
    trials = min(MOST_TRIALS, int(left / seconds))
    if trials < 1:
        raise RequestError(
            f"--budget {duration(budget)}: is too short; teachers and confirmations alone take "
            f"about {duration(others + search.start_up)} on this machine, and a trial "
            f"{duration(seconds)}; raise it"
        )
    return trials


def measured_text(networks: Sequence[Measured]) -> str:
    """`wrn-16-2 1.2 ms, resnet20 0.8 ms and mlp-32 0.1 ms`."""
    return listed([f"{network.model} {network.milliseconds:.3g} ms" for network in networks])
