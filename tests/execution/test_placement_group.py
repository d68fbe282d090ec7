"""The placement group of a job of several workers, in a real Ray cluster."""

from __future__ import annotations

import ray
from ray.util.placement_group import placement_group, placement_group_table

from distill_ray.execution.cluster import Cluster
from distill_ray.execution.placement_group import release, resource_tag


def test_the_place_of_a_killed_job_goes_to_the_next_and_no_other_is_touched() -> None:
    with Cluster() as cluster:
        cluster.connect()
        half = ray.cluster_resources()["CPU"] / 2
        killed, alive, waiting = (
            placement_group([{"CPU": half, "memory": resource_tag(job)}])
            for job in ("killed", "alive", "waiting")
        )
        assert killed.wait(60) and alive.wait(60)
        assert not waiting.wait(1)
        release("killed")
        assert waiting.wait(60)
        assert placement_group_table(alive)["state"] == "CREATED"
        assert placement_group_table(killed)["state"] == "REMOVED"
        assert len({resource_tag("killed"), resource_tag("alive"), resource_tag("waiting")}) == 3
