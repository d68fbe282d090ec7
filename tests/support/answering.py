"""Lets the teachers of a study answer on a Ray cluster, and prints for how many images they did:

python answering.py STUDY.yaml STORE ADDRESS VERSIONS
"""

from __future__ import annotations

import sys

from distill_ray.events import Answered, Observer
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import STORED
from distill_ray.resolve import data_of
from distill_ray.stages.answer import AnswerTask, answer_tasks, run_answers
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import load_study

RESOURCES = WorkerResources(sharing=STORED)


class Counting(Observer):
    """Adds up the images of the tasks that ended."""

    images = 0

    def answered(self, answered: Answered) -> None:
        self.images += answered.images


def tasks_of(file: str, store: Store, versions: int) -> list[AnswerTask]:
    """What the teachers have yet to answer."""
    study = load_study(file, [f"student.versions={versions}", f"student.epochs={versions}"])
    return answer_tasks(StudyState(study, data_of(study), store).answers(), store, RESOURCES)


if __name__ == "__main__":
    file, folder, address, versions = sys.argv[1:]
    counting = Counting()
    with Cluster(address) as cluster:
        cluster.connect()
        tasks = tasks_of(file, Store.open(folder), int(versions))
        run_answers(cluster, tasks, RESOURCES, counting)
    print(counting.images)
