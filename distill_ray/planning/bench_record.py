"""What `bench` has measured of a study, kept in its store, so that `plan` need not judge by a few
steps of its own: of the machine at hand, and by name of others.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from dataclasses import dataclass, fields
from typing import Any

from distill_ray.errors import RequestError
from distill_ray.execution.machines import Machines
from distill_ray.execution.resources import WorkerResources
from distill_ray.planning.bench import Bench, machine_name
from distill_ray.registry import unknown_name
from distill_ray.resolve import data_of
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

_NAME = r"(?!\d+x)[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""Of a record: a part of a file's name that does not read like a number of machines."""

_PREFIX = "bench-"


@dataclass(frozen=True)
class Elsewhere:
    """Machines that a study is planned for: `count` GPUs where the bench is of a GPU, otherwise
    machines with so many `cpus`.
    """

    name: str
    count: int
    bench: Bench
    cpus: int

    @property
    def on_gpus(self) -> bool:
        """Whether the bench is of a GPU."""
        return self.bench.device != "cpu"

    def workers(self, resources: WorkerResources) -> int:
        """How many workers they hold together."""
        if self.on_gpus:
            return int(Machines({"CPU": math.inf, "GPU": self.count}).workers(resources))
        return int(Machines({"CPU": self.cpus}, self.count).workers(resources))

    def __str__(self) -> str:
        return f"{self.count} x {self.name}"


def check_name(name: str) -> None:
    """Raise `RequestError` when no record can be kept by that name."""
    if not re.fullmatch(_NAME, name):
        raise RequestError(f"--name {name!r}: must be letters, digits and . _ -, not 8xNAME")


def keep_bench(store: Store, study: StudyDefinition, bench: Bench, name: str | None = None) -> None:
    """Keep what was measured, by a name for other machines; it replaces what was there."""
    kept = {
        "of": _identity(study) | {"machine": bench.machine if name else machine_name()},
        "cpus": os.cpu_count() or 1,
        "bench": bench.to_dict(),
    }
    store.write(_path(study, name), json.dumps(kept, allow_nan=False).encode())


def kept_bench(store: Store, study: StudyDefinition) -> Bench | None:
    """What was measured of this student and these teachers on a machine like this one, or None."""
    kept = store.read_json(_path(study))
    if kept.get("of") != _identity(study) | {"machine": machine_name()}:
        return None
    return _bench(kept)


def bench_elsewhere(store: Store, study: StudyDefinition, on: str) -> Elsewhere:
    """The machines `on`, such as `8xh100`, whose bench was kept by that name.

    Raises:
        RequestError: there is no such record, or it is of another student, other teachers or data,
            or of another kind of device than the study asks for.
    """
    parts = re.fullmatch(rf"(?:(\d+)x)?({_NAME})", on)
    if parts is None or parts[1] == "0":
        raise RequestError(
            f"--on {on}: must be a name that bench kept, or such as 8x{on or 'NAME'}"
        )
    name, count = parts[2], int(parts[1] or 1)
    folder = posixpath.dirname(_path(study))
    known = [
        file.removeprefix(_PREFIX).removesuffix(".json")
        for file in store.names(folder)
        if file.startswith(_PREFIX) and file.endswith(".json")
    ]
    command = f"distill-ray bench {study.path} --name {name}"
    if name not in known:
        what = unknown_name("machine", name, known) if known else f"no machine is called {name}"
        raise RequestError(
            f"--on {on}: {what} in {store.shown}, {folder}; run `{command}` on such a machine, or "
            "copy the file that it wrote"
        )
    kept = store.read_json(_path(study, name))
    bench, of = _bench(kept), dict(kept.get("of") or {})
    of.pop("machine", None)
    if bench is None or of != _identity(study):
        raise RequestError(
            f"--on {on}: {name} was measured with another student, other teachers, data or "
            f"threads; run `{command}` there again"
        )
    machines = Elsewhere(name, count, bench, int(kept.get("cpus", 1)))
    if machines.on_gpus != bool(study.resources.gpus_per_worker):
        raise RequestError(
            f"--on {on}: {name} was measured on {bench.device}, and the study has "
            f"resources.gpus_per_worker: {study.resources.gpus_per_worker:g}"
        )
    return machines


def _bench(kept: dict[str, Any]) -> Bench | None:
    try:
        return Bench(**{field.name: kept["bench"][field.name] for field in fields(Bench)})
    except (KeyError, TypeError):
        return None  # another version wrote it


def _identity(study: StudyDefinition) -> dict[str, Any]:
    """What the times depend on, besides the machine."""
    content = study.to_dict()
    return {
        "threads": study.resources.cpus_per_worker,
        "student": content["student"],
        "teachers": content["teachers"],
        "data": data_of(study).digest,
    }


def _path(study: StudyDefinition, name: str | None = None) -> str:
    file = "bench.json" if name is None else f"{_PREFIX}{name}.json"
    return posixpath.join("studies", study.name, file)
