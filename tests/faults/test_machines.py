"""Machines of a cluster that go away. The study then has the same results, to the byte, as one that
was left alone.
"""

from __future__ import annotations

import time
from typing import Any

JOINING = ("--num-cpus", "1", "--object-store-memory", "100000000")


def test_a_node_killed_and_another_one_joining(
    steady: Any, undisturbed: Any, machines: Any
) -> None:
    """Whatever ran on it runs on from its checkpoint elsewhere."""
    study = steady("--address", machines.address)
    study.environment = machines.environment
    lost, _ = [machines.start("--address", machines.address, *JOINING) for _ in range(2)]
    with study.running() as driver:
        driver.wait_for("[search] trial 001")
        before = driver.until_training(1)
        assert machines.kill(lost) > 2
        machines.start("--address", machines.address, *JOINING)
        assert driver.ended() == 0, "".join(study.printed)
    study.goes_on_from(before)
    assert study.results() == undisturbed.results()


def test_the_head_killed_started_again_and_the_study_with_it(
    steady: Any, undisturbed: Any, machines: Any
) -> None:
    """The driver ends by itself; the same command on the new cluster goes on."""
    study = steady("--address", machines.address)
    study.environment = machines.environment
    node = machines.start("--address", machines.address, *JOINING)
    with study.running() as driver:
        driver.wait_for("[search] trial 000")
        before = driver.until_training(1)
        machines.kill(machines.nodes[0])
        machines.kill(node)
        began = time.monotonic()
        assert driver.ended(300) not in (0, 2), "".join(study.printed)
    print(
        f"without its head the driver ended after {time.monotonic() - began:.0f} s: "
        f"{study.printed[-3:]}"
    )
    machines.start_head()
    machines.start("--address", machines.address, *JOINING)
    study.finish()
    study.goes_on_from(before)
    assert study.results() == undisturbed.results()
