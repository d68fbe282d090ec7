"""The machines of a Ray cluster: those that are there, and those that its autoscaler may add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from distill_ray.execution.resources import WorkerResources

AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"
"""Where `ray up` leaves, on the head, what the autoscaler may add."""


@dataclass(frozen=True)
class Machines:
    """Machines of one kind: what each of them offers, and how many there are or may be."""

    offers: Mapping[str, float]
    count: float = 1

    def workers(self, resources: WorkerResources) -> float:
        """How many workers fit on them together. A worker does not spread over two machines, nor a
        part of a GPU over two GPUs.
        """
        fit = self.offers.get("CPU", 0) / resources.cpus
        gpus = self.offers.get("GPU", 0)
        if 0 < resources.gpus < 1:
            fit = min(fit, gpus * int(1 / resources.gpus + 1e-9))
        elif resources.gpus:
            fit = min(fit, gpus / resources.gpus)
        on_each = int(fit + 1e-9)
        return on_each * self.count if on_each else 0  # 0 machines of infinitely many are 0


def workers_on(machines: Sequence[Machines], resources: WorkerResources) -> float:
    """How many workers fit on all of the machines."""
    return sum(kind.workers(resources) for kind in machines)


def total(machines: Sequence[Machines], resource: str) -> float:
    """How much of a resource, `CPU` or `GPU`, all of the machines have."""
    offering = [kind for kind in machines if kind.offers.get(resource)]
    return sum(kind.offers[resource] * kind.count for kind in offering)


def present_machines() -> list[Machines]:
    """The machines that are in the cluster now."""
    import ray

    return [Machines(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def possible_machines() -> list[Machines]:
    """What the cluster can have at most, as its autoscaler says; empty where there is none, or
    where it does not say.
    """
    from distill_ray.execution._ray_internals import autoscaler_groups

    groups = autoscaler_groups()
    if groups:
        return [Machines(offers, count) for offers, count in groups]
    try:
        file = yaml.safe_load(Path(AUTOSCALER_FILE).expanduser().read_text())
        kinds, head = file["available_node_types"], file["head_node_type"]
        machines = [Machines(kinds[head]["resources"])]
        left = file["max_workers"]
        for name, kind in kinds.items():
            if name != head:
                count = min(left, kind.get("max_workers", 0))
                left -= count
                machines.append(Machines(kind.get("resources", {}), count))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    return machines
