"""Jobs trained by two processes that share each batch. Run as a module, this is one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill_ray.job import Job
from distill_ray.testing.jobs import CPU, result_of
from distill_ray.training import Worker

PATIENCE_S = 1500


def results_of_two_workers(
    jobs: Sequence[Job], folder: Path
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What `result_of` returns on each of two workers, for each job. `folder` is an empty one."""
    (folder / "jobs.json").write_text(json.dumps([job.to_dict() for job in jobs]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-m", __name__, str(folder)]
    workers = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=PATIENCE_S)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    results = []
    for number in range(len(jobs)):
        first, second = (load_file(folder / f"{number}-{rank}.safetensors") for rank in range(2))
        results.append((first, second))
    return results


def _work(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for number, job in enumerate(json.loads((folder / "jobs.json").read_text())):
        result = result_of(Job.from_dict(job), Worker(CPU.device, rank, 2))
        save_file(result, folder / f"{number}-{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
