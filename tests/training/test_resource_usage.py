"""What training uses of the machine: this process's processor and memory, and counters of energy as
Linux has them.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch

from distill_ray.training import Worker
from distill_ray.training.resource_usage import Usage, energy_counter

CPU = torch.device("cpu")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two processor packages, one with a part that it counts too, as Linux shows them."""
    for name, microjoules in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:1", 1_000_000),
        ("intel-rapl:0:0", 700_000),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    return tmp_path


def test_energy_is_that_of_all_packages_over_the_end_of_their_counters(powercap: Path) -> None:
    joules = energy_counter(CPU, None, powercap)
    assert joules() == 0
    (powercap / "intel-rapl:0" / "energy_uj").write_text("9000000")
    (powercap / "intel-rapl:1" / "energy_uj").write_text("1500000")
    assert joules() == pytest.approx(4.5)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("1000000")
    assert joules() == pytest.approx(4.5 + 2)


def test_where_nothing_is_reported_nothing_is_said(tmp_path: Path) -> None:
    assert math.isnan(energy_counter(CPU, None, tmp_path)())
    assert math.isnan(energy_counter(torch.device("cuda"), None)())


def test_usage_is_that_of_the_time_since_it_was_last_asked(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "distill_ray.training.resource_usage.energy_counter",
        lambda device, gpu: energy_counter(device, gpu, powercap),
    )
    usage = Usage(Worker(CPU), share=0.5)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    (powercap / "intel-rapl:0" / "energy_uj").write_text("9000000")
    busy = usage.since_last()
    assert 0 < busy["system/cpu_utilization_percentage"] < 200
    assert 50 < busy["system/memory_usage_megabytes"] < 100_000
    assert busy["system/energy_joules"] == pytest.approx(2)
    assert busy["system/power_usage_watts"] > 0
    time.sleep(0.3)
    idle = usage.since_last()
    assert idle["system/cpu_utilization_percentage"] < busy["system/cpu_utilization_percentage"]
    assert idle["system/energy_joules"] == 0
