"""The placement group of a job of several workers: how it is recognised, and released when the job
died.
"""

from __future__ import annotations

import hashlib
import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

GRACE_S = 1.0
"""Grace period for the child processes of a killed worker, which may still request resources."""


def resource_tag(job_id: str) -> int:
    """Bytes of memory, at most 16 MiB, that each worker of a job asks for beside its processors.

    They identify its placement group, to which Ray Train gives no name, and differ from driver to
    driver.
    """
    driver = ray.get_runtime_context().get_job_id()
    return 1 + int(hashlib.sha256(f"{driver} {job_id}".encode()).hexdigest()[:6], 16)


def release(job_id: str) -> None:
    """Remove the placement group of a job whose processes were killed, if it still has one.

    Ray keeps it for as long as the driver lives where the process that led the workers is gone, and
    what runs next would wait for the place. Ray Train has a cleaner of its own, which needs a
    dashboard and only one cluster on the machine.
    """
    time.sleep(GRACE_S)
    for name, group in placement_group_table().items():
        tags = {bundle.get("memory") for bundle in group["bundles"].values()}
        if resource_tag(job_id) in tags and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
