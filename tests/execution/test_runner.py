"""What runs side by side as Ray tasks, when machines go and when records are damaged."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray

from distill_ray.errors import DamagedError, RunError
from distill_ray.execution.cluster import Cluster, WorkerResources
from distill_ray.execution.runner import run_in_parallel


@dataclass
class Told:
    """Work that only tells something."""

    messages: list[dict[str, Any]]
    seconds: float = 0.0
    name: str = "something"
    workers: int = 1
    news: list[Any] = field(default_factory=list)

    def start(self, attempt: int) -> Any:
        self.news.append(("start", attempt))
        messages, seconds = self.messages, self.seconds

        def tell() -> Generator[dict[str, Any], None, None]:
            for message in messages:  # noqa: UP028 - Ray sends into a generator, which a list does not take
                yield message
            time.sleep(seconds)

        return ray.remote(num_returns="streaming", max_retries=0, num_cpus=0)(tell).remote()

    def heard(self, message: dict[str, Any]) -> None:
        if "failure" in message:
            raise RunError(message["failure"])
        self.news.append(message)

    def done(self) -> None:
        self.news.append("done")

    def lost(self) -> None:
        self.news.append("lost")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        made.connect()
        yield made


def test_it_waits_for_room_when_the_last_machine_is_gone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "capacity", lambda workers, resources: 0)
    work = [Told([{"epochs": 1}]), Told([{"epochs": 2}])]
    run_in_parallel(cluster, work, WorkerResources())
    assert [each.news for each in work] == [
        [("start", 0), {"epochs": 1}, "done"],
        [("start", 0), {"epochs": 2}, "done"],
    ]


def test_what_ran_beside_a_damaged_record_gives_its_places_back(cluster: Cluster) -> None:
    beside = Told([], seconds=600)
    with pytest.raises(DamagedError, match="it is gone"):
        run_in_parallel(cluster, [beside, Told([{"damaged": "it is gone"}])], WorkerResources())
    assert beside.news == [("start", 0), "lost"]


def test_a_failure_ends_it_all(cluster: Cluster) -> None:
    with pytest.raises(RunError, match="no"):
        run_in_parallel(
            cluster, [Told([{"failure": "no"}]), Told([], seconds=600)], WorkerResources()
        )


def test_an_error_of_the_task_itself_is_named_and_not_tried_again(cluster: Cluster) -> None:
    broken = Told([{"seconds": 1}], seconds="none")  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"^something: TypeError: "):
        run_in_parallel(cluster, [broken], WorkerResources())
    assert broken.news == [("start", 0), {"seconds": 1}, "lost"]
