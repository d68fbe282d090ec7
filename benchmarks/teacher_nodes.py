"""The pass in which teachers answer: one Ray node of one core against two of them.

    uv run python benchmarks/teacher_nodes.py data/cifar100 --model resnet20

The nodes are on this machine, each in a session of its own: the scheduler of a busy machine shares
its cores between sessions. One node and two take turns; a pass is all of `run_answers`, in
processes that have answered before, as those have that trained the teachers. What is printed is its
wall-clock time, and the CPU time of the node that spent most: how long the pass takes where each
node has a core to itself. Teachers have random weights, which cost the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from distill_ray.events import Observer
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import STORED
from distill_ray.records import Predictions, save_job
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages.answer import answer_tasks, run_answers
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import load_dataset, make_network
from distill_ray.training.teacher_logits_key import SHARD

SHARDS = 8
"""In a pass: versions of as many images as a shard has."""
MOST_NODES = 2
PORT = 26379
JOINING = ("--address", f"127.0.0.1:{PORT}", "--num-cpus", "1")
RESOURCES = WorkerResources(sharing=STORED)

STUDY = """\
name: teacher-nodes
data: {{source: {data}, train: {images}, validation: 100}}
teachers: {{members: {members}, model: {model}, epochs: 1}}
student: {{model: wrn-16-2, method: kd, epochs: {versions}, versions: {versions}}}
search:
  {{trials: 1, objectives: {{val/nll: min}}, scheduler: none, space: {{lr: {{log: [0.01, 1]}}}}}}
"""


def with_teachers(study: StudyDefinition, store: Store) -> None:
    """Put teachers that learned nothing into the store."""
    data = data_of(study)
    dataset = load_dataset(data)
    labels = dataset.labels[dataset.validation]
    even = np.full((len(labels), dataset.num_classes), -np.log(dataset.num_classes), np.float32)
    for run in teacher_runs(study, data):
        save_job(
            store,
            run.job,
            weights=dict(make_network(run.job, dataset).state_dict()),
            epochs=[{"epoch": 1, "time": 0.0, "seconds": 0.0, "val/nll": 0.0}],
            kept_epoch=1,
            predictions=Predictions(even, labels),
            parameters=0,
        )


def started(*options: str) -> subprocess.Popen[bytes]:
    """A Ray node, once it is part of the cluster."""
    import ray

    before = len(ray.nodes()) if ray.is_initialized() else 0
    ray_command = str(Path(sys.executable).with_name("ray"))
    node = subprocess.Popen(
        [ray_command, "start", "--block", "--disable-usage-stats", *options],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not ray.is_initialized() or len(ray.nodes()) == before:
        time.sleep(0.5)
        if not ray.is_initialized():
            with contextlib.suppress(ConnectionError):
                ray.init(f"127.0.0.1:{PORT}")
    return node


def ended(node: subprocess.Popen[bytes]) -> None:
    """End a node with all of its processes."""
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    node.wait()


def cpu_seconds(node: subprocess.Popen[bytes]) -> float:
    """What the processes of a node have spent so far."""
    spent = 0.0
    for process in psutil.Process(node.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def one_pass(
    study: StudyDefinition, store: Store, nodes: Sequence[subprocess.Popen[bytes]]
) -> tuple[float, float]:
    """Wall-clock seconds of a pass, and the CPU seconds of the node that spent most."""
    store.delete("teacher_logits")
    asked = StudyState(study, data_of(study), store).answers()
    tasks = answer_tasks(asked, store, RESOURCES)
    with Cluster() as cluster:  # the one that this process is connected to
        cluster.connect()
        run_answers(cluster, tasks[SHARDS : SHARDS + len(nodes)], RESOURCES, Observer())
        before = [cpu_seconds(node) for node in nodes]
        begun = time.perf_counter()
        run_answers(cluster, tasks[:SHARDS], RESOURCES, Observer())
        seconds = time.perf_counter() - begun
        after = [cpu_seconds(node) for node in nodes]
    return seconds, max(now - then for now, then in zip(after, before, strict=True))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Teachers on one node and on two.")
    parser.add_argument("data", help="a data set of at least 4,196 images")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ |= {
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    import ray  # which reads them

    folder = Path(tempfile.mkdtemp())
    file = folder / "teacher-nodes.yaml"
    settings = {
        "data": Path(arguments.data).absolute(),
        "images": SHARD,
        "versions": SHARDS + MOST_NODES,
    }
    file.write_text(STUDY.format(model=arguments.model, members=arguments.members, **settings))
    study, store = load_study(file, []), Store.open(str(folder / "store"))
    with_teachers(study, store)
    nodes = [started("--head", "--port", str(PORT), "--num-cpus", "0")]
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    try:
        nodes.append(started(*JOINING))
        for _ in range(arguments.rounds):
            found[1].append(one_pass(study, store, nodes[1:]))
            nodes.append(started(*JOINING))
            found[2].append(one_pass(study, store, nodes[1:]))
            ended(nodes.pop())
            print(f"load {os.getloadavg()[0]:.0f}: {found[1][-1]} {found[2][-1]}", flush=True)
    finally:
        ray.shutdown()
        for node in reversed(nodes):
            ended(node)
        shutil.rmtree(folder)
    for number, name in enumerate(("wall-clock", "CPU")):
        ratios = [one[number] / two[number] for one, two in zip(found[1], found[2], strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"one node's {name} time over that of two: {shown}")


if __name__ == "__main__":
    main()
