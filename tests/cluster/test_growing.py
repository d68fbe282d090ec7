"""A cluster whose autoscaler may add machines: what it can never have is refused at once, what may
come is waited for.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TINY = Path(__file__).parents[1] / "tiny.yaml"

pytestmark = pytest.mark.slow


def test_machines_that_may_come(machines: Any, tmp_path: Path) -> None:
    """The head has no CPU, and the file that `ray up` leaves there allows two workers; this test is
    the autoscaler.
    """
    types = {"head": {"resources": {"CPU": 0}}, "spot": {"resources": {"CPU": 1}, "max_workers": 2}}
    allowed = {"max_workers": 2, "head_node_type": "head", "available_node_types": types}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(allowed))
    environment = machines.environment | {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    small = ("teachers.members=1", "search.trials=1", "confirm.seeds=1", "confirm.baselines=[]")
    command = machines.run(TINY, tmp_path / "s", *small)

    never = [*command, "--set", "resources.workers_per_trial=3"]
    refused = subprocess.run(
        never, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert (
        "resources.workers_per_trial: 3 workers of 1 CPU and 0 GPU do not fit the cluster"
        in refused.stderr
    )
    assert "has 0 CPU and 0 GPU in 1 machine and can grow to 2 CPU and 0 GPU" in refused.stderr
    assert "[teach" not in refused.stdout

    printed = ""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if "waiting for machines" in line:
                assert "the cluster has room for 0 of 1 worker" in line
                machines.start(
                    "--address",
                    machines.address,
                    "--num-cpus",
                    "1",
                    "--object-store-memory",
                    "100000000",
                )
    assert process.returncode == 0, printed
    assert "machines have joined: room for 1 worker" in printed
    assert "best found" in printed
