"""The placement group of a job of several workers: how it is known, and given back when the job
died.
"""

from __future__ import annotations

import hashlib
import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

LAST_MOMENTS = 1.0
"""Seconds in which the processes that a killed one had started end too; until then they may still
ask for a place.
"""


def mark(job_id: str) -> int:
    """Bytes of memory, at most 16 MiB, that each worker of a job asks for beside its processors.

    Its placement group is known by them, since Ray Train gives it no name. They differ from driver
    to driver.
    """
    driver = ray.get_runtime_context().get_job_id()
    return 1 + int(hashlib.sha256(f"{driver} {job_id}".encode()).hexdigest()[:6], 16)


def release(job_id: str) -> None:
    """Remove the placement group of a job whose processes were killed, if it still has one.

    Ray keeps it for as long as the driver lives where the process that led the workers is gone, and
    whatever runs next would wait for the place. Ray Train has a cleaner of its own, which needs a
    dashboard and only one cluster on the machine.
    """
    time.sleep(LAST_MOMENTS)
    for name, group in placement_group_table().items():
        marks = {bundle.get("memory") for bundle in group["bundles"].values()}
        if mark(job_id) in marks and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
