"""A process or a node killed while teachers answer ahead of the students: another one answers for
its shards, to the byte as if nothing had been lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill_ray.events import Observer
from distill_ray.execution.cluster import Cluster
from distill_ray.stages.answer import run_answers
from distill_ray.store import MANIFEST, Store
from support.answering import RESOURCES, tasks_of

VERSIONS = 64
"""Of two augmentations: as many tasks as the stage has at most."""

IMAGES = 96
"""In the training split."""

ANSWERING = Path(__file__).parents[1] / "support" / "answering.py"


def answers_in(store: Path) -> dict[str, bytes]:
    """What teachers have answered, by key, version and shard."""
    files = store.glob("teacher_logits/*/*/*/*/logits.arrow")
    return {str(file.parents[1].relative_to(store)): file.read_bytes() for file in files}


def manifests_in(store: Path) -> list[Path]:
    """One for each piece that is complete."""
    return list(store.glob(f"teacher_logits/*/*/*/{MANIFEST}"))


def complete_files(store: Path) -> set[Path]:
    """The answers of each piece that is complete; whoever makes one gives its folder a new name."""
    return {next(file.parent.glob("*/logits.arrow")) for file in manifests_in(store)}


@pytest.fixture(scope="module")
def undisturbed(finished_study: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The answers of one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(finished_study.store.uri, folder)
    for task in tasks_of(str(finished_study.file), Store.open(str(folder)), VERSIONS):
        for _ in task.work():
            pass
    return answers_in(folder)


def one_at_work(store: Path, above: Sequence[int]) -> tuple[int, psutil.Process]:
    """A process that does a task, once some are done, and which of those `above` it is below."""
    limit = time.monotonic() + 900
    while time.monotonic() < limit:
        for root in above:
            for each in psutil.Process(root).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    at_work = "Trainable.train" in " ".join(each.cmdline())
                    if at_work and len(manifests_in(store)) >= 4:
                        return root, each
        time.sleep(0.05)
    raise TimeoutError


def test_shards_of_a_process_that_is_lost(
    finished_study: Any,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "store"
    store = Store.open(str(shutil.copytree(finished_study.store.uri, folder)))
    there: list[int] = []

    def kill() -> None:
        one_at_work(folder, [os.getpid()])[1].kill()
        there.append(len(manifests_in(folder)))

    killing = threading.Thread(target=kill)
    killing.start()
    with Cluster() as cluster:
        cluster.connect()
        run_answers(
            cluster, tasks_of(str(finished_study.file), store, VERSIONS), RESOURCES, Observer()
        )
    killing.join()
    assert there[0] < len(undisturbed), "nothing was left to do, so nothing is proven"
    assert "is started again" in caplog.text
    assert answers_in(folder) == undisturbed
    assert tasks_of(str(finished_study.file), store, VERSIONS) == []


def test_shards_of_a_node_that_is_lost(
    finished_study: Any, undisturbed: dict[str, bytes], machines: Any, tmp_path: Path
) -> None:
    """The other node answers for them. What the store had when the node went is not answered
    again.
    """
    folder = Path(shutil.copytree(finished_study.store.uri, tmp_path / "store"))
    joining = ("--num-cpus", "1", "--object-store-memory", "100000000")
    nodes = {
        node.pid: node
        for node in [machines.start("--address", machines.address, *joining) for _ in range(2)]
    }
    command = [sys.executable, str(ANSWERING), str(finished_study.file), str(folder)]
    answering = subprocess.Popen(
        [*command, machines.address, str(VERSIONS)],
        env=machines.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lost, _ = one_at_work(folder, list(nodes))
        machines.kill(nodes[lost])
        before = complete_files(folder)
        printed, said = answering.communicate(timeout=900)
    finally:
        answering.kill()
    assert answering.returncode == 0, said
    assert len(before) < len(undisturbed), "nothing was left to do, so nothing is proven"
    assert answers_in(folder) == undisturbed
    assert before <= complete_files(folder)
    assert 0 < int(printed.split()[-1]) <= IMAGES * len(undisturbed)
    print(f"{len(before)} of {len(undisturbed)} shards were there when the node was lost")
