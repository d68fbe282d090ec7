"""What the trials of a search cost, known before they are trained: counted, and, for the latency,
measured once per architecture and kept in the store.
"""

from __future__ import annotations

import hashlib
import logging
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.data import image_shape, open_source
from distill_ray.job import Data, Recipe, canonical_json
from distill_ray.metric import COSTS
from distill_ray.store import Record, Store
from distill_ray.study import StudyDefinition
from distill_ray.study.compatibility import combinations
from distill_ray.study.space import Label

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from distill_ray.cost.timing import Timing
    from distill_ray.data import Source
    from distill_ray.study.sections import Latency

logger = logging.getLogger(__name__)

LATENCY = "latency-ms"


class CostMeter:
    """The costs of what a study's trials can be: those that its search optimises or limits, and the
    counted ones with them. A study that asks for none has none.
    """

    def __init__(self, study: StudyDefinition, data: Data, store: Store) -> None:
        self._study = study
        self._store = store
        self._data = data
        self._counted: dict[Any, tuple[str, dict[str, float]]] = {}
        self._latencies: dict[str, float] = {}

    def of(self, drawn: Mapping[str, Label]) -> dict[str, float]:
        """The costs of the trial that has drawn these labels, as `cost/<name>`."""
        if not self._study.search.asks_for_costs:
            return {}
        return self._of(self._study.search.space.recipe(self._study.student, drawn))

    def of_model(self, model: str) -> dict[str, float]:
        """The costs of the student with another network, as `cost/<name>`."""
        return self._of(replace(self._study.student, model=model))

    def known(self, recipe: Recipe) -> dict[str, float]:
        """The costs of a network as far as they are known without measuring now; none where the
        search asks for none.
        """
        if not self._study.search.asks_for_costs or recipe.answers_alone:
            return {}
        costs = self._of(recipe, latency=False)
        if self._study.search.asks_for_latency:
            architecture, _ = self._counted[_kind(recipe)]
            if (record := self._store.get(self._key(architecture))) is not None:
                costs[f"cost/{LATENCY}"] = _median(record)
        return costs

    def check(self, *, measuring: bool) -> None:
        """Check the limits against everything that the search can draw. With `measuring`, which is
        for when nothing else runs here yet, latencies are measured, else only those limits are
        checked that need none.

        Raises `RequestError` when no student keeps within the limits.
        """
        study, search = self._study, self._study.search
        limits = dict(search.limits)
        if not measuring:
            limits.pop(LATENCY, None)
        if not limits and not (measuring and search.asks_for_latency):
            return
        recipes = [
            search.space.recipe(study.student, drawn) for drawn in combinations(search.space)
        ]
        costs = [self._of(recipe, latency=measuring) for recipe in recipes]
        for name, limit in limits.items():
            least = min(cost[f"cost/{name}"] for cost in costs)
            if least > limit:
                message = (
                    f"found {_number(limit)}, and no student that can be drawn keeps within it: "
                    f"the least is {_number(least)}; raise it, or offer a smaller model"
                )
                raise study.error([(f"search.limits.{name}", message)])
        if measuring and search.asks_for_latency:  # what students are compared with
            teachers = [group.recipe for group in study.teachers]
            others = [recipe for recipe in teachers if not recipe.answers_alone]
            for recipe in [*others, *study.confirm.baselines.values()]:
                self._of(recipe)
        if all(exceeded(cost, limits) for cost in costs):
            message = "no student that can be drawn keeps within all of them at once"
            raise study.error([("search.limits", message)])

    def _of(self, recipe: Recipe, *, latency: bool = True) -> dict[str, float]:
        kind = _kind(recipe)
        if kind not in self._counted:
            self._counted[kind] = self._count(recipe)
        architecture, costs = self._counted[kind]
        if latency and self._study.search.asks_for_latency:
            if architecture not in self._latencies:
                self._latencies[architecture] = self._latency(architecture, recipe)
            costs = costs | {LATENCY: self._latencies[architecture]}
        return {f"cost/{name}": costs[name] for name in COSTS if name in costs}

    def _count(self, recipe: Recipe) -> tuple[str, dict[str, float]]:
        """The architecture, the same for networks that take the same time, and its counts."""
        from distill_ray.cost.counts import counted_costs

        outline, shape = self._network(recipe, outlined=True)
        shapes = {name: list(tensor.shape) for name, tensor in outline.state_dict().items()}
        kind = type(outline).__qualname__  # methods of one network share what was measured
        architecture = canonical_json([recipe.model, kind, list(shape), shapes])
        return architecture, counted_costs(outline, shape)

    def _network(
        self, recipe: Recipe, *, outlined: bool = False
    ) -> tuple[nn.Module, tuple[int, int, int]]:
        from distill_ray.cost.counts import deployed_network

        shape = image_shape(self._source, self._data.size)
        outputs = self._source.num_classes if self._source.task == "classification" else 2
        network = deployed_network(recipe, outputs, shape, self._source.task, outlined=outlined)
        return network, shape

    @cached_property
    def _source(self) -> Source:
        return open_source(
            self._data.location, label=self._data.label, cuts_test=self._data.cuts_test
        )

    def _latency(self, architecture: str, recipe: Recipe) -> float:
        """The latency as the store has it of this machine, or measured now."""
        wanted, key = self._study.search.latency, self._key(architecture)
        record = self._store.get(key)
        if record is None:
            network, (channels, height, width) = self._network(recipe)
            images = _images((wanted.batch_size, height, width, channels), self._source.real_valued)
            with _answering(wanted, network, images) as run:
                timing = _timed(run, wanted.threads)
            about = self._identity(architecture) | {"model": recipe.model}
            record = self._store.put(key, {}, about | {"timing": asdict(timing)})
            logger.info(
                "%s answers in %.3g ms (95 %% of the time in %.3g ms) with %s in %s, batch size %d",
                recipe.model,
                timing.median,
                timing.percentile_95,
                wanted.engine,
                wanted.precision,
                wanted.batch_size,
            )
            if timing.disturbed == 1:
                logger.warning(
                    "this machine is so busy that hardly any of these runs was left alone; the "
                    "latency of %s is probably lower",
                    recipe.model,
                )
        return _median(record)

    def _identity(self, architecture: str) -> dict[str, Any]:
        """What a latency depends on."""
        wanted = self._study.search.latency.to_file()
        return {"of": architecture, "machine": _machine(), **wanted}

    def _key(self, architecture: str) -> str:
        identity = canonical_json(self._identity(architecture))
        return posixpath.join("latencies", hashlib.sha256(identity.encode()).hexdigest()[:20])


