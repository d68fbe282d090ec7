"""What training uses of the machine: processor, memory, and energy where the device counts it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from distill_ray.training.device import Worker

POWERCAP = Path("/sys/class/powercap")
"""Where Linux keeps the energy counters of processors (RAPL); most systems let only root read them.
"""


class Usage:
    """What this process has used since it was last asked, under the names that MLflow shows as
    system metrics.

    `system/cpu_utilization_percentage` is the process's own time over time that passed, 100 for
    each busy core; `system/memory_usage_megabytes` and `system/gpu_memory_usage_megabytes` are the
    most that it has held, the latter in this epoch; `system/gpu_utilization_percentage` is the
    device's, of the last moment. `system/energy_joules` is what the devices of all workers used,
    `system/power_usage_watts` the same per second. What a device does not report is left out.

    `share` is the part of a device that each worker has: of the energy of a GPU with two jobs on it
    each is charged half. Energy is that of the GPU, or of the processor where there is none;
    neither has the rest of the machine in it.
    """

    def __init__(self, worker: Worker, share: float = 1.0) -> None:
        self._worker, self._share = worker, share
        self._gpu = _nvml_handle(worker.device)
        self._energy = energy_counter(worker.device, self._gpu)
        self._before = self._now()

    def since_last(self) -> dict[str, float]:
        """The metrics by name. All workers of a data-parallel run call this together."""
        before, now = self._before, self._now()
        self._before = now
        passed, busy, joules = (later - earlier for later, earlier in zip(now, before, strict=True))
        device = self._worker.device
        joules = (
            self._worker.world_size
            * self._worker.mean(torch.tensor(self._share * joules, device=device)).item()
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        usage = {
            "cpu_utilization_percentage": 100 * busy / passed,
            "memory_usage_megabytes": peak / (1e6 if sys.platform == "darwin" else 1e3),
        }
        if device.type == "cuda":
            usage["gpu_memory_usage_megabytes"] = torch.cuda.max_memory_allocated(device) / 1e6
            torch.cuda.reset_peak_memory_stats(device)
        if self._gpu is not None:
            nvml, handle = self._gpu
            with suppress(nvml.NVMLError):
                usage["gpu_utilization_percentage"] = float(
                    nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                )
        if math.isfinite(joules):
            usage |= {"energy_joules": joules, "power_usage_watts": joules / passed}
        return {f"system/{name}": value for name, value in usage.items()}

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), self._energy()


def energy_counter(
    device: torch.device, gpu: tuple[Any, Any] | None, powercap: Path = POWERCAP
) -> Callable[[], float]:
    """A function that returns the joules `device` has used since a fixed moment; NaN where it does
    not report them.
    """
    if device.type == "cuda":
        return lambda: _gpu_joules(gpu)
    return _Packages(powercap)


def _nvml_handle(device: torch.device) -> tuple[Any, Any] | None:
    """NVIDIA's management library and its handle of a GPU, or None: of a part of one (MIG) it
    reports nothing.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        )
    except Exception:  # no library, no driver, or another vendor's device
        return None


def _gpu_joules(gpu: tuple[Any, Any] | None) -> float:
    if gpu is None:
        return math.nan
    nvml, handle = gpu
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except nvml.NVMLError:
        return math.nan


class _Packages:
    """The counters of all processor packages, which begin again at 0 where they have come to their
    end.
    """

    def __init__(self, powercap: Path) -> None:
        self._folders = sorted(
            folder for folder in powercap.glob("intel-rapl:*") if folder.name.count(":") == 1
        )
        self._last: dict[Path, float] = {}
        self._total = 0.0

    def __call__(self) -> float:
        if not self._folders:
            return math.nan
        try:
            for folder in self._folders:
                value = float((folder / "energy_uj").read_text())
                step = value - self._last.get(folder, value)
                self._total += (
                    step
                    if step >= 0
                    else step + float((folder / "max_energy_range_uj").read_text())
                )
                self._last[folder] = value
        except (OSError, ValueError):
            return math.nan
        return self._total / 1e6