def _kind(recipe: Recipe) -> tuple[Any, ...]:
    """What of a recipe decides its network."""
    return recipe.model, recipe.method, recipe.preprocessing


def _median(record: Record) -> float:
    return float(record.info["timing"]["median"])


def exceeded(costs: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """The costs that are over their limits, by name; one that is not known is not."""
    return {
        name: costs[f"cost/{name}"]
        for name, limit in limits.items()
        if costs.get(f"cost/{name}", 0.0) > limit
    }


def constraints(costs: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """The limits as Optuna has constraints: how far above its limit a cost is, as a share of it;
    at most 0 where it is met.
    """
    return {name: costs[f"cost/{name}"] / limit - 1 for name, limit in limits.items()}


def excess_text(costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """`parameters 77,562 over the limit 50,000`: why a trial is infeasible."""
    return ", ".join(
        f"{name} {_number(value)} over the limit {_number(limits[name])}"
        for name, value in exceeded(costs, limits).items()
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _machine() -> dict[str, str]:
    """What the time of a network depends on besides itself."""
    import torch

    from distill_ray.training.device import device_name

    return {"device": device_name(torch.device("cpu")), "torch": torch.__version__}


def _images(shape: tuple[int, int, int, int], real_valued: bool) -> np.ndarray:
    import numpy as np

    generator = np.random.default_rng(0)
    if real_valued:
        return generator.standard_normal(shape).astype(np.float32)
    return generator.integers(0, 256, shape).astype(np.uint8)


def _timed(run: Callable[[], object], threads: int) -> Timing:
    from distill_ray.cost.timing import time_runs

    return time_runs(run, threads)


@contextmanager
def _answering(
    wanted: Latency, network: nn.Module, images: np.ndarray
) -> Iterator[Callable[[], object]]:
    """What answers one batch of images with the network as it is deployed."""
    import torch

    from distill_ray.export.formats import Classifier, write_graph
    from distill_ray.training.device import autocast

    classifier = Classifier(network, 1.0).eval()
    if wanted.engine == "onnxruntime":
        from distill_ray.export.int8 import quantise_graph
        from distill_ray.export.load import graph_session

        with tempfile.TemporaryDirectory(prefix="distill-ray-latency-") as folder:
            file = Path(folder, "model.onnx")
            write_graph(classifier, torch.from_numpy(images), file)
            if wanted.precision == "int8":
                quantise_graph(file, [images])  # ranges do not bear on the time
            session = graph_session(file, threads=wanted.threads)
            yield lambda: session.run(["probabilities"], {"images": images})
        return
    before = torch.get_num_threads()
    torch.set_num_threads(wanted.threads)
    try:
        with torch.inference_mode(), autocast(torch.device("cpu"), wanted.precision):
            batch = torch.from_numpy(images)
            yield lambda: classifier(batch)
    finally:
        torch.set_num_threads(before)
